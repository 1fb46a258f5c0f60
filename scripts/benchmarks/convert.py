"""What conversions cost: ./scripts/bench convert [--quick] [--json PATH] [--only NAME].

Reading the files of other software beside the libraries that they are of (those that are installed), digests
beside SHA-256 alone, and memory. Variants take their turns, and a ratio is the median over rounds.
"""

from __future__ import annotations

import click
from convert_measures.digests import digests
from convert_measures.memory import memory
from convert_measures.reading import reading
from measuring.command import Measure, options, run

MEASURES: dict[str, Measure] = {"reading": reading, "digest": digests, "memory": memory}
LIBRARIES = ("minari", "h5py", "tianshou", "d3rlpy", "stable-baselines3", "torchrl", "lerobot", "pyarrow")


@click.command()
@options(MEASURES)
def main(quick: bool, path: str | None, only: tuple[str, ...], folder: str | None) -> None:
    """Compare conversions with the other software itself."""
    chosen = {name: MEASURES[name] for name in only or MEASURES}
    run(chosen, quick=quick, path=path, folder=folder, libraries=LIBRARIES)


if __name__ == "__main__":
    main()
