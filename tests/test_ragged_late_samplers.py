"""Fields of any length that are added beside samplers and readers, in this process and in others.

A sampler shows the fields that there were when it was made, as it does of fields of one length."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import replaystore as rs
from replaystore.errors import ArgumentError

SCHEMA = rs.Schema({"reward": rs.Field("float32", (), "reward")})
TOKENS = rs.Field("int32", (None,), "extra")


def values(begin: int, count: int) -> list[Any]:
    """Tokens that tell their step."""
    return [np.full(step % 4, step, np.int32) for step in range(begin, begin + count)]


def append(buffer: rs.Buffer, count: int) -> None:
    begin = buffer.rows_recorded
    steps: dict[str, Any] = {"reward": np.arange(begin, begin + count, dtype=np.float32)}
    if "tokens" in buffer.schema.fields:
        steps["tokens"] = values(begin, count)
    buffer.append(steps, ends=[count - 1])


def check(batch: dict[str, Any], empty_before: int = 0) -> None:
    """Of steps before the field was there, values are empty."""
    for row, tokens in zip(batch["reward"].astype(int).tolist(), batch["tokens"], strict=True):
        assert tokens.tolist() == ([] if row < empty_before else [row] * (row % 4))


@pytest.fixture(params=["a.zarr", "a.h5", "memory:late-tokens", "ring.zarr"])
def buffer(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    name = request.param
    location = name if name.startswith("memory:") else str(tmp_path / name)
    capacity = {"capacity": 60} if name.startswith("ring") else {}
    with rs.create(location, SCHEMA, **capacity) as made:
        append(made, 40)
        made.commit()
        yield made


@pytest.mark.parametrize("given", [True, False])
@pytest.mark.parametrize("live", [True, False])
def test_a_sampler_of_this_process_goes_on_and_the_next_one_shows_the_field(
    buffer: rs.Buffer, live: bool, given: bool
) -> None:
    sampler = buffer.sampler(64, live=live, seed=0)
    assert set(sampler.sample()) == {"reward", "index"}
    buffer.add_field("tokens", TOKENS, values=values(0, 40) if given else None)
    assert set(sampler.sample()) == {"reward", "index"}
    append(buffer, 10)
    batch = sampler.sample()
    assert set(batch) == {"reward", "index"}
    buffer.commit()
    sampler.refresh()
    assert max(sampler.sample()["reward"].max() for _ in range(4)) >= 40
    fresh = buffer.sampler(64, live=live, seed=5)
    for _ in range(3):
        check(fresh.sample(), 0 if given else 40)
    append(buffer, 10)
    buffer.commit()
    fresh.refresh()
    check(fresh.sample(), 0 if given else 40)


def test_a_reader_of_this_process_shows_the_field_once_it_is_refreshed(buffer: rs.Buffer) -> None:
    reader = rs.open(buffer.location)
    sampler = reader.sampler(64, seed=0)
    buffer.add_field("tokens", TOKENS, values=values(0, 40))
    buffer.commit()
    append(buffer, 5)
    buffer.commit()
    assert "tokens" not in reader.schema.fields
    assert set(sampler.sample()) == {"reward", "index"}
    assert sampler.refresh()
    assert set(sampler.sample()) == {"reward", "index"}
    check(reader.sampler(64, seed=0).sample())
    assert [one.tolist() for one in reader["tokens"][-3:]] == [one.tolist() for one in values(42, 3)]
    reader.close()


READER = """
import sys
import replaystore as rs
buffer = rs.open(sys.argv[1])
sampler = buffer.sampler(64, seed=0)
assert set(sampler.sample()) == {"reward", "index"}
print("ready", flush=True)
input()
assert set(sampler.sample()) == {"reward", "index"}
assert sampler.refresh()
assert set(sampler.sample()) == {"reward", "index"}
batch = buffer.sampler(64, seed=0).sample()
for row, tokens in zip(batch["reward"].astype(int).tolist(), batch["tokens"], strict=True):
    assert tokens.tolist() == [row] * (row % 4), (row, tokens)
print(len(buffer["tokens"][:]))
"""


@pytest.mark.parametrize("kind", ["a.zarr", "a.h5"])
def test_a_reader_of_another_process_shows_the_field_once_it_is_refreshed(tmp_path: Path, kind: str) -> None:
    with rs.create(tmp_path / kind, SCHEMA) as buffer:
        append(buffer, 40)
        buffer.commit()
        program = [sys.executable, "-c", READER, str(tmp_path / kind)]
        with subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
            assert other.stdout is not None
            assert other.stdout.readline() == "ready\n"
            buffer.add_field("tokens", TOKENS, values=values(0, 40))
            append(buffer, 10)
            buffer.commit()
            told, _ = other.communicate("\n", timeout=60)
            assert (other.returncode, told) == (0, "50\n")


@pytest.mark.parametrize("first", [True, False])
def test_stores_are_joined_with_what_all_of_them_have(tmp_path: Path, first: bool) -> None:
    """The field is added to one store, and then to the other."""
    buffers = [rs.create(tmp_path / f"{number}.zarr", SCHEMA) for number in range(2)]
    for buffer in buffers:
        append(buffer, 40)
        buffer.commit()
    both = rs.concat(buffers)
    old = both.sampler(64, seed=0)
    one, other = buffers if first else reversed(buffers)
    one.add_field("tokens", TOKENS, values=values(0, 40))
    append(one, 8)
    one.commit()
    old.refresh()
    assert set(old.sample()) == set(both.sampler(64, seed=0).sample()) == {"reward", "index", "store"}
    with pytest.raises(ArgumentError, match=r"has no field 'tokens'.*add_field"):
        both.sampler(64, fields=["tokens"])
    other.add_field("tokens", TOKENS)
    append(other, 8)
    other.commit()
    batch = both.sampler(256, seed=0).sample()
    rows, stores = batch["reward"].astype(int).tolist(), batch["store"].tolist()
    for row, store, tokens in zip(rows, stores, batch["tokens"], strict=True):
        late = buffers[store] is other and row < 40
        assert tokens.tolist() == ([] if late else [row] * (row % 4))
    old.refresh()
    old.sample()
    for buffer in buffers:
        buffer.close()
