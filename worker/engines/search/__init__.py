"""The kinds that CLIP answers: of pictures named in a job, and of collections."""
