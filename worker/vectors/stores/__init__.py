"""Where vectors are kept: LanceDB in a folder or a bucket, or a Qdrant server."""
