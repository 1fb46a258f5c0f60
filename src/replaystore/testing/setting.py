"""Values of mutable fields that are set at random, in a buffer and in a plain one."""

from __future__ import annotations

from typing import Any

import numpy as np

from replaystore.buffers.buffer import Buffer
from replaystore.testing.plain import PlainBuffer

__all__ = ["mutable_fields", "recorded", "set_some"]


def mutable_fields(recorder: Buffer | PlainBuffer) -> list[str]:
    """The names of the fields that can be set."""
    return [name for name, declared in recorder.schema.fields.items() if declared.mutable]


def recorded(recorder: Buffer | PlainBuffer) -> int:
    """Steps that can be set: those of the last commit that are kept, and those since."""
    if isinstance(recorder, Buffer):
        return recorder.rows_recorded - recorder.first_row
    recorder.flush()
    return len(recorder.state.order) - recorder.state.first


def shown(recorder: Buffer | PlainBuffer) -> int:
    """Steps of the last commit."""
    return len(recorder) if isinstance(recorder, Buffer) else recorder.contents().steps


def set_some(recorder: Buffer | PlainBuffer, seed: int) -> None:
    """Set some steps of one of its mutable fields, in one of the ways that there are."""
    generator = np.random.default_rng(seed)
    name = str(generator.choice(mutable_fields(recorder)))
    declared, chance = recorder.schema.fields[name], generator.random()
    by_position = shown(recorder) > 0 and chance < 0.5
    steps = shown(recorder) if by_position else recorded(recorder)
    begin, end = np.sort(generator.integers(0, steps + 1, 2)).tolist()
    ways: list[Any] = [
        slice(begin, end),
        slice(None, None, 3),
        slice(-min(steps, 7), None),
        generator.integers(-steps, steps, 12),
        generator.random(steps) < 0.2,
        int(generator.integers(-steps, steps)),
    ]
    rows = ways[int(generator.integers(len(ways)))]
    count = np.atleast_1d(np.arange(steps)[rows]).size
    shape = declared.shape if seed % 3 == 0 or isinstance(rows, int) else (count, *declared.shape)
    values = generator.integers(0, 100, shape).astype(declared.dtype)
    if isinstance(recorder, PlainBuffer):
        recorder.set_values(name, np.arange(steps)[rows], values)
    elif by_position:
        recorder[name][rows] = values
    else:
        index = recorder.first_row + np.atleast_1d(np.arange(steps)[rows])
        recorder.set_values(name, index, values)
