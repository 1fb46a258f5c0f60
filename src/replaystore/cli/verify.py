"""`replaystore verify`: read everything once and explain each problem."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import click

from replaystore.cli.output import (
    commit_option,
    count,
    json_option,
    one_line,
    print_json,
    printable,
    progress_bar,
    size,
)

if TYPE_CHECKING:
    from replaystore.checking.findings import VerifyReport

__all__ = ["verify"]


@click.command(short_help="Check everything, explain problems.")
@click.argument("location", type=click.Path())
@commit_option
@json_option
@click.pass_context
def verify(context: click.Context, /, location: str, commit: int | str | None, json_: bool) -> None:
    """Read everything in LOCATION once and explain each problem, a line each. Exit code 1 if there is one.

    \b
    Example:
      replaystore verify runs/ant.zarr
    """
    from replaystore.checking.verify import verify as run

    with progress_bar("verifying", unit=size) as progress:
        report = run(location, commit=commit, progress=progress)
    # Whoever reads it has seen enough, and the exit code still tells.
    with contextlib.suppress(BrokenPipeError):
        _print(location, report, json_=json_)
    if report.problems:
        context.exit(1)


def _print(location: str, report: VerifyReport, *, json_: bool) -> None:
    if json_:
        print_json(report.to_json())
    else:
        for problem in report.problems:
            click.echo(one_line(str(problem)))
        for note in report.notes:
            click.echo(one_line(f"note: {note}"))
        found = (
            f"{count(len(report.problems))} problem{'s' * (len(report.problems) != 1)}"
            if report.problems
            else "no problems"
        )
        click.echo(
            f"{printable(location)}: {found} ({size(report.checked_bytes)} checked in {report.seconds:.1f} s)"
        )
