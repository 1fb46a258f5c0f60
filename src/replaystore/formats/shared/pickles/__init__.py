"""Pickles, read as inert data without running anything in them, and written piece by piece."""
