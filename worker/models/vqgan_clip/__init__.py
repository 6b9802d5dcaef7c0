"""VQGAN+CLIP: a latent that descends to where CLIP sees the prompt."""
