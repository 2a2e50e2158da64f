"""Heads on features, and the runs that record them."""
