"""`replaystore info`: what a store holds, and how; the facts are those of views/describing.py."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import click

from replaystore.cli.output import (
    commit_option,
    count,
    json_option,
    number,
    pairs,
    print_json,
    printable,
    size,
    table,
)

__all__ = ["info"]

Facts = dict[str, Any]


@click.command(short_help="Say what a store holds, and how.")
@click.argument("location", type=click.Path())
@click.option(
    "--commits", is_flag=True, help=("List the commits that can be opened (rs.open(LOCATION, commit=N)).")
)
@commit_option
@json_option
def info(location: str, commits: bool, commit: int | str | None, json_: bool) -> None:
    """Say what LOCATION holds: steps, trajectories, fields and how they are stored, where it comes from.

    \b
    Examples:
      replaystore info runs/ant.zarr
      replaystore info runs/ant.zarr --json
    """
    from replaystore.buffers.create_open import open as open_buffer

    with open_buffer(location, commit=commit) as buffer:
        facts = buffer.describe().to_json()
        if commits:
            facts["commits"] = [asdict(commit) for commit in buffer.commits()]
    if json_:
        print_json(facts)
    else:
        click.echo(_text(facts))


# --- as text


def _text(facts: Facts) -> str:
    pieces = [pairs(_heading(facts)), _fields(facts)]
    if "commits" in facts:
        rows = [
            (commit["commit"], commit["committed"], count(commit["steps"]), commit["name"] or "")
            for commit in facts["commits"]
        ]
        pieces.append(table(["commit", "committed", "steps", "name"], rows, left=(1, 3)))
    return "\n\n".join(pieces)


def _heading(facts: Facts) -> Facts:
    known, ends, ring = facts["trajectories"], facts["ends"], facts["ring"]
    ended = ", ".join(f"{count(number_)} {how.replace('_', ' ')}" for how, number_ in ends.items() if number_)
    made_by = facts["provenance"].get("created_by", {})
    return {
        "location": facts["location"],
        "id": facts["id"],
        "stored as": (
            f"{facts['backend']}, {facts['storage']}, format {facts['format_version']}"
            + (
                f", {size(facts['disk_bytes'])} on disk (files of {size(facts['apparent_bytes'])})"
                if facts["disk_bytes"]
                else ""
            )
        ),
        "layout": f"{facts['layout']}, durability {facts['durability']}",
        "commit": f"{facts['commit']}"
        + (f" {facts['name']!r}" if facts["name"] else "")
        + f", made {facts['committed']}",
        "named commits": count(facts["names"]) if facts["names"] else None,
        "steps": count(facts["steps"]),
        "ring": ring
        and (
            f"keeps the newest {count(ring['capacity'])} steps, has dropped {count(ring['dropped_steps'])}"
            + (
                f"; keeps {count(ring['kept_for_names'])} of them ({size(ring['kept_bytes'])}) for names"
                if ring["kept_for_names"]
                else ""
            )
        ),
        "trajectories": (
            f"{count(known['count'])} ({', '.join([ended] * bool(ended) + [count(known['open']) + ' open'])})"
        ),
        "length": _statistics(facts["length"]),
        "return": _statistics(facts["return"]),
        "splits": ", ".join(f"{name} {count(number_)}" for name, number_ in facts["splits"].items()) or None,
        "environment": _environment(facts["environment"]),
        "made": f"{facts['provenance'].get('created')} by "
        + ", ".join(f"{name} {version}" for name, version in made_by.items()),
        "source": _source(facts["provenance"].get("source")),
        "metadata": ", ".join(facts["metadata"]) or None,
        "not shown": ", ".join(
            f"{name} (needs {word!r}, which this version does not know)"
            for name, word in facts["hidden"].items()
        )
        or None,
    }


def _statistics(found: Mapping[str, Any] | None) -> str | None:
    if found is None:
        return None
    if isinstance(found["mean"], list):
        return f"mean {found['mean']}, min {found['min']}, max {found['max']}"
    return (
        f"mean {number(found['mean'])} ± {number(found['std'])}, min {number(found['min'])}, max "
        f"{number(found['max'])}"
    )


def _environment(section: Mapping[str, Any] | None) -> str | None:
    if section is None:
        return None
    copies = section.get("num_envs")
    return f"{section.get('id') or 'without an id'}" + (
        f", {copies} of them" if copies and copies > 1 else ""
    )


def _source(source: Mapping[str, Any] | None) -> str | None:
    return (
        None
        if source is None
        else ", ".join(
            f"{name} {value}" for name, value in source.items() if isinstance(value, (str, int, float))
        )
    )


def _fields(facts: Facts) -> str:
    """A field a line; how many values there are is a column of its own, if one is of any length."""
    any_ragged = any(field["ragged"] for field in facts["fields"])
    rows = []
    for field in facts["fields"]:
        ratio = f"{field['bytes'] / field['stored_bytes']:.2f}" if field["stored_bytes"] else "-"
        shape = "x".join("*" if n is None else str(n) for n in field["shape"]) or "-"
        values = ["-" if field["values"] is None else count(field["values"])] if any_ragged else []
        storage = (count(field["chunk_rows"]), size(field["bytes"]), size(field["stored_bytes"]), ratio)
        dtype = "text" if field["text"] else field["dtype"]
        note = "mutable" if field["mutable"] else ""
        rows.append((printable(field["name"]), dtype, shape, field["codec"], *values, *storage, note))
    headers = ["field", "dtype", "shape", "codec", *["values"] * any_ragged, "chunk rows", "bytes", "stored"]
    return table([*headers, "ratio", ""], rows, left=(0, 1, 2, 3, len(headers) + 1))
