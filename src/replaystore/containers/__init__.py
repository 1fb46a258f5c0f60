"""How arrays and one document lie in files: one folder for each container, and `protocol`, which says what
all of them do. A container knows nothing of steps or trajectories, and of no other container."""
