"""Stores that a server of `replaystore serve` has, by their addresses: replay://host:port/runs/ant.zarr."""
