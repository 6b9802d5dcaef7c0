"""Transformers from text to image codes, and the sampler that draws from them."""
