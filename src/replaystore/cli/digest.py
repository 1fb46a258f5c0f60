"""`replaystore digest`: what a buffer holds, as SHA-256."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from replaystore.cli.output import commit_option, count, json_option, pairs, print_json, split_names, table

if TYPE_CHECKING:
    from replaystore.comparing.digest import Digest

__all__ = ["digest"]


@click.command(short_help="What is in a buffer, as SHA-256.")
@click.argument("location", type=click.Path())
@click.option("--fields", multiple=True, metavar="A,B", help="Only these fields.  [default: all]")
@click.option("--split", help="Only the trajectories of this split.")
@click.option("--where", metavar="EXPR", help="Only the trajectories for which this is true.")
@click.option("--from", "source_format", metavar="FORMAT", help="LOCATION is a file of this format.")
@click.option("--trajectories", is_flag=True, help="Those of each trajectory, too.")
@commit_option
@json_option
def digest(
    location: str,
    fields: Sequence[str],
    split: str | None,
    where: str | None,
    source_format: str | None,
    trajectories: bool,
    commit: int | str | None,
    json_: bool,
) -> None:
    """What LOCATION holds, as SHA-256: the same for two stores of one content, whatever their containers,
    chunks, codecs and commits. It may be a file of other software.

    \b
    Example:
      replaystore digest runs/ant.zarr
    """
    from replaystore.comparing.digest import digest as run

    found = run(
        location,
        fields=split_names(fields),
        split=split,
        where=where,
        commit=commit,
        source_format=source_format,
    )
    if json_:
        print_json(found.to_json(trajectories=trajectories))
    else:
        _print(found, trajectories=trajectories)


def _print(found: Digest, *, trajectories: bool) -> None:
    facts = {
        "content": found.content,
        "steps": count(found.steps),
        "trajectories": count(len(found.each) // 32),
    }
    click.echo(pairs(facts))
    click.echo()
    click.echo(table(("field", "SHA-256"), list(found.fields.items()), left=(0, 1)))
    click.echo()
    click.echo(table(("beside", "SHA-256"), list(found.rest.items()), left=(0, 1)))
    if trajectories:
        click.echo()
        click.echo(table(("trajectory", "SHA-256"), [*map(list, enumerate(found.trajectories))], left=(1,)))
