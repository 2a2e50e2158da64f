"""What runs on the same rows can and cannot be told apart by."""
