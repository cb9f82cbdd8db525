"""Stage: who made what, what became of it, and which model saw it."""
