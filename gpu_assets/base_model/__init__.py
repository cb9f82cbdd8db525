"""Stage: the starting weights of a line."""
