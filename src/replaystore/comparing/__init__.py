"""Whether two buffers hold the same: a digest of what is in one, and the first difference between two."""
