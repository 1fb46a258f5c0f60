"""Pickles of plain dicts of arrays."""
