"""`replaystore convert`: another container, another layout, or a part of a store."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import click

from replaystore.cli.output import json_option, one_line, pairs, print_json, progress_bar, size, split_names

__all__ = ["convert"]


@click.command(short_help="Convert to another container or layout.")
@click.argument("source", type=click.Path())
@click.argument("target", type=click.Path())
@click.option("--fields", multiple=True, metavar="A,B", help="Only these fields, or what is below them.  [default: all]")
@click.option("--split", help="Only the trajectories of this split.")
@click.option("--where", metavar="EXPR", help="Only the trajectories for which this is true.")
@click.option("--codec", help="raw, zstd:LEVEL or gzip:LEVEL, for all fields.  [default: what the layout says]")
@click.option("--layout", type=click.Choice(["live", "archive"]), help="To write to and sample from, or to keep.  [default: the source's]")
@click.option("--overwrite", is_flag=True, help="Replace a store that is there.")
@json_option
def convert(source: str, target: str, fields: Sequence[str], json_: bool, **options: Any) -> None:
    """Convert SOURCE to TARGET: between Zarr and HDF5, live and archive, or only a part of it.

    TARGET appears when it is complete. What it cannot hold of SOURCE is listed.

    \b
    Examples:
      replaystore convert runs/ant.zarr ant.h5
      replaystore convert runs/ant.zarr best.zarr --where 'return > 100 and length >= 50' --layout archive
    """
    import replaystore as rs

    with progress_bar("converting", unit=size) as progress:
        report = rs.convert(source, target, fields=split_names(fields), progress=progress, **options)
    if json_:
        print_json(report.to_json())
        return
    facts: Mapping[str, Any] = report.to_json()
    click.echo(pairs({name: value for name, value in facts.items() if name != "notes" and not isinstance(value, (dict, list))}))
    for note in report.notes:
        click.echo(one_line(f"note: {note}"))
