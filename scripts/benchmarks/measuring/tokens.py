"""Sequences to write: tokens of language models, and texts. One flat array and where each of them ends, and
stores of the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import replaystore as rs

__all__ = ["SCHEMA", "TEXTS", "TOKENS", "sequences", "some", "write"]

TOKENS = 20, 2000
"""The shortest and the longest sequence."""
TEXTS = 8, 40
"""Of texts, in bytes."""
SCHEMA = rs.Schema(
    {
        "tokens": rs.Field("int32", (None,), "extra"),
        "reward": rs.Field("float32", (), "reward"),
        "truncated": rs.Field("bool", (), "truncated"),
    }
)
VOCABULARY = 50_000
EPISODE, BLOCK = 100, 10_000


def sequences(count: int, lengths: tuple[int, int], *, text: bool = False) -> rs.Ragged:
    """So many of random lengths."""
    rng = np.random.default_rng(0)
    offsets = np.zeros(count + 1, np.int64)
    np.cumsum(rng.integers(lengths[0], lengths[1] + 1, count), out=offsets[1:])
    if text:
        return rs.Ragged(rng.integers(97, 123, offsets[-1], np.uint8), offsets, text=True)
    return rs.Ragged(rng.integers(0, VOCABULARY, offsets[-1], np.int32), offsets)


def write(place: Path, given: rs.Ragged, *, block: int = BLOCK, episode: int = EPISODE) -> None:
    """A store of these sequences, a step each."""
    field = rs.Field("uint8", (None,), "extra", text=True) if given.text else SCHEMA.fields["tokens"]
    schema = rs.Schema({**SCHEMA.fields, "tokens": field})
    truncated = np.zeros(block, np.bool_)
    truncated[episode - 1 :: episode] = True
    with rs.create(place, schema, durability="none") as buffer:
        for begin in range(0, len(given), block):
            part = given[begin : begin + block]
            rewards = np.zeros(len(part), np.float32)
            buffer.append({"tokens": part, "reward": rewards, "truncated": truncated[: len(part)]})
            buffer.commit()


def some(given: rs.Ragged, rows: NDArray[np.int64]) -> list[NDArray[Any]]:
    """Slices of the flat array, as anybody would take them."""
    flat, begins, ends = given.values, given.offsets[rows].tolist(), given.offsets[rows + 1].tolist()
    return [flat[begin:end] for begin, end in zip(begins, ends, strict=True)]
