"""Datasets of TFDS with episodes of steps (RLDS): read and written without TensorFlow."""
