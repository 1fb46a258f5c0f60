"""The formats that are tried with difficult stores and with spoilt files in the tests, and real files."""

from __future__ import annotations

from pathlib import Path

SAMPLES = Path(__file__).parents[2] / "shared" / "samples"
"""Files that other software wrote, where they are at hand."""
TRIED = ("active_rlhf", "velora", "diffusion_policy", "d4rl", "parquet", "arrow")
"""Those that are written and read."""
READ = (*TRIED, "sb3")
"""Those that are read."""
