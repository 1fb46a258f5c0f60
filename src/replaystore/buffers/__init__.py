"""Buffers as their users make, open and write them."""
