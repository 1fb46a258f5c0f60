"""HDF5 files of Tianshou."""
