"""How fast the store is, as ratios to doing the same without it, in one run: ./scripts/bench store [--quick]
[--json PATH] [--only NAME].

Each line is a median over rounds in which all variants take their turns; what was read is compared with what
was written. Targets are those that the project sets itself. All files are written below one temporary folder
(--folder chooses where), which is removed.
"""

from __future__ import annotations

import sys

import click
from measuring.command import Measure, options, run
from store_measures.memory import memory
from store_measures.reading import conversion, opening, read
from store_measures.recording import append, commit, step

MEASURES: dict[str, Measure] = {
    "append": append,
    "step": step,
    "commit": commit,
    "read": read,
    "convert": conversion,
    "open": opening,
    "memory": memory,
}


@click.command()
@options(MEASURES)
@click.option(
    "--torchrl", default=sys.executable, help=("A Python interpreter that has TorchRL; by default this one.")
)
def main(quick: bool, path: str | None, only: tuple[str, ...], folder: str | None, torchrl: str) -> None:
    """Compare the store with plain files, NumPy and other libraries."""
    run(
        {name: MEASURES[name] for name in only or MEASURES},
        quick=quick,
        path=path,
        folder=folder,
        torchrl=torchrl,
    )


if __name__ == "__main__":
    main()
