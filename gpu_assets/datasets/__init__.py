"""Datasets: what is dropped into the inbox, taken in as immutable, named artifacts."""
