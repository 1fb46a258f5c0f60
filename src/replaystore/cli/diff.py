"""`replaystore diff`: the first difference between two buffers."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from replaystore.cli.output import commit_option, json_option, one_line, print_json, split_names

if TYPE_CHECKING:
    from replaystore.comparing.found import Diff

__all__ = ["diff"]


@click.command(short_help="The first difference between two buffers.")
@click.argument("mine", metavar="A", type=click.Path())
@click.argument("theirs", metavar="B", type=click.Path())
@click.option("--fields", multiple=True, metavar="A,B", help="Only these fields.  [default: all]")
@commit_option
@click.option("--other-commit", metavar="N|NAME", help="B as of this commit.  [default: the newest]")
@json_option
@click.pass_context
def diff(
    context: click.Context,
    /,
    mine: str,
    theirs: str,
    fields: Sequence[str],
    commit: int | str | None,
    other_commit: str | None,
    json_: bool,
) -> None:
    """The first place where each field of A and B differs, and what differs beside steps; A is the first, and
    B the second. Either may be a file of other software. How they are stored makes no difference. Exit
    code 1 if they differ.

    \b
    Example:
      replaystore diff runs/ant.zarr ant.h5
    """
    from replaystore.comparing.diff import diff as run

    other = int(other_commit) if other_commit is not None and other_commit.isdecimal() else other_commit
    found = run(mine, theirs, fields=split_names(fields), commit=commit, other_commit=other)
    # Whoever reads it has seen enough, and the exit code still tells.
    with contextlib.suppress(BrokenPipeError):
        _print(found, mine, theirs, json_=json_)
    if not found.equal:
        context.exit(1)


def _print(found: Diff, mine: str, theirs: str, *, json_: bool) -> None:
    if json_:
        print_json(found.to_json())
        return
    if found.equal:
        click.echo("they hold the same")
        return
    click.echo(one_line(f"the first is {mine}, the second {theirs}"))
    for line in found.lines():
        click.echo(one_line(line))
