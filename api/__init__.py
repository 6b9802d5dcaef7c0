"""The HTTP side. No torch."""
