"""Operators' commands: they talk to Redis by the server's own settings."""
