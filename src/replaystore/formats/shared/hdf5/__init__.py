"""HDF5 files of other software, read with nothing of them believed, and written."""
