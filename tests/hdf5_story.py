"""HDF5 files to test with: arrays of each kind, and a story of steps, each of them durable when it
returns."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import h5py  # type: ignore[import-untyped]
import numpy as np
import pytest
from numpy.typing import NDArray

from replaystore.containers.array_spec import ArraySpec
from replaystore.containers.hdf5.container import Hdf5Container
from replaystore.storage.local import Files

NAME = "a.h5"
OBS, FLAG, IMAGE, ZIMAGE = "steps/observation/pose", "steps/terminated", "steps/camera", "steps/depth"
SPECS = {
    OBS: ArraySpec(np.dtype("f4"), (16,), 64),
    FLAG: ArraySpec(np.dtype(bool), (), 4096),
    IMAGE: ArraySpec(np.dtype("u1"), (8, 8, 3), 8, codec="gzip:1"),
    ZIMAGE: ArraySpec(np.dtype("u2"), (4,), 8, codec="zstd:1"),
}
ALL = {
    **{
        f"steps/{code}": ArraySpec(np.dtype(code), (3,), 32)
        for code in ("i1", "u2", "f2", "f8", "c8", "c16", "?")
    },
    "parts": ArraySpec(np.dtype("i8"), (6,), 128, chunks_per_shard=64, journaled=True, dimension="part"),
    "trajectories/score": ArraySpec(
        np.dtype("f8"), (), 128, journaled=True, mutable=True, dimension="trajectory"
    ),
    "steps/%2F": ArraySpec(np.dtype("u1"), (5, 2), 3, codec="gzip:9"),
    **SPECS,
}


def rows_of(spec: ArraySpec, count: int, seed: int = 0) -> NDArray[Any]:
    data = np.random.default_rng(seed).integers(0, 2 if spec.dtype.kind == "b" else 100, (count, *spec.shape))
    return data.astype(spec.dtype)


def flat(rows: NDArray[Any]) -> memoryview:
    return np.ascontiguousarray(rows).reshape(-1).view(np.uint8).data


def encoded(container: Hdf5Container, name: str, seed: int) -> bytes:
    spec = ALL[name]
    return container.codec(spec).encode(flat(rows_of(spec, spec.chunk_rows, seed)))


def read_rows(container: Hdf5Container, name: str, stop: int) -> bytes:
    extents = container.extents(name, 0, stop)
    return b"".join(container.files.read(extent.object, extent.offset, extent.length) for extent in extents)


def read_chunk(container: Hdf5Container, name: str, chunk: int) -> bytes:
    spec, entry = container.specs()[name], container.entry(name, chunk)
    assert entry is not None
    out = np.empty(spec.chunk_bytes, np.uint8)
    container.codec(spec).decode(container.files.read(entry.object, entry.offset, entry.length), out)
    return out.tobytes()


def fresh(folder: Path) -> Hdf5Container:
    """A container with all arrays, and nothing in them."""
    made = Hdf5Container.create(Files(folder, writable=True), NAME, {"format_version": [1, 0]})
    made.create_arrays(ALL)
    return made


@pytest.fixture
def container(tmp_path: Path) -> Iterator[Hdf5Container]:
    """A new file."""
    made = fresh(tmp_path / "store")
    yield made
    made.files.close()


def reader_of(container: Hdf5Container) -> Hdf5Container:
    return Hdf5Container.open(Files(container.files.root, writable=False), NAME, writable=False)


def plain(container: Hdf5Container) -> Any:
    return h5py.File(container.files.path(NAME), "r", locking=False)


@dataclass
class State:
    """What a store holds, as far as a story knows."""

    document: dict[str, Any] = field(default_factory=dict)
    arrays: frozenset[str] = frozenset()
    log: dict[int, bytes] = field(default_factory=dict)
    rows: dict[str, bytes] = field(default_factory=dict)
    chunks: dict[tuple[str, int], bytes] = field(default_factory=dict)

    def check(self, container: Hdf5Container) -> None:
        assert container.document() == self.document
        assert set(container.specs()) == self.arrays
        assert container.segments() == sorted(self.log)
        for commit, stream in self.log.items():
            assert container.read_segment(commit).startswith(stream)
        for name, rows in self.rows.items():
            assert read_rows(container, name, len(rows) // SPECS[name].row_bytes) == rows
        for (name, number), rows in self.chunks.items():
            assert read_chunk(container, name, number) == rows


Step = Callable[[Hdf5Container, State], State]


def step_arrays(*names: str) -> Step:
    def step(container: Hdf5Container, state: State) -> State:
        container.create_arrays({name: SPECS[name] for name in names})
        return replace(state, arrays=state.arrays | set(names))

    return step


def step_segment(commit: int) -> Step:
    def step(container: Hdf5Container, state: State) -> State:
        container.begin_segment(commit, b"<%d>" % commit)
        return replace(state, log={**state.log, commit: b"<%d>" % commit})

    return step


def step_commit(rows: int, *, record: int = 50, seed: int = 0) -> Step:
    def step(container: Hdf5Container, state: State) -> State:
        known = dict(state.rows)
        for name in (OBS, FLAG):
            start = len(known.get(name, b"")) // SPECS[name].row_bytes
            container.reserve({name: start + rows})
            data = flat(rows_of(SPECS[name], rows, seed)).tobytes()
            container.write_rows(name, start, memoryview(data))
            known[name] = known.get(name, b"") + data
        data = random.Random(seed).randbytes(record)
        container.append_record(data)
        container.sync()
        commit = max(state.log)
        return replace(state, rows=known, log={**state.log, commit: state.log[commit] + data})

    return step


def step_chunks(*numbers: int, seed: int = 0) -> Step:
    def step(container: Hdf5Container, state: State) -> State:
        container.write_chunks(
            {name: {n: encoded(container, name, n + seed) for n in numbers} for name in (IMAGE, ZIMAGE)}
        )
        new = {
            (name, n): flat(rows_of(SPECS[name], 8, n + seed)).tobytes()
            for n in numbers
            for name in (IMAGE, ZIMAGE)
        }
        return replace(state, chunks={**state.chunks, **new})

    return step


def step_document(size: int) -> Step:
    def step(container: Hdf5Container, state: State) -> State:
        document = {"text": "x" * size}
        container.replace_document(document)
        return replace(state, document=document)

    return step


def step_publish(container: Hdf5Container, state: State) -> State:
    chunks = 1 + max((n for _, n in state.chunks), default=-1)
    lengths = {name: len(rows) // SPECS[name].row_bytes for name, rows in state.rows.items()}
    coded = {name: max(0, chunks * 8 - 3) for name in (IMAGE, ZIMAGE)}
    container.publish(lengths | coded, {})
    return state


def step_fork(container: Hdf5Container, state: State) -> State:
    container.fork({OBS: 1})
    return state


def step_cut(container: Hdf5Container, state: State) -> State:
    commit = max(state.log)
    container.cut_segment(commit, 3)
    return replace(state, log={**state.log, commit: state.log[commit][:3]})


STORY: list[Step] = [
    step_arrays(*SPECS),
    step_segment(0),
    step_commit(100, seed=1),
    step_chunks(0, 1),
    step_commit(50, seed=2),
    step_commit(1, seed=3, record=70_000),
    step_document(3_000),
    step_publish,
    step_commit(300, seed=4),
    step_chunks(1, 2, seed=5),
    step_segment(7),
    step_document(150_000),
    step_commit(10, seed=6),
    step_fork,
    step_cut,
    step_commit(3, seed=7),
    step_publish,
]
