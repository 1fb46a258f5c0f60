"""What drop-in buffers cost: ./scripts/bench compat [--velora CHECKOUT] [--only MEASURE] [--gigabytes N]
[--json PATH] [--folder PATH].

Time: adding and sampling, beside velora's own buffer, if that can be imported. Memory: each line is the peak
of the anonymous memory of a process of its own, above what it has after the imports. A large store is
recorded, loaded by `replaystore.compat.active_rlhf` and sampled from; a smaller one becomes files of both
projects, and of the pickle a store is made again, which is a ring. All is written below one temporary folder
(--folder chooses where), which is removed: at most the gigabytes.
"""

from __future__ import annotations

from functools import partial

import click
from compat_measures.memory import exporting, sampling
from compat_measures.speed import speed
from measuring.command import run


@click.command()
@click.option(
    "--gigabytes",
    type=click.FloatRange(min=0.01),
    default=20.0,
    show_default=True,
    help="The size of the store.",
)
@click.option(
    "--velora",
    envvar="VELORA_SRC",
    type=click.Path(exists=True, file_okay=False),
    help=("A checkout of velora, to compare with."),
)
@click.option(
    "--only",
    multiple=True,
    type=click.Choice(["speed", "sampling", "exporting"]),
    help=("Measure only this; may be repeated."),
)
@click.option("--json", "path", type=click.Path(dir_okay=False), help="Write the results there, too.")
@click.option(
    "--folder",
    type=click.Path(file_okay=False),
    help=("Where to write; by default the system's folder for temporary files."),
)
def main(
    gigabytes: float, velora: str | None, only: tuple[str, ...], path: str | None, folder: str | None
) -> None:
    """Measure the time and the memory that drop-in buffers take."""
    measures = {
        "speed": partial(speed, checkout=velora),
        "sampling": partial(sampling, gigabytes=gigabytes),
        "exporting": partial(exporting, gigabytes=gigabytes),
    }
    measures = {name: measure for name, measure in measures.items() if not only or name in only}
    run(measures, quick=False, path=path, folder=folder, libraries=["torch"])


if __name__ == "__main__":
    main()
