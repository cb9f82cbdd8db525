"""Stage: frozen evaluation sets, and checkpoints scored on them."""
