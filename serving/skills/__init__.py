"""Skills: problem spaces with generated questions, worked answers and exact scoring. Pure."""
