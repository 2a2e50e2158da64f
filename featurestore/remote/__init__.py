"""A cache on another machine, reached through its service: list, pull, open, embed."""
