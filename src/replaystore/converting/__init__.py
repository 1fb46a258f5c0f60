"""Any buffer into any other: stores, foreign files, and some trajectories of either."""
