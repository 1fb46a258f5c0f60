"""`replaystore forget`: take its name from a commit."""

from __future__ import annotations

import click

from replaystore.cli.output import json_option, print_json, printable

__all__ = ["forget"]


@click.command(short_help="Take its name from a commit.")
@click.argument("location", type=click.Path())
@click.argument("name")
@json_option
def forget(location: str, name: str, json_: bool) -> None:
    """Take its NAME from a commit of LOCATION, which is then kept no longer than one that never had a name.

    A ring gives back the rows that it kept for it. `replaystore info LOCATION --commits` lists the names.

    \b
    Example:
      replaystore forget runs/ant.zarr epoch-12
    """
    from replaystore.buffers.create_open import open as open_buffer

    with open_buffer(location, "r+") as buffer:
        commit, left = buffer.forget(name), len(buffer.names)
    if json_:
        print_json({"location": location, "forgotten": name, "commit": commit, "names": left})
    else:
        click.echo(f"{printable(location)}: no commit has the name {name} any more (commit {commit})")
