"""What may be wrong with a dataset, read off its committed features."""
