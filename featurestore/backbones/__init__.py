"""Backbones: Keras's ImageNet classifiers, their weights and their cut layers.

Importing this package loads no TensorFlow; `network`, `architecture`, `preprocessing` and `summary`
do, and are imported by whoever needs a network built.
"""
