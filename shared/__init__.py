"""What the API and the workers agree on. No torch, no flask."""
