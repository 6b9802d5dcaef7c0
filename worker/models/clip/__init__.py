"""CLIP: two towers, one space."""
