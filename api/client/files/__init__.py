"""Folders and tables of pictures, on their way to a server."""
