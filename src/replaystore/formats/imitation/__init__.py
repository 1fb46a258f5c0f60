"""Trajectories that imitation saved."""
