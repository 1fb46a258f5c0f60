"""How stores on a server are read, beside a bare reader of ranges, in one run: ./scripts/bench remote
[--quick] [--json PATH] [--only NAME].

The server is a static one of Python's in another process on this machine, which adds 0 or 20 ms to each
answer, and counts what it is asked; a round is a request that waits for the one before it. What was read is
compared with what was written. Variants take turns; a ratio is the median over rounds.
"""

from __future__ import annotations

import click
from measuring.command import Measure, options, run
from remote_measures.measures import batch, excerpt, opening, scan, training

MEASURES: dict[str, Measure] = {
    "open": opening,
    "batch": batch,
    "scan": scan,
    "training": training,
    "excerpt": excerpt,
}


@click.command()
@options(MEASURES)
def main(quick: bool, path: str | None, only: tuple[str, ...], folder: str | None) -> None:
    """Read stores on a server, and compare that with reading their files."""
    run(
        {name: MEASURES[name] for name in only or MEASURES},
        quick=quick,
        path=path,
        folder=folder,
        libraries=("urllib3",),
    )


if __name__ == "__main__":
    main()
