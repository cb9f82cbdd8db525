"""Every HTTP process of the platform, and the pure skills they serve."""
