"""A store as a Zarr v3 folder, which any reader of Zarr v3 opens."""
