"""From files on disk to models: the registry, strict loading, saving. A model is data, never a branch elsewhere."""
