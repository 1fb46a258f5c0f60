"""`replaystore info`: what a store holds, and how."""

from __future__ import annotations

import datetime
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from replaystore.cli.output import count, json_option, number, pairs, print_json, printable, size, table

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from replaystore.backends import ArraySpec
    from replaystore.backends.reading import StoreReader
    from replaystore.buffer import Buffer

__all__ = ["bytes_on_disk", "info"]

Facts = dict[str, Any]


@click.command(short_help="Say what a store holds, and how.")
@click.argument("location", type=click.Path())
@click.option("--commits", is_flag=True, help="List the commits that can be opened (rs.open(LOCATION, commit=N)).")
@json_option
def info(location: str, commits: bool, json_: bool) -> None:
    """Say what LOCATION holds: steps, trajectories, fields and how they are stored, where it comes from.

    \b
    Examples:
      replaystore info runs/ant.zarr
      replaystore info runs/ant.zarr --json
    """
    from replaystore.buffer import open as open_buffer

    with open_buffer(location) as buffer:
        facts = _facts(buffer)
        if commits:
            facts["commits"] = _commits(buffer._store)
    if json_:
        print_json(facts)
    else:
        click.echo(_text(facts))


# --- the facts


def _facts(buffer: Buffer) -> Facts:
    document, store = buffer._document, buffer._store
    trajectories = buffer.trajectories
    ended = trajectories[~trajectories.open]
    splits = {str(name) for name in trajectories["split"].tolist() if name}
    return {
        "location": buffer.location,
        "backend": buffer._place.backend,
        "format_version": document.format_version,
        "layout": buffer.layout,
        "durability": document.layout.durability,
        "disk_bytes": bytes_on_disk(buffer.location),
        "commit": buffer.commit_id,
        "committed": _moment(store.state.time),
        "steps": len(buffer),
        "trajectories": {"count": len(trajectories), "ended": len(ended), "open": int(trajectories.open.sum())},
        "ends": {
            "terminated": int(ended["terminated"].sum()),
            "truncated": int(ended["truncated"].sum()),
            "cut_off": int((~(ended["terminated"] | ended["truncated"])).sum()),
        },
        "length": _summary(ended["length"]),
        "return": _summary(ended["return"]) if "return" in ended.columns else None,
        "splits": {name: int((trajectories["split"] == name).sum()) for name in sorted(splits)},
        "ring": None if buffer.capacity is None else {"capacity": buffer.capacity, "dropped_steps": store.first("steps")},
        "fields": [_field(buffer, name) for name in buffer.schema.fields],
        "environment": buffer.environment,
        "provenance": buffer.provenance,
        "metadata": sorted(buffer.metadata),
    }


def _summary(values: NDArray[Any]) -> Facts | None:
    """Of ended trajectories; None if there are none."""
    if not len(values):
        return None
    return {"mean": values.mean(axis=0), "std": values.std(axis=0), "min": values.min(axis=0), "max": values.max(axis=0)}


def _field(buffer: Buffer, name: str) -> Facts:
    from replaystore.names import escape_path

    store, declared, stored = buffer._store, buffer.schema.fields[name], f"steps/{escape_path(name)}"
    spec = store.container.specs()[stored]
    plain = len(buffer) * declared.row_bytes
    return {
        "name": name,
        "dtype": declared.dtype.name,
        "shape": list(declared.shape),
        "role": declared.role,
        "codec": spec.codec or "raw",
        "chunk_rows": spec.chunk_rows,
        "bytes": plain,
        "stored_bytes": plain if spec.codec is None else _coded_bytes(store, stored, spec),
    }


def _coded_bytes(store: StoreReader, name: str, spec: ArraySpec) -> int:
    """Bytes of the encoded chunks of a field, and of the rows of its unfinished chunk."""
    first, rows = store.first(name) // spec.chunk_rows, store.rows(name)
    entries = (store.locate(name, chunk) for chunk in range(first, rows // spec.chunk_rows))
    return sum(entry.length for entry in entries if entry is not None) + rows % spec.chunk_rows * spec.row_bytes


def bytes_on_disk(location: str) -> int:
    """The sizes of all files of a store."""
    if not os.path.isdir(location):
        return os.path.getsize(location) if os.path.isfile(location) else 0
    return sum(
        entry.stat().st_size for folder, _, _ in os.walk(location) for entry in os.scandir(folder) if entry.is_file(follow_symlinks=False)
    )


def _commits(store: StoreReader) -> list[Facts]:
    """The commits that can be opened, oldest first."""
    return [{"commit": found.commit, "committed": _moment(found.time), "steps": found.rows("steps")} for found in store.commits()]


def _moment(seconds: float) -> str:
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


# --- as text


def _text(facts: Facts) -> str:
    pieces = [pairs(_heading(facts)), _fields(facts)]
    if "commits" in facts:
        rows = [(commit["commit"], commit["committed"], count(commit["steps"])) for commit in facts["commits"]]
        pieces.append(table(["commit", "committed", "steps"], rows, left=(1,)))
    return "\n\n".join(pieces)


def _heading(facts: Facts) -> Facts:
    known, ends, ring = facts["trajectories"], facts["ends"], facts["ring"]
    ended = ", ".join(f"{count(number_)} {how.replace('_', ' ')}" for how, number_ in ends.items() if number_)
    made_by = facts["provenance"].get("created_by", {})
    return {
        "location": facts["location"],
        "stored as": f"{facts['backend']}, format {facts['format_version']}, {size(facts['disk_bytes'])} on disk",
        "layout": f"{facts['layout']}, durability {facts['durability']}",
        "commit": f"{facts['commit']}, made {facts['committed']}",
        "steps": count(facts["steps"]),
        "ring": ring and f"keeps the newest {count(ring['capacity'])} steps, has dropped {count(ring['dropped_steps'])}",
        "trajectories": f"{count(known['count'])} ({', '.join([ended] * bool(ended) + [count(known['open']) + ' open'])})",
        "length": _statistics(facts["length"]),
        "return": _statistics(facts["return"]),
        "splits": ", ".join(f"{name} {count(number_)}" for name, number_ in facts["splits"].items()) or None,
        "environment": _environment(facts["environment"]),
        "made": f"{facts['provenance'].get('created')} by " + ", ".join(f"{name} {version}" for name, version in made_by.items()),
        "source": _source(facts["provenance"].get("source")),
        "metadata": ", ".join(facts["metadata"]) or None,
    }


def _statistics(found: Mapping[str, Any] | None) -> str | None:
    if found is None:
        return None
    if getattr(found["mean"], "ndim", 0):
        return f"mean {found['mean'].tolist()}, min {found['min'].tolist()}, max {found['max'].tolist()}"
    return f"mean {number(found['mean'])} ± {number(found['std'])}, min {number(found['min'])}, max {number(found['max'])}"


def _environment(section: Mapping[str, Any] | None) -> str | None:
    if section is None:
        return None
    copies = section.get("num_envs")
    return f"{section.get('id') or 'without an id'}" + (f", {copies} of them" if copies and copies > 1 else "")


def _source(source: Mapping[str, Any] | None) -> str | None:
    return (
        None if source is None else ", ".join(f"{name} {value}" for name, value in source.items() if isinstance(value, (str, int, float)))
    )


def _fields(facts: Facts) -> str:
    rows = []
    for field in facts["fields"]:
        ratio = f"{field['bytes'] / field['stored_bytes']:.2f}" if field["stored_bytes"] else "-"
        shape = "x".join(map(str, field["shape"])) or "-"
        storage = (field["codec"], count(field["chunk_rows"]), size(field["bytes"]), size(field["stored_bytes"]), ratio)
        rows.append((printable(field["name"]), field["dtype"], shape, *storage))
    return table(["field", "dtype", "shape", "codec", "chunk rows", "bytes", "stored", "ratio"], rows, left=(0, 1, 2, 3))
