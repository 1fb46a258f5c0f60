"""Datasets of LeRobot: v3.0 is read and written, v2.0 and v2.1 are read."""
