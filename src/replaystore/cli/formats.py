"""`replaystore formats`: which files of other software can be read and written."""

from __future__ import annotations

from typing import Any

import click

from replaystore.cli.output import json_option, one_line, print_json, table

__all__ = ["formats"]


@click.command(short_help="List the files of other software that are known.")
@json_option
def formats(json_: bool) -> None:
    """List the formats that `convert` reads and writes beside stores, those of other packages among them.

    What a format cannot hold of a buffer is listed below its line; a conversion reports what was lost.

    \b
    Examples:
      replaystore formats --json
      replaystore convert data.bin buffer.zarr --from NAME
    """
    from replaystore import registry

    facts = [_facts(name) for name in registry.registered("formats")]
    problems = registry.broken("formats")
    if json_:
        print_json({"formats": facts, "problems": list(problems.values())})
        return
    rows = [
        (
            known["name"],
            known["what"],
            " ".join(known["suffixes"]),
            *("yes" if known[able] else "no" for able in ("reads", "writes")),
            known["needs"] or "nothing",
        )
        for known in facts
    ]
    headers = ("format", "what it is", "suffixes", "reads", "writes", "to be installed")
    click.echo(table(headers, rows, left=range(len(headers))))
    for known in facts:
        if known["cannot_hold"]:
            click.echo(f"{known['name']} cannot hold: {'; '.join(known['cannot_hold'])}")
    for problem in problems.values():
        click.echo(one_line(f"problem: {problem}"))


def _facts(name: str) -> dict[str, Any]:
    """What is known of a format; of one that lacks a package, what its entry says."""
    from replaystore import registry
    from replaystore.errors import MissingDependencyError, PluginError
    from replaystore.formats.finding import named

    entry = registry.entry("formats", name)
    facts: dict[str, Any] = {"name": name, "what": entry.what, "suffixes": list(entry.suffixes)}
    facts["package"] = entry.package
    try:
        format_ = named(name)
    except (MissingDependencyError, PluginError) as error:
        needs = f"{entry.package}[{entry.extra}]" if entry.extra else str(error)
        return {**facts, "reads": False, "writes": False, "cannot_hold": [], "needs": needs}
    able = {"reads": format_.reads(), "writes": format_.writes()}
    return {**facts, **able, "cannot_hold": list(format_.limits), "needs": None}
