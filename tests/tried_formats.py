"""The formats that are tried with difficult stores and with spoilt files in the tests, and real files."""

from __future__ import annotations

from pathlib import Path

SAMPLES = Path(__file__).parents[2] / "shared" / "samples"
"""Files that other software wrote, where they are at hand."""
TRIED = (
    "sb3",
    "active_rlhf",
    "lerobot",
    "minari",
    "minari_arrow",
    "minari_parquet",
    "robomimic",
    "diffusion_policy",
    "rlds",
    "torchrl",
    "velora",
    "tianshou",
    "d3rlpy",
    "d4rl",
    "parquet",
    "arrow",
    "npz",
    "safetensors",
    "pickled_dict",
)
"""Those that are written and read."""
READ = (*TRIED, "cpprb", "imitation")
"""Those that are read."""
