"""Datasets of Minari: a folder whose `data/` holds a metadata.json and the episodes, in HDF5, Arrow or
Parquet.

What Minari itself has no place for lies where it does not look, so that a dataset that was written here comes
back exactly and opens in Minari all the same."""
