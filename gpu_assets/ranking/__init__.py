"""Stage: all scored checkpoints in order."""
