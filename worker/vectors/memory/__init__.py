"""Vectors in memory: kept, ranked, grouped, page by page."""
