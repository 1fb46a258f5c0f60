"""`replaystore convert`: another container or layout, a part of a store, or a file of other software."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import click

from replaystore.cli.output import (
    commit_option,
    count,
    json_option,
    number,
    one_line,
    pairs,
    print_json,
    progress_bar,
    size,
    split_names,
    table,
)

if TYPE_CHECKING:
    from replaystore.buffers.buffer import Buffer
    from replaystore.formats.report import Proof, Report

__all__ = ["convert"]


@click.command(short_help="Convert to another container or layout.")
@click.argument("source", type=click.Path())
@click.argument("target", type=click.Path())
@click.option("--from", "source_format", metavar="FORMAT", help="SOURCE is a file of this format.")
@click.option("--to", "target_format", metavar="FORMAT", help="TARGET is to be a file of this format.")
@click.option(
    "--fields",
    multiple=True,
    metavar="A,B",
    help=("Only these fields, or what is below them.  [default: all]"),
)
@click.option("--split", help="Only the trajectories of this split.")
@click.option("--where", metavar="EXPR", help="Only the trajectories for which this is true.")
@click.option(
    "--codec", help=("raw, zstd:LEVEL or gzip:LEVEL, for all fields.  [default: what the layout says]")
)
@click.option(
    "--layout",
    type=click.Choice(["live", "archive"]),
    help=("To write to and sample from, or to keep.  [default: the source's]"),
)
@click.option(
    "--grouped/--as-recorded",
    default=None,
    help="Lay rows of environments that took turns trajectory by trajectory, or leave them where they are.  "
    "[default: grouped in an archive]",
)
@click.option("--strict", is_flag=True, help="Refuse what a file of other software cannot hold exactly.")
@click.option("--dry-run", is_flag=True, help="Say what would be kept, changed and lost, and make nothing.")
@click.option("--proof/--no-proof", default=True, help="Compare digests of what is kept on both sides.")
@click.option("--overwrite", is_flag=True, help="Replace a store that is there.")
@commit_option
@json_option
def convert(
    source: str,
    target: str,
    fields: Sequence[str],
    commit: int | str | None,
    json_: bool,
    **options: Any,
) -> None:
    """Convert SOURCE to TARGET: between Zarr and HDF5, live and archive, or only a part of it.

    Either may be a file of other software, such as a pickle of a replay buffer; `replaystore formats` lists
    all that are known. Whose it is, is told by its content and its suffix, or by --from and --to.
    TARGET appears when it is complete. What it cannot hold of SOURCE is listed.

    \b
    Examples:
      replaystore convert runs/ant.zarr ant.h5
      replaystore convert runs/ant.zarr best.zarr --where 'return > 100 and length >= 50' --layout archive
      replaystore convert runs/x/replay_buffer.pkl buffer.zarr
      replaystore convert buffer.zarr exported.bin --to NAME
    """
    from replaystore.converting.convert import convert as run

    with progress_bar("converting", unit=size) as progress, ExitStack() as stack:
        opened = source if commit is None else stack.enter_context(_as_of(source, commit))
        report = run(opened, target, fields=split_names(fields), progress=progress, **options)
    if json_:
        print_json(report.to_json())
        return
    if report.dry_run:
        click.echo("dry run: nothing was made")
    facts = {
        "location": report.target,
        "steps": "not known before it is read" if report.steps is None else count(report.steps),
        "trajectories": None if report.trajectories is None else count(report.trajectories),
        **({} if report.dry_run else _measured(report)),
        "copied as they are": ", ".join(report.copied) or None,
        "coded anew": ", ".join(report.recoded) or None,
    }
    click.echo(pairs(facts))
    if report.fields or report.rest:
        click.echo()
        click.echo(_fates(report))
        click.echo()
    for note in report.remarks:
        click.echo(one_line(f"note: {note}"))
    for line in _proved(report.proof):
        click.echo(one_line(line))


def _fates(report: Report) -> str:
    """What became of each field, and of what else is not as it was."""
    rows = []
    for where, things in (("field", report.fields), ("beside", report.rest)):
        for name, fate in things.items():
            error = "" if fate.max_error is None else f"by at most {number(fate.max_error)}"
            rows.append((name, where, fate.kind, "; ".join(filter(None, (fate.how, error)))))
    return table(("thing", "", "becomes", "how"), rows, left=(0, 1, 2, 3))


def _proved(proof: Proof | None) -> Iterator[str]:
    """What was compared in the end."""
    if proof is None:
        return
    same = [
        f"{count(len(things))} {name}{'s' * (len(things) != 1)}"
        for name, things in (("field", proof.fields), ("thing", proof.rest))
        if things
    ]
    if same:
        beside = " beside them" if proof.rest else ""
        yield f"proof: {' and '.join(same)}{beside} are the same on both sides ({proof.seconds:.1f} s)"
    for name, error in proof.within.items():
        yield f"proof: {name} differs by at most {number(error)}"
    for name, why in proof.not_proved.items():
        yield f"not proved: {name}: {why}"


def _measured(report: Report) -> dict[str, str]:
    return {
        "read": size(report.bytes_read),
        "written": size(report.bytes_written),
        "seconds": f"{report.seconds:.1f}",
        "MB/s": number(round(report.bytes_read / max(report.seconds, 1e-9) / 1e6, 1)),
    }


def _as_of(location: str, commit: int | str) -> Buffer:
    from replaystore.buffers.create_open import open as open_buffer

    return open_buffer(location, commit=commit)
