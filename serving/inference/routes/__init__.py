"""The server's routes, by who uses them: each module translates HTTP to `pool` and `chat`, and back."""
