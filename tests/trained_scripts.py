"""A training that the scripts look at, and what they make of it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from running import SMALL, run

ANALYSIS = [
    "observation_dimensions",
    "on_policiness_scores",
    "reward_distribution",
    "split_distribution",
    "trajectory_lengths",
]
PICTURES = [
    "kl_per_dimension",
    "latent_space_2d",
    "latent_space_heatmap",
    "reconstruction_errors",
    "reconstructions",
]


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a short training that kept its replay buffer in a Zarr store; of all tests."""
    folder = tmp_path_factory.mktemp("trained")
    before = Path.cwd()
    os.chdir(folder)
    try:
        assert run("pref_ppo", f"{SMALL} --replay_buffer_save_path runs/x/replay_buffer.zarr") == 0
    finally:
        os.chdir(before)
    return folder / "runs" / "x"


def scalars(folder: Path) -> dict[str, list[float]]:
    """What TensorBoard would show."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder))
    events.Reload()
    return {tag: [event.value for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def assert_pictures(folder: Path, names: list[str]) -> None:
    from matplotlib.image import imread

    assert sorted(path.stem for path in folder.glob("*.png")) == names
    for name in names:
        pixels = imread(folder / f"{name}.png")
        assert min(pixels.shape[:2]) > 500
        assert pixels.std() > 0.02, f"{name} is empty"
