"""A VQGAN: pictures as codes, and back."""
