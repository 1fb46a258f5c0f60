"""The tables of parts and trajectories, selections over them, and how rows become trajectories. NumPy only,
no I/O."""
