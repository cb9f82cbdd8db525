"""The command line: thin shells over the stages and the supervisor."""
