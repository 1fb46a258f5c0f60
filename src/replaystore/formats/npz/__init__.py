"""Files of NumPy's savez."""
