"""Values that are set later: what setting costs beside appending as much, and what is read of a field that
has changed beside one that has not."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Callable
from typing import Any

import numpy as np
from measuring import Context, Result, check, interleaved, ratio
from measuring.timing import each

import replaystore as rs

__all__ = ["MEASURES"]

COUNT, SIZE, BATCHES = 2048, 256, 64
ROWS, SETS = 10**6, 500
APPEND, IMMUTABLE = "append of as many, commit", "a field that is not mutable"


def _fields() -> rs.Schema:
    return rs.Schema(
        {
            "value": rs.Field("float32", (), "extra"),
            "advantage": rs.Field("float32", (), "extra", mutable=True),
        }
    )


def setting(context: Context) -> list[Result]:
    """2,048 values of a million, and a commit: steps that lie together, steps at random, and those that were
    appended just before."""
    rows, found = context.choose(ROWS, ROWS // 50), []
    rng, values = np.random.default_rng(0), np.ones(COUNT, np.float32)
    alone = rs.Schema({"advantage": rs.Field("float32", (), "extra", mutable=True)})
    for suffix, durability in itertools.product((".zarr", ".h5"), ("none", "commit")):
        buffers = []
        for name in ("a", "b", "c", "d"):
            place = context.folder / f"{name}-{durability}{suffix}"
            buffer = rs.create(place, alone, durability=durability, overwrite=True)
            buffer.append({"advantage": np.zeros(rows, np.float32)})
            buffer.commit()
            buffers.append(buffer)
        beside, together, apart, fresh = buffers

        def append(buffer: rs.Buffer = beside) -> None:
            buffer.append({"advantage": values})
            buffer.commit()

        def block(buffer: rs.Buffer = together) -> None:
            begin = int(rng.integers(0, rows - COUNT))
            buffer["advantage"][begin : begin + COUNT] = values
            buffer.commit()

        def scattered(buffer: rs.Buffer = apart) -> None:
            buffer["advantage"][rng.integers(0, rows, COUNT)] = values
            buffer.commit()

        def uncommitted(buffer: rs.Buffer = fresh) -> None:
            buffer.append({"advantage": values})
            stop = buffer.rows_recorded
            buffer.set_values("advantage", range(stop - COUNT, stop), values)
            buffer.commit()

        what = f"{COUNT} values set and committed, of {rows:.0e}, {suffix}, durability {durability}"
        ways: dict[str, Callable[[], Any]] = {
            APPEND: append,
            "set, side by side": block,
            "set, at random": scattered,
            "appended, and set before the commit": uncommitted,
        }
        context.say(what)
        seconds = interleaved({name: each(way, 16) for name, way in ways.items()}, context.choose(25, 5))
        found += [
            Result(what, name, ratio(seconds, name, APPEND), "x", detail=_told(seconds, name, APPEND))
            for name in ways
            if name != APPEND
        ]
        check(bool((together["advantage"][:] <= 1).all()), "set", suffix)
        for buffer in buffers:
            buffer.close()
    return found


def taking(context: Context) -> list[Result]:
    """256 of a million values, of which none, a fiftieth or all have been set since."""
    rows, found = context.choose(ROWS, ROWS // 50), []
    rng = np.random.default_rng(0)
    for part, sets in (("a fiftieth", SETS // 50), ("nearly all", 4 * SETS)):
        with rs.create(context.folder / f"{sets}.zarr", _fields(), durability="none") as buffer:
            known = rng.random(rows, np.float32)
            buffer.append({"value": known, "advantage": np.zeros(rows, np.float32)})
            buffer.commit()
            for _ in range(context.choose(sets, sets // 10)):
                at = rng.integers(0, rows, COUNT)
                buffer["advantage"][at] = known[at]
                buffer.commit()
            changed, plain = buffer["advantage"], buffer["value"]
            chosen = rng.integers(0, rows, SIZE)
            values = changed[chosen]
            check(bool(((values == plain[chosen]) | (values == 0)).all()), "take", part)
            samplers = {
                name: buffer.sampler(SIZE, fields=[field], next_observation=False, seed=0)
                for name, field in ((IMMUTABLE, "value"), ("a mutable field", "advantage"))
            }
            for what, ways in (
                ("column[rows]", {IMMUTABLE: plain, "a mutable field": changed}),
                ("sample()", samplers),
            ):
                title = f"{what} of {SIZE} rows of {rows:.0e}, {part} set since"
                context.say(title)
                seconds = interleaved(
                    {
                        name: each(
                            one.sample
                            if isinstance(one, rs.Sampler)
                            else lambda one=one: one[rng.integers(0, rows, SIZE)],  # type: ignore[misc]
                            BATCHES,
                        )
                        for name, one in ways.items()
                    },
                    context.choose(41, 5),
                )
                name = "a mutable field"
                value = ratio(seconds, name, IMMUTABLE)
                found.append(Result(title, name, value, "x", detail=_told(seconds, name, IMMUTABLE)))
    return found


def _told(seconds: Any, name: str, beside: str) -> str:
    mine, other = (statistics.median(seconds[one]) * 1e6 for one in (name, beside))
    return f"median {mine:.1f} us, {beside} {other:.1f} us"


MEASURES = {"set-values": setting, "changed-values": taking}
