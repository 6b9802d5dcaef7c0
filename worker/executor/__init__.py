"""From a claim to a commit."""
