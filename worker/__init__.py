"""The GPU side: claims jobs, runs engines, uploads, commits. No flask."""
