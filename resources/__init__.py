"""What assets reach outside with: paths, artifacts, keys, transfer, service clients."""
