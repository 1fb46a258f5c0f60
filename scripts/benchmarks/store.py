"""How fast the store is, as ratios to doing the same without it, in one run: ./scripts/bench store [--quick]
[--json PATH] [--only NAME].

Each line is a median over rounds in which all variants take their turns; what was read is compared with what
was written. Targets are those that the project sets itself. All files are written below one temporary folder
(--folder chooses where), which is removed.
"""

from __future__ import annotations

import sys

import click
from measuring.command import Measure, run
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
@click.option("--quick", is_flag=True, help="Less data and fewer rounds: to see that it works.")
@click.option("--json", "path", type=click.Path(dir_okay=False), help="Write the results there, too.")
@click.option(
    "--only", type=click.Choice(list(MEASURES)), multiple=True, help=("Measure only this; may be repeated.")
)
@click.option(
    "--folder",
    type=click.Path(file_okay=False),
    help=("Where to write; by default the system's folder for temporary files."),
)
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
