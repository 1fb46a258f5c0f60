"""What several formats of other software need: how kinds of files are read and written (HDF5, Zarr,
Arrow, pickles, flat arrays), new files that appear whole, and rows on their way out of a buffer."""
