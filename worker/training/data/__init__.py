"""Pictures and captions to learn from."""
