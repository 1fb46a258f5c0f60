"""What one commit of a buffer shows: its columns, its trajectories, its facts. Nothing here writes."""
