"""Small schemas and recordings that reach every corner: made from a seed, and the same for every backend."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import numpy as np
from numpy.typing import NDArray

from replaystore.schema.fields import Field, Schema
from replaystore.schema.ragged import Ragged
from replaystore.schema.spaces import DTYPES
from replaystore.views import layout

__all__ = [
    "RAGGED",
    "TOKENS",
    "Step",
    "beginning_with",
    "columns",
    "every_dtype",
    "play",
    "recording",
    "shards_of",
    "small",
    "storage",
]

Columns = dict[str, Any]
"""Arrays by field, and a Ragged of each field of any length."""
RAGGED = {
    "observation/text": Field.of_text("observation"),
    "info/tokens": Field(np.dtype(np.int32), (None,), "info"),
    "info/points": Field(np.dtype(np.float32), (None, 3), "info"),
}
TOKENS = 1024
"""Of tokens in a chunk of `storage`."""
LETTERS = ["a", "é", "語", "😀", " ", "\0", "ab", ""]


def small(*, ragged: bool = False) -> Schema:
    """Images that are coded, vectors and numbers that are raw, and a field whose rows fill its chunks and
    shards quickly. `ragged`: texts, tokens and points of any length, too."""
    fields = {
        "observation/camera": Field(np.dtype(np.uint8), (4, 3), "observation"),
        "observation/joints": Field(np.dtype(np.float32), (3,), "observation"),
        "action": Field(np.dtype(np.int64), (), "action"),
        "reward": Field(np.dtype(np.float64), (), "reward"),
        "terminated": Field(np.dtype(np.bool_), (), "terminated"),
        "truncated": Field(np.dtype(np.bool_), (), "truncated"),
        "info/wide": Field(np.dtype(np.uint16), (256,), "info"),
    }
    return Schema(fields | RAGGED if ragged else fields)


@contextmanager
def shards_of(chunks: int) -> Iterator[None]:
    """Stores that are made meanwhile have so few chunks in a shard that a short recording begins many."""
    with patch.multiple(layout, CHUNKS_PER_SHARD=chunks, SMALL_PER_SHARD=chunks):
        yield


def storage(codec: str, *, ragged: bool = False) -> dict[str, dict[str, Any]]:
    """Settings for `small` with chunks of a few rows; of values of any length raw ones of a page, and coded
    ones of a few."""
    found: dict[str, dict[str, Any]] = {
        "observation/camera": {"codec": codec, "chunk_rows": 4},
        "info/wide": {"codec": "raw", "chunk_rows": 8},
    }
    more = {
        "info/tokens": {"codec": "raw", "chunk_rows": TOKENS},
        "info/points": {"codec": codec, "chunk_rows": 48},
    }
    return found | more if ragged else found


def every_dtype() -> Schema:
    """One field of each dtype, and the flags; names that need escaping; a tuple."""
    fields = {f"info/{name}": Field(dtype, (2,), "info") for name, dtype in DTYPES.items()}
    awkward = ["zarr.json", "__init__", "a.b", "a b", "%25", "%", "é", "con", "c", "0", "..", "x%2Fy"]
    fields |= {f"info/awkward/{name}": Field(np.dtype(np.int8), (), "info") for name in awkward}
    fields |= {
        "observation/0": Field(np.dtype(np.float64), (), "observation"),
        "observation/1/x": Field(np.dtype("u1"), (2, 1), "observation"),
    }
    fields |= {
        "action": Field(np.dtype(np.float32), (2,), "action"),
        "reward": Field(np.dtype(np.float32), (2,), "reward"),
    }
    fields |= {name: Field(np.dtype(np.bool_), (), name) for name in ("terminated", "truncated")}
    return Schema(fields, frozenset({"observation"}))


def columns(schema: Schema, count: int, seed: int, *, ends: float = 0.15) -> Columns:
    """Rows of any bits (NaN and infinities among them), in which a trajectory ends at each step with
    probability `ends`."""
    generator = np.random.default_rng(seed)
    found: Columns = {}
    for name, declared in schema.fields.items():
        if declared.ragged:
            found[name] = _ragged(declared, count, np.random.default_rng([seed, len(name)]))
        elif declared.role in ("terminated", "truncated"):
            found[name] = generator.random(count) < ends
        elif declared.role == "reward":
            found[name] = generator.normal(size=(count, *declared.shape)).astype(declared.dtype)
        elif declared.dtype == np.bool_:
            found[name] = generator.random((count, *declared.shape)) < 0.5
        else:
            data = generator.integers(0, 256, count * declared.row_bytes, np.uint8)
            found[name] = data.view(declared.dtype).reshape(count, *declared.shape)
    return found


def _ragged(declared: Field, count: int, generator: np.random.Generator) -> Ragged:
    """Values of no length, of that of a chunk, a little less and more, and of any in between."""
    often, seldom = [0, 0, 1, 2, 3, 7, 40], [TOKENS - 1, TOKENS, TOKENS + 1, 3 * TOKENS]
    lengths = [int(generator.choice(often if generator.random() < 0.97 else seldom)) for _ in range(count)]
    if declared.text:
        return Ragged.of(["".join(generator.choice(LETTERS, length)) for length in lengths], text=True)
    size = sum(lengths) * declared.dtype.itemsize * int(np.prod(declared.inner))
    data = generator.integers(0, 256, size, np.uint8).view(declared.dtype)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return Ragged(data.reshape(-1, *declared.inner), offsets)


def observations(schema: Schema, count: int, seed: int) -> Columns:
    """Observations alone."""
    chosen = schema.select(schema.names("observation"))
    return columns(chosen, count, seed)


def beginning_with(value: Any, rows: Any) -> Any:
    """Rows of a field, of which the first is this value."""
    if isinstance(rows, Ragged):
        return Ragged.of([value, *rows[1:]], rows.dtype, rows.inner, text=rows.text)
    return np.concatenate([np.asarray(value, rows.dtype)[None], rows[1:]])


@dataclass(frozen=True)
class Step:
    """One call of a writer: a reset if there is no action, else a step."""

    columns: Columns
    mask: NDArray[np.bool_] | None
    seeds: Sequence[int | None] | None = None


def recording(schema: Schema, num_envs: int, steps: int, seed: int, *, masks: bool = False) -> Iterator[Step]:
    """What several environments give. Where a trajectory ends, a reset follows at once, later, or never; some
    are reset in between."""
    generator = np.random.default_rng(seed)
    yield Step(
        observations(schema, num_envs, seed),
        None,
        [int(number) for number in generator.integers(0, 99, num_envs)],
    )
    for number in range(steps):
        mask = generator.random(num_envs) < 0.7 if masks and generator.random() < 0.4 else None
        values = columns(schema, num_envs, seed + 7 * number + 1, ends=0.1)
        yield Step(values, mask)
        ended = (values["terminated"] | values["truncated"]) & (True if mask is None else mask)
        again = ended & (generator.random(num_envs) < 0.7) | (generator.random(num_envs) < 0.03)
        while again.any():
            seeds = [
                None if generator.random() < 0.5 else int(generator.integers(0, 99)) for _ in range(num_envs)
            ]
            yield Step(observations(schema, num_envs, seed + 7 * number + 2), again, seeds)
            again = generator.random(num_envs) < 0.1


def play(writer: Any, step: Step, schema: Schema) -> None:
    """Make the call."""
    observation = schema.unflatten(
        {name: values for name, values in step.columns.items() if name in schema.names("observation")},
        "observation",
    )
    if "action" not in step.columns:
        writer.reset(observation, seed=step.seeds, mask=step.mask)
        return
    plain: Mapping[str, NDArray[Any]] = step.columns
    info = {name: values for name, values in plain.items() if name.startswith("info/")}
    writer.step(
        plain["action"],
        plain["reward"],
        plain["terminated"],
        plain["truncated"],
        observation,
        info,
        mask=step.mask,
    )
