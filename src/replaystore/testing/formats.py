"""What every format must do, tested through `convert`: one class, for this package and for whoever writes a
format.

    class TestMine(FormatSuite):
        name = "mine"            # as it is registered
        filename = "buffer.mine"

A format says what it cannot hold, and the suite holds it to that: whatever a report does not name comes back
bit for bit. What a format cannot do at all is told by attributes of the class, never by its name.
"""

from __future__ import annotations

import os
import tracemalloc
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from replaystore.buffers.buffer import Buffer
from replaystore.buffers.create_open import create
from replaystore.buffers.create_open import open as open_buffer
from replaystore.checking.verify import verify
from replaystore.converting.convert import convert
from replaystore.errors import AlreadyExistsError, NotFoundError, ReplayStoreError, UnsupportedError
from replaystore.formats.finding import find, find_target, named
from replaystore.formats.report import Fate, Report
from replaystore.formats.source import Source
from replaystore.schema.fields import Field, Schema
from replaystore.testing import samples
from replaystore.testing.trajectories import Told, told, trajectories

__all__ = ["FormatSuite"]

EVERYTHING = frozenset({"seed", "split", "env", "final_observation", "metadata", "trajectories"})
"""What a buffer holds beside its fields, and that a format keeps unless the suite is told otherwise."""


def _flags() -> dict[str, Field]:
    return {name: Field("bool", (), name) for name in ("terminated", "truncated")}


PLAIN = Schema(
    {
        "observation": Field("float32", (3,), "observation"),
        "action": Field("float32", (2,), "action"),
        "reward": Field("float32", (), "reward"),
        **_flags(),
    }
)
NESTED = Schema(
    {
        "observation/camera": Field("uint8", (4, 3), "observation"),
        "observation/joints": Field("float64", (3,), "observation"),
        "action": Field("int64", (), "action"),
        "reward": Field("float64", (), "reward"),
        **_flags(),
        "info/speed": Field("float16", (2,), "info"),
    }
)
RAGGED = Schema({**NESTED.fields, **samples.RAGGED})
"""With fields of any length, which a format that is not `ragged` loses."""
UNFLAGGED = Schema(
    {"observation": Field("int16", (2,), "observation"), "action": Field("bool", (3,), "action")}
)


class FormatSuite:
    """Subclass it, and give it `name` and `filename`."""

    name: ClassVar[str] = ""
    """As it is registered."""
    filename: ClassVar[str] = ""
    """What such a file is called."""
    schemas: ClassVar[Mapping[str, Schema]] = {
        "plain": PLAIN,
        "nested": NESTED,
        "unflagged": UNFLAGGED,
        "ragged": RAGGED,
    }
    """What it can hold, but for fields of any length if it is not `Format.ragged`."""
    keeps: ClassVar[Collection[str]] = EVERYTHING
    """What it must keep beside the fields."""
    keeps_fields: ClassVar[bool] = True
    """Whether it must keep all fields bit for bit."""
    block_bytes: ClassVar[int] = 1 << 18
    memory: ClassVar[float] = 12.0
    """So many times `block_bytes` reading may take, beside what the reader needs for itself."""
    overhead: ClassVar[int] = 2 << 20
    """Bytes that the reader needs for itself."""

    @pytest.fixture
    def path(self, tmp_path: Path) -> str:
        """Where a file can be made; nothing is there."""
        (tmp_path / "file").mkdir()
        return str(tmp_path / "file" / self.filename)

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """Tests that take a schema run with each."""
        if "schema" in metafunc.fixturenames:
            metafunc.parametrize("schema", list(self.schemas.values()), ids=list(self.schemas))

    # --- there and back

    @pytest.mark.parametrize("seed", range(4))
    def test_what_the_report_does_not_name_comes_back(
        self, tmp_path: Path, path: str, schema: Schema, seed: int
    ) -> None:
        """Random trajectories that are terminated, truncated, both, or cut off; of several splits, seeded or
        not."""
        given = trajectories(schema, 9, seed)
        self.round_trip(tmp_path, path, schema, given)

    @pytest.mark.parametrize("count", [0, 1])
    def test_no_steps_and_a_single_one(self, tmp_path: Path, path: str, schema: Schema, count: int) -> None:
        """An empty buffer, and a trajectory of one step."""
        self.round_trip(tmp_path, path, schema, trajectories(schema, count, 7, longest=1))

    def test_trajectories_that_do_not_lie_in_one_piece(
        self, tmp_path: Path, path: str, schema: Schema
    ) -> None:
        """Several environments took turns."""
        given = [
            replace(one, seed=-1, env=env) for env, one in enumerate(trajectories(schema, 4, 11, shortest=4))
        ]
        self.round_trip(tmp_path, path, schema, given, in_turn=True)

    def round_trip(
        self, folder: Path, path: str, schema: Schema, given: list[Told], *, in_turn: bool = False
    ) -> Report:
        """Write them, read them, and compare all that was not said to be something else."""
        store, back = str(folder / "store.zarr"), str(folder / "back.zarr")
        self.record(store, schema, given, in_turn=in_turn)

        there = convert(store, path, format=self.name)
        again = convert(path, back, format=self.name)

        assert there.target == path
        assert "steps" in there.rest or there.steps == sum(map(len, given))
        assert verify(back).problems == []
        with open_buffer(back) as found:
            self.compare(schema, given, found, there, again)
        self._check_promises(schema, there)
        return there

    def record(self, store: str, schema: Schema, given: list[Told], *, in_turn: bool = False) -> None:
        """A buffer with these trajectories, and metadata."""
        with create(store, schema, metadata={"made by": ["a test", 1.5, None]}) as buffer:
            for one in given:
                if in_turn:
                    one.append_part(buffer, 0, len(one) // 2)
                    buffer.commit()
                else:
                    one.append(buffer)
            for one in given if in_turn else ():
                one.append_part(buffer, len(one) // 2, len(one))

    def compare(self, schema: Schema, given: list[Told], found: Buffer, there: Report, again: Report) -> None:
        """What came back, with what was written."""
        named = {*there.rest, *again.rest}
        if not named & {"trajectories", "steps"}:
            assert found.num_trajectories == len(given)
            order = range(len(given)) if "order" not in named else _order(given)
            for number, at in enumerate(order):
                difference = told(found, number).difference(given[at], there.fields, named)
                assert difference == "", f"trajectory {number}: {difference}"
        if "metadata" not in named:
            assert found.metadata == {"made by": ["a test", 1.5, None]}
        for name, fate in there.fields.items():
            if name in schema.fields and fate.kind == "kept":
                assert found.schema.fields[name].dtype == schema.fields[name].dtype, name
                assert found.schema.fields[name].shape == schema.fields[name].shape, name

    def _check_promises(self, schema: Schema, report: Report) -> None:
        assert not self.keeps & report.rest.keys(), "it keeps these, says the suite"
        unsaid = schema.fields.keys() - report.fields.keys()
        assert not unsaid, f"the report says nothing of these fields: {sorted(unsaid)}"
        assert report.proof is not None
        kept = {name for name in schema.fields if report.fields[name].kind == "kept"}
        assert kept <= {*report.proof.fields, *report.proof.not_proved}, "the proof says nothing of some"
        lost = set() if named(self.name).ragged else schema.ragged.keys()
        assert all(report.fields[name].kind == "lost" for name in lost), "it does not take these"
        if self.keeps_fields:
            assert {name for name, fate in report.fields.items() if fate.kind != "kept"} == lost

    def test_strict_refuses_what_would_not_be_exact(self, tmp_path: Path, path: str, schema: Schema) -> None:
        """And only that; then nothing is left of it."""
        store = str(tmp_path / "store.zarr")
        self.record(store, schema, trajectories(schema, 5, 3))
        exact = convert(store, path, format=self.name).exact
        again = os.path.join(os.path.dirname(path), "again", self.filename)

        if exact:
            assert convert(store, again, format=self.name, strict=True).exact
        else:
            with pytest.raises(UnsupportedError, match="would not be exact"):
                convert(store, again, format=self.name, strict=True)
            assert not os.path.lexists(again)

    # --- what a dry run says

    def test_a_dry_run_tells_what_is_going_to_be_done(
        self, tmp_path: Path, path: str, schema: Schema
    ) -> None:
        """Both ways, but for errors that are measured while it is done; and nothing is made."""
        store = str(tmp_path / "store.zarr")
        self.record(store, schema, trajectories(schema, 5, 3))
        for source, target in ((store, path), (path, str(tmp_path / "a.zarr"))):
            before = sorted(tmp_path.rglob("*"))
            told = convert(source, target, format=self.name, dry_run=True)
            assert sorted(tmp_path.rglob("*")) == before
            assert told.dry_run

            done = convert(source, target, format=self.name)
            assert not done.dry_run
            assert told.steps in (None, done.steps)
            assert told.trajectories in (None, done.trajectories)
            for things in ("fields", "rest"):
                assert _unmeasured(getattr(told, things)) == _unmeasured(getattr(done, things)), things
            assert told.remarks == done.remarks

    # --- which files are of it

    def test_its_files_are_recognised_and_others_are_not(self, tmp_path: Path, path: str) -> None:
        """By what is in them; what is something else is an error of one line."""
        self._written(tmp_path, path)
        other = tmp_path / "other"
        other.write_bytes(b"something else\n" * 9)

        format_ = named(self.name)
        assert format_.recognizes(path)
        assert not format_.recognizes(str(other))
        assert not format_.recognizes(str(tmp_path / "nothing"))
        assert find(path) == self.name
        assert find_target(path) in (self.name, None)
        with pytest.raises(ReplayStoreError):
            convert(other, tmp_path / "a.zarr", format=self.name)
        with pytest.raises(NotFoundError):
            convert(tmp_path / "nothing", tmp_path / "a.zarr", source_format=self.name)
        assert not (tmp_path / "a.zarr").exists()

    def test_what_is_there_is_replaced_only_if_that_is_wanted(self, tmp_path: Path, path: str) -> None:
        """And what is something else, never."""
        store = self._written(tmp_path, path)
        before = _bytes(path)

        with pytest.raises(AlreadyExistsError):
            convert(store, path, format=self.name)
        assert _bytes(path) == before
        convert(store, path, format=self.name, overwrite=True)
        assert named(self.name).recognizes(path)

        other = os.path.join(os.path.dirname(path), "other" + self.filename)
        Path(other).write_bytes(b"something else\n" * 9)
        for overwrite in (False, True):
            with pytest.raises(AlreadyExistsError):
                convert(store, other, format=self.name, overwrite=overwrite)
            assert Path(other).read_bytes() == b"something else\n" * 9

    # --- when something goes wrong

    def test_a_damaged_file_gives_an_error_of_ours_or_a_sound_store(self, tmp_path: Path, path: str) -> None:
        """Cut short, overwritten, or with single bits flipped; there is never a part of a target."""
        self._written(tmp_path, path)
        whole = _bytes(path)
        generator = np.random.default_rng(0)
        for number in range(40):
            _restore(whole)
            name = sorted(whole)[int(generator.integers(len(whole)))]
            _damage(name, whole[name], number, generator)
            target = tmp_path / f"target{number}.zarr"
            try:
                convert(path, target, source_format=self.name)
            except ReplayStoreError:
                assert not target.exists()
            else:
                assert verify(target).problems == []
            assert [at.name for at in tmp_path.iterdir() if "target" in at.name] in ([], [target.name])
            if target.exists():
                target.rename(tmp_path / f"done{number}.zarr")
        _restore(whole)

    def test_what_is_interrupted_leaves_nothing(self, tmp_path: Path, path: str) -> None:
        """Neither of a file nor of a store."""
        store = self._written(tmp_path, path)
        again = os.path.join(os.path.dirname(path), "again", self.filename)

        def stop(_done: int, _total: int) -> None:
            raise _StoppedError

        with pytest.raises(_StoppedError):
            convert(store, again, format=self.name, progress=stop)
        assert not os.path.lexists(again)
        folder = os.path.dirname(again)
        assert not os.path.isdir(folder) or os.listdir(folder) == []
        with pytest.raises(_StoppedError):
            convert(path, tmp_path / "a.zarr", format=self.name, progress=stop)
        assert [at.name for at in tmp_path.iterdir() if at.name.startswith("a.zarr")] == []

    def test_progress_grows_to_the_end(self, tmp_path: Path, path: str) -> None:
        """Both ways."""
        store = self._written(tmp_path, path)
        for source, target in ((store, path), (path, str(tmp_path / "a.zarr"))):
            seen: list[tuple[int, int]] = []
            convert(
                source,
                target,
                format=self.name,
                overwrite=True,
                progress=lambda done, total, seen=seen: seen.append((done, total)),  # type: ignore[misc]
            )
            assert seen == sorted(seen)
            assert seen[-1][0] == seen[-1][1] > 0

    # --- memory

    def test_blocks_are_as_small_as_they_are_asked_to_be(self, tmp_path: Path, path: str) -> None:
        """One long trajectory, and many short ones."""
        schema = next(iter(self.schemas.values()))
        width = sum(declared.row_bytes for declared in schema.fields.values())
        steps = max(1, 24 * self.block_bytes // width)
        long = trajectories(schema, 1, 5, longest=steps, shortest=steps)
        self.record(str(tmp_path / "store.zarr"), schema, long)
        convert(tmp_path / "store.zarr", path, format=self.name)
        with named(self.name).read(path) as source:
            if not isinstance(source, Source):
                pytest.skip("a ring is read row by row")
            tracemalloc.start()
            try:
                total = largest = 0
                for block in source.blocks(self.block_bytes):
                    size = sum(rows.nbytes for rows in block.columns.values())
                    total, largest = total + size, max(largest, size)
                _, peak = tracemalloc.get_traced_memory()
            finally:
                tracemalloc.stop()
        assert total >= 20 * self.block_bytes
        assert largest <= 2 * self.block_bytes
        assert peak <= self.memory * self.block_bytes + self.overhead

    def test_what_else_lies_in_its_folder_is_not_removed(self, tmp_path: Path, path: str) -> None:
        """A folder of it in which somebody keeps something else is not replaced."""
        store, mine = self._written(tmp_path, path), Path(path, "notes of mine")
        if not os.path.isdir(path) or not named(self.name).holds:
            pytest.skip("it is no folder that says what it holds")
        mine.write_text("kept")
        with pytest.raises(AlreadyExistsError, match="notes of mine"):
            convert(store, path, format=self.name, overwrite=True)
        mine.unlink()
        convert(store, path, format=self.name, overwrite=True)

    def _written(self, folder: Path, path: str) -> str:
        """A store, and its file at `path`."""
        store, schema = str(folder / "store.zarr"), next(iter(self.schemas.values()))
        self.record(store, schema, trajectories(schema, 6, 1))
        convert(store, path, format=self.name)
        return store


class _StoppedError(Exception):
    """The user has stopped it."""


def _unmeasured(fates: Mapping[str, Fate]) -> dict[str, Fate]:
    """Without the errors that casts have made."""
    return {name: replace(fate, max_error=None) for name, fate in fates.items()}


def _order(given: list[Told]) -> list[int]:
    raise NotImplementedError("a suite whose format puts trajectories in another order overrides `compare`")


def _bytes(path: str) -> dict[str, bytes]:
    """All files beside a path, and below."""
    folder = Path(path).parent
    return {str(file): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def _restore(files: Mapping[str, bytes]) -> None:
    for name, data in files.items():
        Path(name).write_bytes(data)


def _damage(name: str, data: bytes, number: int, generator: np.random.Generator) -> None:
    changed: Any = bytearray(data)
    at = int(generator.integers(len(data))) if data else 0
    if number % 3 == 0:
        changed = changed[:at]
    elif number % 3 == 1 and data:
        changed[at] ^= 1 << int(generator.integers(8))
    else:
        changed[at : at + 16] = bytes(generator.integers(0, 256, len(changed[at : at + 16]), np.uint8))
    Path(name).write_bytes(bytes(changed))
