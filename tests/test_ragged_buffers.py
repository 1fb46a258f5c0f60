"""Fields of any length in a buffer: whatever is appended, in whatever order, is there as in lists of Python;
after crashes, in rings, after rollbacks, in older commits."""

from __future__ import annotations

import pickle
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import replaystore as rs
from replaystore.errors import ArgumentError
from replaystore.schema import tree
from replaystore.schema.ragged import Ragged

SCHEMA = rs.Schema(
    {
        "observation/text": rs.Field.of_text("observation"),
        "observation/at": rs.Field("float32", (None, 3), "observation"),
        "observation/plain": rs.Field("int32", (2,), "observation"),
        "action": rs.Field("int32", (None,), "action"),
        "reward": rs.Field("float32", (), "reward"),
        "terminated": rs.Field("bool", (), "terminated"),
        "truncated": rs.Field("bool", (), "truncated"),
    }
)
OBSERVED = ("observation/text", "observation/at", "observation/plain")
STORAGE = {"action": {"chunk_rows": 1024}, "observation/text": {"chunk_rows": 4096}}
WORDS = ["", "a", "é", "語", "😀", "word ", "\0", "Ω"]
Observation = dict[str, Any]


@dataclass
class Trajectory:
    """Numbers of rows, and by row what followed it, where that was said."""

    rows: list[int] = field(default_factory=list)
    followed: dict[int, Observation] = field(default_factory=dict)


@dataclass
class Plain:
    """What a buffer should show, in lists."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    trajectories: list[Trajectory] = field(default_factory=list)
    opened: dict[int, int] = field(default_factory=dict)

    def append(self, env: int, rows: list[dict[str, Any]], finals: list[Observation] | None) -> None:
        touched = 0
        for place, row in enumerate(rows):
            if env not in self.opened:
                self.opened[env] = len(self.trajectories)
                self.trajectories.append(Trajectory())
            known = self.trajectories[self.opened[env]]
            known.rows.append(len(self.rows))
            self.rows.append(row)
            ends = row["terminated"] or row["truncated"]
            if ends or place == len(rows) - 1:
                if finals is not None:
                    known.followed[known.rows[-1]] = finals[touched]
                touched += 1
            if ends:
                del self.opened[env]

    def next(self, number: int, place: int) -> Observation | None:
        known = self.trajectories[number]
        row = known.rows[place]
        if row in known.followed:
            return known.followed[row]
        return self.rows[known.rows[place + 1]] if place + 1 < len(known.rows) else None


class Story:
    """A buffer and its list, and a way to go on with both."""

    def __init__(self, location: str, seed: int, capacity: int | None, layout: Any) -> None:
        self.location, self.capacity, self.random = location, capacity, np.random.default_rng(seed)
        self.buffer = rs.create(
            location, SCHEMA, capacity=capacity, layout=layout, storage=STORAGE if layout == "live" else None
        )
        self.now = Plain()
        self.commits: dict[int, bytes] = {0: pickle.dumps(self.now)}

    # --- values

    def text(self) -> str:
        length = int(self.random.choice([0, 0, 1, 2, 7, 30, 3000], p=[0.1, 0.1, 0.2, 0.2, 0.2, 0.15, 0.05]))
        return "".join(self.random.choice(WORDS, length))

    def observation(self) -> Observation:
        length = int(self.random.choice([0, 1, 2, 5, 400], p=[0.2, 0.2, 0.3, 0.25, 0.05]))
        return {
            "observation/text": self.text(),
            "observation/at": self.random.random((length, 3), np.float32),
            "observation/plain": self.random.integers(0, 9, 2, np.int32),
        }

    def row(self, observation: Observation) -> dict[str, Any]:
        length = int(
            self.random.choice([0, 1, 3, 40, 1024, 1025, 3000], p=[0.2, 0.2, 0.3, 0.2, 0.04, 0.03, 0.03])
        )
        return {
            **observation,
            "action": self.random.integers(-9, 1 << 30, length, np.int32),
            "reward": np.float32(self.random.integers(0, 9)),
            "terminated": bool(self.random.random() < 0.15),
            "truncated": bool(self.random.random() < 0.1),
        }

    # --- what can be done

    def append(self) -> None:
        env, count = int(self.random.integers(0, 3)), int(self.random.integers(1, 7))
        rows = [self.row(self.observation()) for _ in range(count)]
        if env in self.now.opened and self.random.random() < 0.7:  # goes on with what was said to follow
            known = self.now.trajectories[self.now.opened[env]]
            if (followed := known.followed.get(known.rows[-1])) is not None:
                rows[0] |= followed
        finals = None
        if self.random.random() < 0.6:
            ends = [row["terminated"] or row["truncated"] for row in rows]
            finals = [self.observation() for _ in range(sum(ends) + (not ends[-1]))]
        columns = {name: [row[name] for row in rows] for name in SCHEMA.fields}
        given = {name: self.given(name, values) for name, values in columns.items()}
        final = None
        if finals is not None:
            final = {name: self.given(name, [one[name] for one in finals]) for name in OBSERVED}
        self.buffer.append(given, env=env, final_observation=final)
        self.now.append(env, rows, finals)
        self.forget_followed()

    def forget_followed(self) -> None:
        """What was said to follow is what the next step was, if that is the same."""
        for known in self.now.trajectories:
            for row in [row for row in known.followed if row != known.rows[-1]]:
                following = self.now.rows[known.rows[known.rows.index(row) + 1]]
                if all(same(known.followed[row][name], following[name]) for name in OBSERVED):
                    del known.followed[row]

    def given(self, name: str, values: list[Any]) -> Any:
        """One of the ways in which values can be given."""
        declared = SCHEMA.fields[name]
        if not declared.ragged:
            return np.array(values, declared.dtype)
        way = int(self.random.integers(0, 3))
        if way == 0:
            return Ragged.of(values, declared.dtype, declared.inner, text=declared.text)
        if way == 1:
            return tuple(values)
        return values

    def commit(self) -> None:
        number = self.buffer.commit(
            **({"name": f"n{len(self.commits)}"} if self.random.random() < 0.2 else {})
        )
        self.commits[number] = pickle.dumps(self.now)

    def crash(self) -> None:
        number = self.buffer.commit_id
        self.buffer.abandon()
        self.buffer = rs.open(self.location, "r+")
        assert self.buffer.commit_id == number
        self.now = pickle.loads(self.commits[number])

    def reopen(self) -> None:
        self.commit()
        self.buffer.close()
        self.commits[self.buffer.commit_id] = pickle.dumps(self.now)
        self.buffer = rs.open(self.location, "r+")

    def rollback(self) -> None:
        known = [commit.commit for commit in self.buffer.commits() if commit.commit in self.commits]
        number = int(self.random.choice(known))
        self.buffer.rollback(number)
        self.now = pickle.loads(self.commits[number])
        self.commits[self.buffer.commit_id] = pickle.dumps(self.now)

    # --- what there is

    def check(self, *, older: bool = False) -> None:
        number = self.buffer.commit_id
        with rs.open(self.location) as reader:
            for view in (self.buffer, reader):
                compare(view, pickle.loads(self.commits[number]))
                check_places(view)
            for commit in reader.commits() if older else ():
                if commit.commit in self.commits:
                    with rs.open(self.location, commit=commit.commit) as old:
                        compare(old, pickle.loads(self.commits[commit.commit]), older=True)
        if older and not self.location.startswith("memory:"):
            assert rs.verify(self.location).problems == []


def same(one: Any, other: Any) -> bool:
    return one == other if isinstance(one, str) else bool(np.array_equal(one, other))


def compare(view: rs.Buffer, plain: Plain, *, older: bool = False) -> None:
    """`older`: what follows an open trajectory may not be known any more."""
    first = view.first_row
    assert len(view) + first == len(plain.rows)
    for name, declared in SCHEMA.fields.items():
        wanted = [row[name] for row in plain.rows[first:]]
        rows = view[name][:]
        if not declared.ragged:
            np.testing.assert_array_equal(rows, np.array(wanted, declared.dtype).reshape(rows.shape))
            continue
        assert rows == Ragged.of(wanted, declared.dtype, declared.inner, text=declared.text)
        assert view[name].lengths[:].tolist() == rows.lengths.tolist()
        if len(rows):
            chosen = np.random.default_rng(len(rows)).integers(0, len(rows), 17)
            assert view.read(chosen, [name])[name] == rows[chosen]
            assert same(view[name][-1], wanted[-1])
    for info in range(view.num_trajectories):
        found = view.trajectory(info)
        number = int(found.info["trajectory"])
        known = plain.trajectories[number]
        begin = len(known.rows) - len(found)
        assert begin == sum(row < first for row in known.rows)
        wants = [plain.next(number, place) for place in range(begin, len(known.rows))]
        for name in OBSERVED:
            if wants[-1] is None or (older and found.info["open"] and found.final_observation is None):
                with pytest.raises(ArgumentError, match="not known what was observed"):
                    found[f"next_{name}"]
            else:
                following = found[f"next_{name}"]
                assert all(
                    same(following[at], want[name]) for at, want in enumerate(wants) if want is not None
                )
                assert same(found.final_observation[name], wants[-1][name])


def check_places(view: rs.Buffer) -> None:
    """Begins never decrease, nothing overlaps, and a ring keeps no values before those of its oldest step."""
    for name in SCHEMA.ragged:
        spans = view.rows(name, slice(None))
        filled = spans[spans[:, 0] < spans[:, 1]]
        assert (spans[1:, 0] >= spans[:-1, 0]).all()
        assert (filled[1:, 0] >= filled[:-1, 1]).all()
        if view.capacity is not None and len(spans):
            assert view.store.first(tree.values(name)) == spans[0, 0]


KINDS: dict[str, tuple[str, int | None, str]] = {
    "live": ("a.zarr", None, "live"),
    "ring": ("a.zarr", 40, "live"),
    "archive": ("a.zarr", None, "archive"),
    "hdf5": ("a.h5", None, "live"),
    "hdf5 archive": ("a.h5", None, "archive"),
    "memory": ("memory:ragged", None, "live"),
}
STEPS = ["append"] * 7 + ["commit"] * 4 + ["crash", "reopen", "rollback"]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("kind", KINDS)
def test_a_buffer_is_what_lists_are(tmp_path: Path, kind: str, seed: int) -> None:
    name, capacity, layout = KINDS[kind]
    location = f"{name}-{seed}" if name.startswith("memory:") else str(tmp_path / name)
    story = Story(location, seed, capacity, layout)
    steps = STEPS if layout == "live" else [step for step in STEPS if step != "reopen"]
    for number, step in enumerate(story.random.choice(steps, 40).tolist()):
        getattr(story, step)()
        if step != "append":
            story.check(older=number % 8 == 0)
    story.commit()
    story.check(older=True)
    story.buffer.close()
    with rs.open(location) as sealed:
        compare(sealed, story.now)
    assert name.startswith("memory:") or rs.verify(location).problems == []
