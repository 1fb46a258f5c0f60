"""Stores that say of a step, or of what follows one, that its values lie where none of them can, with
checksums that are right: whatever reads them ends in one error of ours, and `verify` sees it.

They are recorded so, by a writer that lays one value down and writes that it lies elsewhere.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import numpy as np
import pytest
import zarr

import replaystore as rs
from replaystore.buffers.placing import Placing, Plan
from replaystore.cli import cli
from replaystore.errors import CorruptError
from replaystore.formats import Options, blocks_of
from replaystore.schema import tree
from replaystore.schema.ragged import Ragged
from replaystore.storage.local import Files
from replaystore.storage.zip import pack
from replaystore.testing.samples import columns, observations, small, storage

STEPS, WRONG, TEXT, TOKENS = 60, 17, "observation/text", "info/tokens"
FAR = 1 << 62
Span = tuple[int, int]


class At(NamedTuple):
    """Where a value lies, and where the values end."""

    begin: int
    end: int
    stop: int


WAYS: dict[str, Callable[[At], Span]] = {
    "a little behind": lambda at: (at.begin, at.stop + 1),
    "far behind": lambda at: (at.begin, FAR),
    "all of it behind": lambda at: (at.stop + 5000, at.stop + 5001),
    "as far as can be": lambda _: (FAR, 2**63 - 1),
    "before the first": lambda at: (-1, at.end + 1),
    "far before": lambda at: (-(2**63), at.end),
    "longer than numbers": lambda _: (-FAR, 2**63 - 1),
    "backwards": lambda at: (at.end + 1, at.begin),
}
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "zarr": ("a.zarr", {}),
    "ring": ("a.zarr", {"capacity": 100}),
    "hdf5": ("a.h5", {}),
    "archive": ("a.zarr", {"layout": "archive"}),
    "hdf5 archive": ("a.h5", {"layout": "archive"}),
    "zip": ("a.zarr", {"layout": "archive"}),
}


@contextlib.contextmanager
def lying(name: str, where: str, way: str) -> Iterator[None]:
    """Of field `name` a row, what follows the first trajectory, or the open one, is said to lie elsewhere."""
    whole = Placing.plan

    def plan(self: Placing, *arguments: Any, **named: Any) -> Plan:
        found = whole(self, *arguments, **named)
        values = found.stored.get(tree.values(name), ())
        stop = self._next(name) + len(values)
        rows = {
            "row": found.stored.get(tree.steps(name)),
            "final": found.finals.get(name),
            "following": found.following.get(name),
        }[where]
        if rows is not None and len(rows):
            at = WRONG if where == "row" else 0
            rows[at] = WAYS[way](At(*rows[at].tolist(), stop))
        return found

    with patch.object(Placing, "plan", plan):
        yield


def recorded(folder: Path, kind: str, name: str, where: str, way: str) -> str:
    suffix, options = KINDS[kind]
    schema, path = small(ragged=True), folder / suffix
    rows = columns(schema, STEPS, 3, ends=0)
    rows["terminated"][29] = True  # row 17 is of the first trajectory
    finals = schema.unflatten(observations(schema, 2, 5), "observation")
    if "layout" not in options:
        options = {**options, "storage": storage("gzip:1" if suffix == "a.h5" else "zstd:1", ragged=True)}
    lie = lying(name, where, way) if name else contextlib.nullcontext()
    with lie, rs.create(path, schema, **options) as buffer:
        buffer.append(rows, final_observation=finals)
    if kind != "zip":
        return str(path)
    pack(Files(os.fspath(path), writable=False), f"{path}.zip", leave_out=frozenset({"journal/log/lock"}))
    return f"{path}.zip"


@dataclass
class Looking:
    """Someone who reads such a store."""

    buffer: rs.Buffer
    folder: Path
    name: str

    def sample(self, source: Any = None, **options: Any) -> None:
        with contextlib.closing((source or self.buffer).sampler(256, seed=1, **options)) as sampler:
            for _ in range(3):
                sampler.sample()

    def convert(self, name: str, **options: Any) -> None:
        target = self.folder / name
        try:
            rs.convert(self.buffer, target, **options)
        except BaseException:
            assert not target.exists()
            raise

    def by_zarr(self) -> None:
        root = zarr.open_group(self.buffer.zarr_store(), mode="r")
        for name in (tree.steps(self.name), tree.final(self.name)):
            if name in root:
                np.asarray(root[name][...])  # type: ignore[index]

    def show(self) -> None:
        with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
            cli.main(["show", self.buffer.location, "--rows", "0:60"], standalone_mode=False)


Look = Callable[[Looking], Any]
ANY: dict[str, Look] = {
    "sampled": lambda one: one.sample(),
    "fragments": lambda one: one.sample(fragment_length=20),
    "padded fragments": lambda one: one.sample(fragment_length=20, pad="end", pad_values="end"),
    "some steps on": lambda one: one.sample(n_step=3),
    "joined": lambda one: one.sample(rs.concat([one.buffer, one.buffer])),
    "trajectories": lambda one: [
        (story.columns[one.name], story.final_observation) for story in map(one.buffer.trajectory, range(2))
    ],
    "blocks": lambda one: list(blocks_of(one.buffer, Options(), 1 << 20)),
    "by other software": lambda one: one.by_zarr(),
    "converted": lambda one: one.convert("b.zarr"),
    "converted to hdf5": lambda one: one.convert("b.h5"),
    "archived": lambda one: one.convert("b.zarr.zip", layout="archive"),
    "converted in part": lambda one: one.convert("c.zarr", where="length == 30"),
}
ROWS: dict[str, Look] = {
    **ANY,
    "rows": lambda one: one.buffer[one.name][:],
    "one row": lambda one: one.buffer[one.name][WRONG],
    "some rows": lambda one: one.buffer[one.name][[3, WRONG, 2]],
    "lengths": lambda one: one.buffer[one.name].lengths[:],
    "read": lambda one: one.buffer.read(slice(None)),
    "statistics": lambda one: one.buffer.statistics(one.name),
    "shown": lambda one: one.show(),
    "stacked": lambda one: one.sample(frame_stack=3),
    "one field converted": lambda one: one.convert("d.zarr", fields=["observation", one.name]),
}


def forged(folder: Path, kind: str, where: str) -> Iterator[tuple[str, str, Path, str]]:
    """Stores of a kind, each with one of the ways: of any two kinds, one has each."""
    for number, way in enumerate(list(WAYS)[list(KINDS).index(kind) % 2 :: 2]):
        place, name = folder / str(number), TEXT if where != "row" or number % 2 else TOKENS
        place.mkdir()
        yield way, recorded(place, kind, name, where, way), place, name


def refused(looks: dict[str, Look], path: str, folder: Path, name: str) -> list[str]:
    """The looks that end in anything else than one error of ours."""
    wrong = []
    for look, do in looks.items():
        try:
            with rs.open(path) as buffer:
                do(Looking(buffer, folder, name))
            wrong.append(f"{look}: nothing is noticed")
        except CorruptError as error:
            if "\n" in str(error) or "verify" not in str(error):
                wrong.append(f"{look}: {error}")
        except Exception as error:  # noqa: BLE001  # none of any kind is expected
            wrong.append(f"{look}: {error!r:.200}")
    return wrong


@pytest.mark.parametrize("kind", KINDS)
def test_values_of_a_step_that_lie_elsewhere(tmp_path: Path, kind: str) -> None:
    for way, path, folder, name in forged(tmp_path, kind, "row"):
        assert "; ".join(refused(ROWS, path, folder, name)) == "", way
        (problem, *_) = [one for one in rs.verify(path).problems if tree.steps(name) in str(one)]
        assert f"step {WRONG} says that its values lie" in str(problem)


@pytest.mark.parametrize("kind", KINDS)
def test_values_that_follow_a_trajectory_and_lie_elsewhere(tmp_path: Path, kind: str) -> None:
    for way, path, folder, name in forged(tmp_path, kind, "final"):
        assert "; ".join(refused(ANY, path, folder, name)) == "", way
        assert any("what follows step 29 " in str(problem) for problem in rs.verify(path).problems), way


LIES: dict[str, tuple[str, Callable[[Any], Any], str]] = {
    "the order of steps": (
        TOKENS,
        lambda rows: rows[[1, 0, *range(2, len(rows))]],
        "before those of earlier",
    ),
    "the value of another step": (
        TOKENS,
        lambda rows: np.concatenate([rows[:40], rows[39:40], rows[41:]]),
        "share values",
    ),
    "half a character": (
        TEXT,
        lambda rows: rows + np.where(np.arange(len(rows)) == WRONG, 1, 0)[:, None] * [1, 0],
        f"the text of step {WRONG} is not UTF-8",
    ),
}


@pytest.mark.parametrize("kind", ["zarr", "hdf5", "archive"])
@pytest.mark.parametrize("lie", LIES)
def test_values_that_lie_elsewhere_among_the_others(tmp_path: Path, kind: str, lie: str) -> None:
    """They can be read, or are no text; and are told by `verify`."""
    name, change, what = LIES[lie]
    whole = Placing.plan

    def plan(self: Placing, columns: Any, *arguments: Any, **named: Any) -> Plan:
        if columns:
            tokens = Ragged.of([[row, 7] for row in range(STEPS)], np.int32)
            columns = {**columns, TOKENS: tokens, TEXT: Ragged.of(["é"] * STEPS, text=True)}
        found = whole(self, columns, *arguments, **named)
        stored = tree.steps(name)
        if stored in found.stored:
            found.stored[stored] = change(found.stored[stored])
        return found

    with patch.object(Placing, "plan", plan):
        path = recorded(tmp_path, kind, "", "nowhere", "far behind")
    assert what in "; ".join(map(str, rs.verify(path).problems))


@pytest.mark.parametrize("kind", ["zarr", "ring", "hdf5"])
def test_values_that_follow_an_open_trajectory_and_lie_elsewhere(tmp_path: Path, kind: str) -> None:
    """They are not known, as those that have left a ring are."""
    for way, path, folder, _ in forged(tmp_path, kind, "following"):
        with rs.open(path) as buffer:
            assert buffer.trajectory(0).final_observation is not None
            assert buffer.trajectory(1).final_observation is None
            with contextlib.closing(buffer.sampler(256, seed=1)) as sampler:
                assert (sampler.sample()["index"] < STEPS - 1).all()
        assert any(
            "what follows an open trajectory" in str(problem) for problem in rs.verify(path).problems
        ), way
        rs.convert(path, folder / "b.zarr")
        assert rs.verify(folder / "b.zarr").problems == []
