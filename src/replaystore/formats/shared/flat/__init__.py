"""Flat arrays, one row a step, one trajectory behind the other, in files of any kind."""
