"""`replaystore repair`: go back to the newest commit that verifies."""

from __future__ import annotations

import click

from replaystore.cli.output import json_option, one_line, print_json, progress_bar, size

__all__ = ["repair"]


@click.command(short_help="Go back to the newest sound state.")
@click.argument("location", type=click.Path())
@json_option
def repair(location: str, json_: bool) -> None:
    """Bring LOCATION back to the newest state that verifies, and say what was dropped.

    The damaged original is kept beside it, until you remove it. Where nothing can be saved, nothing is
    changed.

    \b
    Example:
      replaystore repair runs/ant.zarr
    """
    from replaystore.checking.repair import repair as run

    with progress_bar("repairing", unit=size) as progress:
        report = run(location, progress=progress)
    if json_:
        print_json(report.to_json())
        return
    for action in report.actions:
        click.echo(one_line(action))
    for dropped in report.dropped:
        click.echo(one_line(f"dropped: {dropped}"))
