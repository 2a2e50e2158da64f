"""A model to ship: one network from image to class probabilities, checked and described."""
