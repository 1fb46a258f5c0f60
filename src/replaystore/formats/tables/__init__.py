"""Tables of steps, one row a step: files of Parquet and of Arrow; and the table of trajectories as CSV."""
