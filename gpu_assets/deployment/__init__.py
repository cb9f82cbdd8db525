"""Stage: what is served, decided, flipped and verified."""
