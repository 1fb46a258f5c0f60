"""`replaystore formats`: which files of other software can be read and written."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import click

from replaystore.cli.output import json_option, one_line, print_json, table

__all__ = ["facts_of", "formats", "in_markdown"]

WIDTH = 80
"""Columns of a terminal that lines for people fit into."""


@click.command(short_help="List the files of other software that are known.")
@click.option("--markdown", is_flag=True, help="Print a table for a page, with all that is known.")
@json_option
def formats(markdown: bool, json_: bool) -> None:
    """List the formats that `convert` reads and writes beside stores, those of other packages among them.

    What a format cannot hold of a buffer is listed below its line; a conversion reports what was lost.

    \b
    Examples:
      replaystore formats --json
      replaystore formats --markdown > formats.md
      replaystore convert data.bin buffer.zarr --from NAME
    """
    from replaystore import registry

    facts = [facts_of(name) for name in registry.registered("formats")]
    problems = registry.broken("formats")
    if json_:
        print_json({"formats": facts, "problems": list(problems.values())})
        return
    if markdown:
        click.echo(in_markdown(facts))
        return
    for line in _lines(facts, list(problems.values())):
        click.echo(line)


def _lines(facts: Sequence[Mapping[str, Any]], problems: Sequence[str]) -> Iterator[str]:
    """For people: a table, and below it what did not fit into it."""
    headers = ("format", "reads", "writes", "what it is")
    before = max(map(len, ["format", *(known["name"] for known in facts)])) + len("  reads  writes  ")
    rows: list[tuple[str, ...]] = []
    for known in facts:
        able = ["?" if known["needs"] else "yes" if known[way] else "no" for way in ("reads", "writes")]
        first, *more = _wrapped(" ".join([known["what"], *known["suffixes"]]), WIDTH - before)
        rows += [(known["name"], *able, first), *(("", "", "", other) for other in more)]
    yield table(headers, rows, left=range(len(headers)))
    yield ""
    for known in facts:
        if known["needs"]:
            yield from _wrapped(f"{known['name']} needs what {known['needs']} installs", WIDTH)
        if known["cannot_hold"]:
            yield from _wrapped(f"{known['name']} cannot hold: {'; '.join(known['cannot_hold'])}", WIDTH)
    for problem in problems:
        yield from _wrapped(f"problem: {problem}", WIDTH)


def _wrapped(text: str, width: int) -> list[str]:
    """Lines of it, further ones indented; a word that is longer stays whole."""
    lines = textwrap.wrap(
        one_line(text), width, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False
    )
    return lines or [""]


def facts_of(name: str) -> dict[str, Any]:
    """What is known of a format; of one that lacks a package, what its entry says."""
    from replaystore import registry
    from replaystore.errors import MissingDependencyError, PluginError
    from replaystore.formats.finding import named

    entry = registry.entry("formats", name)
    facts: dict[str, Any] = {"name": name, "what": entry.what, "suffixes": list(entry.suffixes)}
    facts |= {"package": entry.package, "extra": entry.extra or None}
    try:
        format_ = named(name)
    except (MissingDependencyError, PluginError) as error:
        needs = f"{entry.package}[{entry.extra}]" if entry.extra else str(error)
        unknown: dict[str, Any] = {"cannot_hold": [], "streams": None, "whole_because": None}
        return {**facts, "reads": False, "writes": False, **unknown, "needs": needs}
    able = {"reads": format_.reads(), "writes": format_.writes()}
    held = {"cannot_hold": list(format_.limits), "streams": not format_.whole}
    return {**facts, **able, **held, "whole_because": format_.whole or None, "needs": None}


def in_markdown(known: Sequence[Mapping[str, Any]]) -> str:
    """A table of formats, as `formats` knows them."""
    lines = ["| format | files | read | write | what it cannot hold | streams | extra |", "|---" * 7 + "|"]
    lines += [_line(facts) for facts in known]
    return "\n".join(lines)


def _line(facts: Mapping[str, Any]) -> str:
    suffixes = ", ".join(f"`{suffix}`" for suffix in facts["suffixes"])
    if facts["needs"] is not None:
        seen = [f"not known without what {facts['needs']} installs"] + [""] * 3
    else:
        streams = "yes" if facts["streams"] else f"no: {facts['whole_because']}"
        able = ["yes" if facts[which] else "no" for which in ("reads", "writes")]
        seen = [*able, "; ".join(facts["cannot_hold"]), streams]
    what = facts["what"] + (f" ({suffixes})" if suffixes else "")
    extra = f"`[{facts['extra']}]`" if facts["extra"] else ""
    cells = [f"`{facts['name']}`", what, *seen, extra]
    return "| " + " | ".join(one_line(cell).replace("|", "\\|") for cell in cells) + " |"
