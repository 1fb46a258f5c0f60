"""`replaystore merge`: several buffers into one new store."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click

from replaystore.cli.output import count, json_option, one_line, pairs, print_json, progress_bar, size

__all__ = ["merge"]


@click.command(short_help="Merge several buffers into a new store.")
@click.argument("locations", nargs=-1, type=click.Path(), metavar="A B ... TARGET")
@click.option("--keep-duplicates", is_flag=True, help="Keep trajectories that an earlier source has too.")
@click.option("--codec", help="raw, zstd:LEVEL or gzip:LEVEL, for all fields.  [default: the layout's]")
@click.option(
    "--layout", type=click.Choice(["live", "archive"]), default="live", help="To write to, or to keep."
)
@click.option("--overwrite", is_flag=True, help="Replace a store that is at TARGET.")
@json_option
def merge(locations: Sequence[str], json_: bool, **options: Any) -> None:
    """Merge the stores, or files of other software, A, B, ... into a new store TARGET.

    They must have the same fields. The trajectories of one come after those of another, with their seeds,
    environments, splits and columns; `source` and `source_trajectory` say where each comes from. What an
    earlier source has too is left out. TARGET appears when it is complete.

    \b
    Examples:
      replaystore merge runs/1.zarr runs/2.zarr all.zarr
      replaystore merge runs/*.zarr all.h5 --layout archive --keep-duplicates
    """
    if len(locations) < 3:
        raise click.UsageError(
            f"merge takes two sources or more, and then the target: {len(locations)} given"
        )
    from replaystore.comparing.merge import merge as run

    *sources, target = locations
    with progress_bar("merging", unit=size) as progress:
        report = run(sources, target, progress=progress, **options)
    if json_:
        print_json(report.to_json())
        return
    facts = {
        "location": report.target,
        "sources": count(len(sources)),
        "steps": count(report.steps or 0),
        "trajectories": count(report.trajectories or 0),
        "written": size(report.bytes_written),
        "seconds": f"{report.seconds:.1f}",
    }
    click.echo(pairs(facts))
    for note in report.notes:
        click.echo(one_line(f"note: {note}"))
