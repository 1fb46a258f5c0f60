"""HDF5 files of robomimic."""
