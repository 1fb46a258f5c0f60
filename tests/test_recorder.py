"""Blocks of trajectories become what `append` would have made of the same steps, however they are cut."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import replaystore as rs
from replaystore.arrays.array_store import ArrayStore
from replaystore.buffers import given
from replaystore.buffers.recorder import NOTHING, Recorder
from replaystore.buffers.replacing import NewStore
from replaystore.checking.verify import verify
from replaystore.errors import SchemaError
from replaystore.location import parse
from replaystore.schema import document as documents
from replaystore.schema import tree
from replaystore.schema.fields import Field, Schema
from replaystore.trajectories.blocks import Block
from replaystore.views.layout import array_specs, table_spec

SCHEMA = Schema(
    {
        "observation/at": Field("float32", (2,), "observation"),
        "observation/camera": Field("uint8", (3, 3), "observation"),
        "action": Field("int64", (), "action"),
        "reward": Field("float64", (), "reward"),
        "terminated": Field("bool", (), "terminated"),
    }
)


class Store:
    """A new store and a recorder on it, without a buffer."""

    def __init__(self, folder: Path, schema: Schema = SCHEMA, columns: dict[str, str] | None = None) -> None:
        self.location = str(folder / "made.zarr")
        document = documents.new(
            schema,
            layout={"name": "live", "durability": "commit", "overrides": {}},
            provenance=documents.provenance(None),
        )
        self.new = NewStore(parse(self.location), document.to_json(), overwrite=False)
        specs = array_specs(schema, "live", self.new.container.capabilities, capacity=None, storage=None)
        for name, dtype in (columns or {}).items():
            specs[tree.trajectories(name)] = table_spec(dtype, mutable=True)
        self.store = ArrayStore.create(self.new.container, specs, NOTHING, durable=True)
        self.recorder = Recorder(self.store, schema)

    def opened(self) -> rs.Buffer:
        """What was recorded, as a buffer, which `verify` has nothing against."""
        self.recorder.commit()
        self.store.publish()
        self.store.tidy()
        self.store.close()
        self.new.finish()
        assert not verify(self.location).problems
        return rs.open(self.location)


def steps(count: int, seed: int, *, terminated: bool = False) -> dict[str, np.ndarray[Any, Any]]:
    rng = np.random.default_rng(seed)
    flags = np.zeros(count, np.bool_)
    flags[-1] = terminated
    return {
        "observation/at": rng.normal(size=(count, 2)).astype(np.float32),
        "observation/camera": rng.integers(0, 255, (count, 3, 3), np.uint8),
        "action": rng.integers(0, 9, count),
        "reward": rng.normal(size=count),
        "terminated": flags,
    }


def final(seed: int) -> dict[str, np.ndarray[Any, Any]]:
    return {name: rows[0] for name, rows in steps(1, 1000 + seed).items() if name.startswith("observation")}


def cut(block: Block, sizes: list[int]) -> Iterator[Block]:
    """The same steps in several blocks."""
    count, at = len(block.columns["action"]), 0
    while at < count:
        stop = min(at + sizes.pop(0), count) if sizes else count
        yield Block(
            {name: rows[at:stop] for name, rows in block.columns.items()},
            env=block.env,
            begins=block.begins and not at,
            ends=block.ends and stop == count,
            seed=block.seed,
            split=block.split,
            final=block.final if stop == count else None,
        )
        at = stop


def contents(buffer: rs.Buffer) -> dict[str, Any]:
    table = buffer.trajectories
    found: dict[str, Any] = {name: column.tolist() for name, column in table.columns.items()}
    found["steps"] = [
        {name: rows.tolist() for name, rows in buffer.trajectory(number).columns.items()}
        for number in range(len(table))
    ]
    found["finals"] = [
        None if known is None else {name: row.tolist() for name, row in known.items()}
        for known in (buffer.trajectory(number).final_observation for number in range(len(table)))
    ]
    return found


BLOCKS = [
    Block(steps(7, 1, terminated=True), env=0, seed=5, split="train", final=final(1)),
    Block(steps(4, 2), env=1, split="val", ends=False, final=final(2)),
    Block(steps(1, 3), env=0),
    Block(steps(5, 4), env=2, ends=False),
    Block(steps(6, 5, terminated=True), env=0, final=final(5)),
    Block(steps(3, 6), env=1, begins=False, final=final(6)),
    Block(steps(2, 7), env=2, ends=False),
]


def test_blocks_are_recorded_as_append_records_the_same_steps(tmp_path: Path) -> None:
    made, blocks = Store(tmp_path), BLOCKS[:6]
    for block in blocks:
        made.recorder.record(block)

    with rs.create(str(tmp_path / "appended.zarr"), SCHEMA) as appended:
        for block in blocks:
            appended.append(
                block.columns,
                env=block.env,
                split=block.split,
                ends=[len(block.columns["action"]) - 1] if block.ends else [],
                final_observation=block.final and {name: row[None] for name, row in block.final.items()},
            )
        appended.commit()
        expected = contents(appended)
    expected["seed"][0] = 5  # which `append` is not told
    with made.opened() as buffer:
        assert contents(buffer) == expected


@pytest.mark.parametrize("seed", range(8))
def test_trajectories_of_a_call_are_recorded_alike_one_by_one_and_all_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    found = []
    for few in (0, 1000):
        monkeypatch.setattr(given, "FEW", few)
        rng = np.random.default_rng(seed)
        with rs.create(str(tmp_path / f"{few}.zarr"), SCHEMA) as buffer:
            for call in range(12):
                columns = steps(int(rng.integers(1, 80)), call)
                ended = columns["terminated"]
                ended[:] = rng.random(len(ended)) < rng.choice([0, 0.1, 0.6])
                touched = int(ended.sum()) + (not ended[-1])
                finals = steps(touched, 100 + call) if rng.random() < 0.5 else {}
                buffer.append(
                    columns,
                    env=int(rng.integers(3)),
                    seed=None if rng.random() < 0.5 else call,
                    final_observation={name: finals[name] for name in finals if "observation" in name}
                    or None,
                )
                if rng.random() < 0.3:
                    buffer.commit()
        with rs.open(str(tmp_path / f"{few}.zarr")) as buffer:
            found.append(
                contents(buffer) | {name: buffer.read(slice(None))[name].tolist() for name in SCHEMA.fields}
            )
    assert found[0] == found[1]


@pytest.mark.parametrize("sizes", [[1], [2, 1], [1, 1, 1, 1], [3, 3]])
def test_how_steps_are_cut_into_blocks_changes_nothing(tmp_path: Path, sizes: list[int]) -> None:
    found = []
    for name, many in (("whole", False), ("cut", True)):
        (tmp_path / name).mkdir()
        made = Store(tmp_path / name)
        for block in BLOCKS:
            for piece in cut(block, list(sizes)) if many else [block]:
                made.recorder.record(piece)
                if many and len(piece.columns["action"]) == 1:
                    made.recorder.commit()
        with made.opened() as buffer:
            found.append(contents(buffer))
    assert found[0] == found[1]


def test_what_the_next_block_observed_otherwise_is_kept_as_what_followed(tmp_path: Path) -> None:
    made = Store(tmp_path)
    made.recorder.record(Block(steps(3, 1), ends=False, final=final(1)))
    made.recorder.record(Block(steps(2, 2), begins=False))

    with made.opened() as buffer:
        trajectory = buffer.trajectory(0)
        assert len(trajectory) == 5
        assert trajectory._following[2]["observation/at"].tolist() == final(1)["observation/at"].tolist()


def test_values_of_the_table_come_with_the_block_that_knows_them(tmp_path: Path) -> None:
    made = Store(tmp_path, columns={"score": "<f4", "level": "<i8"})
    made.recorder.record(Block(steps(3, 1), row={"level": 4}, ends=False))
    made.recorder.record(Block(steps(3, 1), begins=False, row={"score": 0.5}))
    made.recorder.record(Block(steps(3, 1)))

    with made.opened() as buffer:
        assert buffer.trajectories["level"].tolist() == [4, 0]
        assert buffer.trajectories["score"][0] == 0.5
        assert np.isnan(buffer.trajectories["score"][1])


def test_how_a_trajectory_ended_is_said_where_no_field_says_it(tmp_path: Path) -> None:
    made = Store(tmp_path, Schema({name: SCHEMA.fields[name] for name in ("action", "reward")}))
    two = {name: rows for name, rows in steps(2, 1).items() if name in ("action", "reward")}
    made.recorder.record(Block(two, terminated=True))
    made.recorder.record(Block(two, truncated=True))
    made.recorder.record(Block(two, ends=False))
    made.recorder.cut_all()

    with made.opened() as buffer:
        assert buffer.trajectories["terminated"].tolist() == [True, False, False]
        assert buffer.trajectories["truncated"].tolist() == [False, True, False]
        assert buffer.trajectories["return"].tolist() == [two["reward"].cumsum()[-1]] * 3


@pytest.mark.parametrize(
    ("block", "said"),
    [
        (Block({name: rows[:0] for name, rows in steps(1, 1).items()}), "no steps"),
        (Block({**steps(2, 1), "action": np.zeros(2, np.int32)}), "'action'"),
        (Block(steps(2, 1), terminated=True), "ends with terminated=True"),
        (Block(steps(2, 1), final={"observation/at": np.zeros(2, np.float32)}), "after the last step"),
        (Block(steps(2, 1), row={"unknown": 1}), "'unknown'"),
        (Block(steps(2, 1), row={"length": 1}), "made of what is recorded"),
        (Block(steps(2, 1), row={"level": 1.5}), "'level' holds int64"),
    ],
    ids=str,
)
def test_a_block_that_does_not_fit_is_refused_and_nothing_recorded(
    tmp_path: Path, block: Block, said: str
) -> None:
    made = Store(tmp_path, columns={"level": "<i8"})
    made.recorder.record(Block(steps(2, 1)))

    with pytest.raises(SchemaError, match=said):
        made.recorder.record(block)

    with made.opened() as buffer:
        assert (len(buffer), buffer.num_trajectories) == (2, 1)
