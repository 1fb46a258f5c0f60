"""How fast batches are made, as ratios to NumPy arrays in memory, in one run: ./scripts/bench sampling
[--quick] [--only NAME].

All variants of a line take their turns in one process, round after round, each with random rows of its own;
what they give is compared with what was written. Numbers are medians over rounds. Targets are those that the
project sets itself. All files are written below one temporary folder (--folder chooses where), which is
removed.
"""

from __future__ import annotations

import warnings

import click
from measuring.command import PICTURE, Measure, options, run
from sampling_measures import coded, sequences
from sampling_measures.coded import epoch, uniform
from sampling_measures.cold import cold
from sampling_measures.creation import creation
from sampling_measures.memory import memory
from sampling_measures.sequences import fragments, stacks
from sampling_measures.training import training
from sampling_measures.transitions import TRANSITIONS, following, gathering, transitions
from sampling_measures.weighted import priorities

MEASURES: dict[str, Measure] = {
    "gather": gathering,
    "transitions": transitions,
    "next": following,
    "fragments": fragments,
    "stacks": stacks,
    "epoch": epoch,
    "uniform": uniform,
    "priorities": priorities,
    "cold": cold,
    "training": training,
    "memory": memory,
    "creation": creation,
}
PANELS = {
    TRANSITIONS: "256 transitions of 5 small fields, uncompressed",
    sequences.FRAGMENTS: "32 fragments of 64 steps of 5 small fields, uncompressed",
    sequences.STACKS: "32 stacks of 4 frames and the next, uncompressed",
    coded.STACKS: "32 stacks of 4 frames and the next, zstd, uniformly at random",
    coded.EPOCH: "32 frames, zstd, each once in an epoch",
}
"""The title of each measure that the picture shows."""
LIBRARIES = (
    "zarr",
    "zarrs",
    "tensorstore",
    "h5py",
    "hdf5plugin",
    "torch",
    "torchrl",
    "stable-baselines3",
    "minari",
    "cpprb",
    "ale-py",
)


@click.command(
    epilog=(
        f"Compared with, where they are installed: {', '.join(LIBRARIES)}, opencv-python-headless (for "
        "frames of Atari games)."
    )
)
@options(MEASURES)
@PICTURE
def main(
    quick: bool, path: str | None, picture: str | None, only: tuple[str, ...], folder: str | None
) -> None:
    """Compare sampling with NumPy and other libraries.

    `./scripts/setup bench` installs other libraries, as far as they can be had. Those that are missing are
    left out, and the table says so.
    """
    warnings.filterwarnings(
        "ignore", module=r"(gymnasium|minari|torchrl|tensordict|stable_baselines3|zarr)\b"
    )
    results = run(
        {name: MEASURES[name] for name in only or MEASURES},
        quick=quick,
        path=path,
        folder=folder,
        libraries=LIBRARIES,
    )
    if picture is not None:
        from measuring.picture import draw

        draw(results, PANELS, picture, "one batch")


if __name__ == "__main__":
    main()
