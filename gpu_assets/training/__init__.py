"""Stage: base model and checkpoints."""
