"""Zarr hierarchies of other software, read and written."""
