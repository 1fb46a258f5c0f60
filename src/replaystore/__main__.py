"""`python -m replaystore`, for where the program `replaystore` is not on the path."""

from __future__ import annotations

from replaystore.cli import main

if __name__ == "__main__":
    main()
