"""A store as one HDF5 file, which any reader of HDF5 opens, and which only our own code writes to."""
