"""DALL-E 2's way: a prior, a decoder, and the diffusion under both."""
