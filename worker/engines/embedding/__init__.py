"""Texts and pictures as CLIP vectors, of all jobs in one batch."""
