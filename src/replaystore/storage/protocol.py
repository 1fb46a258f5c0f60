"""What the layers above ask of the place where bytes lie."""

from __future__ import annotations

__all__ = ["PAGE"]

PAGE = 4096
"""What is to be mapped begins on a multiple of this: runs of raw rows, and so the members of a zip file."""
