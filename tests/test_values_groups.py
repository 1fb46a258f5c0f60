"""Arrays of values beside rows: each a group of its own, which is counted, dropped, rolled back and recovered
with the rows that it belongs to. A store of arrays against lists, whatever is done in whatever order."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from replaystore.arrays.array_store import ArrayStore
from replaystore.arrays.past import Commit
from replaystore.arrays.reading import StoreReader
from replaystore.buffers.opening import open_container, open_for_writing
from replaystore.buffers.replacing import NewStore
from replaystore.containers.array_spec import ArraySpec
from replaystore.errors import EvictedError, NotFoundError
from replaystore.location import parse
from replaystore.schema import document as documents
from replaystore.schema import tree
from replaystore.schema.fields import Field, Schema

ROW = ArraySpec(np.dtype("<i8"), (64,), chunk_rows=8, chunks_per_shard=2)
VALUE = ArraySpec(np.dtype("<i8"), (128,), chunk_rows=4, chunks_per_shard=2, dimension="a_value")
CODED = replace(VALUE, codec="gzip:1", chunk_rows=3, dimension="b_value")
STEPS, RAW, OTHER, LATE = tree.steps("a"), tree.values("a"), tree.values("b/c"), tree.values("late")
SPECS = {STEPS: ROW, RAW: VALUE, OTHER: CODED}
CAPACITY = 40


@dataclass
class Plain:
    """What a commit shows: the numbers of each group's rows, and of the oldest that it keeps."""

    rows: dict[str, list[int]]
    first: dict[str, int] = field(default_factory=dict)

    def copy(self) -> Plain:
        return Plain({name: list(rows) for name, rows in self.rows.items()}, dict(self.first))


class Story:
    """A store and what it should hold. Each row of an array is one number, repeated."""

    def __init__(self, location: str, seed: int, *, ring: bool) -> None:
        self.location, self.ring, self.durable = location, ring, seed % 2 == 1
        self.random = np.random.default_rng(seed)
        document = documents.new(Schema({"a": Field("int64", (64,), "extra")}))
        new = NewStore(parse(location), document.to_json(), overwrite=False)
        codec = new.container.capabilities.codec_for("archive")
        self.specs = {n: s if s.codec is None else replace(s, codec=codec) for n, s in SPECS.items()}
        ArrayStore.create(new.container, self.specs, {}, durable=self.durable).close()
        new.finish()
        self.now = Plain({name: [] for name in SPECS})
        self.commits = {0: self.now.copy()}
        self.number, self.late = 0, 0
        self.names: dict[str, int] = {}
        self._open()

    def _open(self) -> None:
        self.container, self.lock = open_for_writing(parse(self.location))
        self.store = ArrayStore.open(self.container, durable=self.durable)

    def rows_of(self, name: str, numbers: list[int]) -> NDArray[Any]:
        spec = self.specs[name]
        return np.repeat(np.array(numbers, "<i8"), spec.shape[0]).reshape(-1, *spec.shape)

    # --- what can be done

    def append(self) -> None:
        columns: dict[str, NDArray[Any]] = {}
        for name, rows in self.now.rows.items():
            most = 12 if name == STEPS else 9
            new = self.random.integers(1, 1 << 40, int(self.random.integers(0, most))).tolist()
            rows.extend(new)
            columns[name] = self.rows_of(name, new)
        self.store.append(columns)

    def commit(self) -> None:
        if self.ring:
            first = max(self.now.first.get("steps", 0), len(self.now.rows[STEPS]) - CAPACITY)
            self.now.first["steps"] = first
            for name, rows in self.now.rows.items():
                if name != STEPS:
                    known = self.now.first.get(name, 0)
                    self.now.first[name] = (
                        known if not first else int(self.random.integers(known, len(rows) + 1))
                    )
        name = f"name-{self.number}" if self.random.random() < 0.3 else None
        self.number = self.store.commit({}, first=dict(self.now.first) if self.ring else None, name=name)
        if name is not None:
            self.names[name] = self.number
        self.commits[self.number] = self.now.copy()

    def add(self) -> None:
        """A field comes late: its values begin with the first row."""
        if LATE not in self.now.rows:
            self.specs[LATE] = replace(VALUE, dimension="late_value")
            self.store.create_arrays({LATE: self.specs[LATE]})
            self.now.rows[LATE] = []
            self.append()
            self.commit()

    def crash(self) -> None:
        self.store.close()
        self.lock.release()
        self._open()
        self.now = self.commits[self.number].copy()

    def segment(self) -> None:
        if self.now.rows == self.commits[self.number].rows:
            self.store.begin_segment()

    def publish(self) -> None:
        if self.now.rows == self.commits[self.number].rows:
            self.store.publish()

    def rollback(self) -> None:
        known = [commit.commit for commit in self.store.commits()]
        number = int(self.random.choice(known))
        if number == self.number:
            return
        self.store.rollback(number)
        self.commits = {n: plain for n, plain in self.commits.items() if n <= number}
        self.names = {name: n for name, n in self.names.items() if n <= number}
        self.now = self.commits[number].copy()
        self.number = self.store.state.commit
        self.commits[self.number] = self.now.copy()

    # --- what there is

    def check(self) -> None:
        for store in (self.store, self.reader()):
            for known in store.commits():
                self._check_commit(store, known)
            self._compare(store, self.commits[self.number])
            store.check_arrays()
            if store is not self.store:
                store.close()

    def reader(self) -> StoreReader:
        container = open_container(parse(self.location), writable=False)
        return StoreReader(container, StoreReader.load(container))

    def _check_commit(self, store: StoreReader, known: Commit) -> None:
        if known.commit not in self.commits:
            return
        plain = self.commits[known.commit]
        counted = {tree.group_of(name): len(rows) for name, rows in plain.rows.items() if rows}
        assert {group: rows for group, rows in known.lengths.items() if rows} == counted
        self._compare(store.pin(known.commit), plain)

    def _compare(self, store: StoreReader, plain: Plain) -> None:
        for name, rows in plain.rows.items():
            first = plain.first.get(tree.group_of(name), 0)
            assert (store.first(name), store.rows(name)) == (first, len(rows)), name
            column = store.column(name)
            found = column.read(first, len(rows))
            np.testing.assert_array_equal(found, self.rows_of(name, rows[first:]))
            column.close()
            if store.spec(name).codec is None:
                chunk = store.spec(name).chunk_rows
                for number in range(-(-first // chunk), len(rows) // chunk):
                    sums = store.raw_checksum(name, number * chunk, number * chunk + chunk)
                    assert sums == store.checksum(name, number), (name, number)

    def kept_is_there(self) -> None:
        """The newest named commit's rows are kept; and of each array no more shards than that needs."""
        newest = max(self.names.values(), default=None)
        state = self.store.state
        for name in self.now.rows:
            group, first = tree.group_of(name), self.now.first.get(tree.group_of(name), 0)
            if newest is not None and name in self.commits[newest].rows:
                first = min(first, self.commits[newest].first.get(group, 0))
            assert state.needed(group) == max(first, state.gone.get(group, 0)), group


STORY = ["append"] * 6 + ["commit"] * 5 + ["crash", "segment", "publish", "rollback", "add"]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("kind", ["ring.zarr", "live.zarr", "live.h5"])
def test_values_go_with_rows(tmp_path: Path, kind: str, seed: int) -> None:
    story = Story(str(tmp_path / kind), seed, ring=kind.startswith("ring"))
    for step in story.random.choice(STORY, 40).tolist():
        getattr(story, step)()
        if step in ("commit", "rollback", "crash"):
            story.check()
            story.kept_is_there()
    story.store.publish()
    story.crash()
    story.check()
    story.store.close()
    story.lock.release()


def test_values_of_a_late_field_leave_though_a_name_is_older(tmp_path: Path) -> None:
    story = Story(str(tmp_path / "ring.zarr"), 1, ring=True)
    store, shards = story.store, tmp_path / "ring.zarr" / LATE

    def put(rows: int, values: int, **settings: Any) -> None:
        columns = {STEPS: rows, RAW: rows, OTHER: rows} | ({LATE: values} if values else {})
        store.append({name: story.rows_of(name, list(range(count))) for name, count in columns.items()})
        stop = store.next_row("steps")
        first = {"steps": max(0, stop - CAPACITY), RAW: 0, OTHER: 0}
        store.commit({}, first=first | ({LATE: store.next_row(LATE) - 8} if values else {}), **settings)

    put(10, 0, name="before")
    story.specs[LATE] = replace(VALUE, dimension="late_value")
    store.create_arrays({LATE: story.specs[LATE]})
    for _ in range(6):
        put(10, 8)
    assert (store.state.needed("steps"), store.state.needed(LATE)) == (0, 40)
    assert sorted(path.name for path in shards.iterdir() if path.name != "zarr.json") == ["c.5.0"]
    assert store.pin("before").rows("steps") == 10  # is not evicted by values that it has not
    assert [commit.commit for commit in store.commits()][:2] == [0, 1]

    store.rollback(1)
    assert LATE not in store.state.arrays
    story.crash()
    story.store.create_arrays({LATE: story.specs[LATE]})
    assert (story.store.first(LATE), story.store.next_row(LATE)) == (0, 0)
    story.store.close()
    story.lock.release()


def test_groups() -> None:
    array = tree.values("observation/a b")
    assert tree.group_of(array) == array == "values/observation/a b"
    assert tree.is_values(array)
    assert all(map(tree.has_first, (array, "steps")))
    assert not any(map(tree.has_first, ("parts", "final", "changes/values", "trajectories", "checksums")))
    assert not any(map(tree.is_values, (tree.steps("values"), tree.final("values"), tree.PARTS)))
    assert tree.group_of(tree.steps("values/a")) == "steps"


def test_an_older_commit_of_values_that_have_left_is_refused(tmp_path: Path) -> None:
    story = Story(str(tmp_path / "ring.zarr"), 2, ring=True)
    empty: Mapping[str, int] = {"steps": 0, RAW: 0, OTHER: 0}
    story.store.append({name: story.rows_of(name, list(range(30))) for name in SPECS})
    story.store.commit({}, first=empty)
    story.store.commit({}, first={**empty, RAW: 9})
    with pytest.raises(EvictedError, match="values/a rows before 9"):
        story.store.pin(1)
    with pytest.raises((EvictedError, NotFoundError)):
        story.store.rollback(1)
    story.store.close()
    story.lock.release()
