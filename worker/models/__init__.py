"""Architectures in pure torch: VQGAN, the DALL-E transformer, CLIP's wrapper, and the mathematics that drives them.

Nothing of the rest of the product is imported here, nothing is loaded or seeded at import.
"""
