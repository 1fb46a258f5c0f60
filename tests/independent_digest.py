"""The content digest computed again from its definition in the README, with hashlib, NumPy and what a buffer
shows: none of the code that computes it is used."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import numpy as np

import replaystore as rs

MIB = 1 << 20


def sha(*parts: bytes) -> bytes:
    return hashlib.sha256(b"".join(parts)).digest()


def text(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def leaves(rows: np.ndarray) -> bytes:
    """The digests of leaves of at most 1 MiB."""
    rows = np.ascontiguousarray(rows)
    width = rows.dtype.itemsize * int(np.prod(rows.shape[1:], dtype=int))
    count = max(1, MIB // width)
    return b"".join(sha(rows[at : at + count].tobytes()) for at in range(0, len(rows), count))


def run(declared: rs.Field, rows: Any) -> bytes:
    """Of rows of a field."""
    dtype = "text" if declared.text else declared.dtype.name
    head = text({"dtype": dtype, "rows": len(rows), "shape": list(declared.shape)})
    if not declared.ragged:
        return sha(head, leaves(rows))
    return sha(head, leaves(np.asarray(rows.lengths, "<i8")), leaves(rows.named))


def column(dtype: str, values: Any) -> bytes:
    """Of what is known of each trajectory."""
    return run(rs.Field(dtype, (), "extra"), np.asarray(values, dtype))


def one(declared: rs.Field, value: Any) -> bytes:
    if not declared.ragged:
        return run(declared, np.asarray(value)[None])
    if declared.text:
        return run(declared, rs.Ragged.of([value], text=True))
    return run(declared, rs.Ragged(value, np.array([0, len(value)])))


def digest(buffer: rs.Buffer) -> dict[str, Any]:
    """What `replaystore digest --json` prints, but for its counts."""
    table = buffer.trajectories
    going = [row for row in range(len(table)) if table.open[row]]
    order = [row for row in range(len(table)) if not table.open[row]]
    order += sorted(going, key=lambda row: int(table["env"][row]))
    declared = dict(sorted(buffer.schema.fields.items()))
    observed = sorted(buffer.schema.names("observation"))
    runs: dict[str, list[bytes]] = {name: [] for name in declared}
    seen, each = [], []
    for row in order:
        told = buffer.trajectory(row)
        for name, field in declared.items():
            runs[name].append(run(field, told[name]))
        after = b"".join(
            step.to_bytes(8, "little") + b"".join(one(declared[name], value[name]) for name in observed)
            for step, value in sorted(told._following.items())
        )
        seen.append(sha(after) if after else bytes(32))
        parts = [f"fields/{name}".encode() + b"\0" + runs[name][-1] for name in declared]
        parts += [b"rest/final_observation\0" + seen[-1]]
        parts += [
            f"rest/{name}".encode() + b"\0" + sha(bytes([bool(table[name][row])]))
            for name in ("terminated", "truncated")
        ]
        each.append(sha(*parts))
    fields = {}
    for name, field in declared.items():
        dtype = "text" if field.text else field.dtype.name
        fields[name] = sha(text({"dtype": dtype, "shape": list(field.shape)}), *runs[name]).hex()
    rest = {name: column("int64", table[name][order]) for name in ("env", "seed")}
    rest |= {name: column("bool", table[name][order]) for name in ("open", "terminated", "truncated")}
    splits = [str(table["split"][row]) for row in order]
    rest["split"] = run(rs.Field.of_text("extra"), rs.Ragged.of(splits, text=True))
    if observed:
        rest["final_observation"] = run(
            rs.Field("uint8", (32,), "extra"),
            np.frombuffer(b"".join(seen), np.uint8).reshape(-1, 32),
        )
    known = ("trajectory", "env", "length", "terminated", "truncated", "seed", "return", "split", "open")
    for name in table.columns.keys() - set(known):
        rest[name] = column(table[name].dtype.name, table[name][order])
    first = buffer.first_row
    gaps = buffer.parts.between(first, first + len(buffer))
    loose = np.concatenate([np.arange(0), *(np.arange(a, a + n) - first for a, n in zip(*gaps, strict=True))])
    rows = buffer.read(loose.astype(np.int64))
    rest["steps"] = sha(
        *(f"fields/{name}".encode() + b"\0" + run(field, rows[name]) for name, field in declared.items())
    )
    rest["metadata"] = sha(text(buffer.metadata))
    environment = {key: value for key, value in (buffer.environment or {}).items() if value is not None}
    rest["environment"] = sha(text(environment or None))
    told = {"fields": fields, "rest": {name: value.hex() for name, value in rest.items()}}
    return {"content": sha(text(told)).hex(), **told, "digests": [one.hex() for one in each]}
