"""The commands of the command line, one file per subject; api.client.cli loads them when they are called."""
