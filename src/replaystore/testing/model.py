"""A state machine that does to a buffer whatever can be done to one, in any order, and compares it with a
`PlainBuffer` all the way.

    class ZarrMachine(BufferMachine):
        suffix = ".zarr"

    TestZarr = ZarrMachine.TestCase

A crash is played by giving a buffer up without a commit, or by going on with a copy of its files as they are
at that moment.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import tempfile
from dataclasses import replace
from typing import Any

import numpy as np
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from replaystore.buffers import create_open as buffers
from replaystore.buffers.buffer import Buffer
from replaystore.buffers.writer import Writer
from replaystore.containers.located import remove
from replaystore.errors import ConflictError
from replaystore.location import parse
from replaystore.schema.fields import Field
from replaystore.testing.contents import Contents
from replaystore.testing.crashes import tiny
from replaystore.testing.plain import PlainBuffer, PlainWriter
from replaystore.testing.samples import (
    RAGGED,
    beginning_with,
    columns,
    observations,
    play,
    recording,
    small,
    storage,
)
from replaystore.testing.setting import mutable_fields, recorded, set_some

__all__ = ["BufferMachine"]

SEEDS = st.integers(0, 2**20)
_numbers = itertools.count()


class BufferMachine(RuleBasedStateMachine):
    """Subclass it and say where: `suffix` of a path, or "memory:"."""

    suffix = ""
    codec = "zstd:1"
    rings = True

    def __init__(self) -> None:
        super().__init__()
        self._tiny = contextlib.ExitStack()
        self._tiny.enter_context(tiny())
        ram = "/dev/shm" if os.path.isdir("/dev/shm") else None  # noqa: S108  # mkdtemp makes the folder
        self._folder = "" if self.suffix == "memory:" else tempfile.mkdtemp(dir=ram)
        self._location = self._place()
        self._readers: dict[Buffer, int] = {}
        """And how often the buffer had gone back to an older commit when each looked last."""
        self._rollbacks = 0
        self._writers: tuple[Writer, PlainWriter] | None = None

    def _place(self) -> str:
        number = next(_numbers)
        return (
            f"memory:machine-{number}"
            if self.suffix == "memory:"
            else f"{self._folder}/{number}{self.suffix}"
        )

    @initialize(
        ring=st.booleans(),
        coded=st.sampled_from(["nothing", "images", "everything"]),
        ragged=st.booleans(),
    )
    def create(self, ring: bool, coded: str, ragged: bool) -> None:
        """A new buffer."""
        self.ragged = ragged
        schema, capacity = small(ragged=ragged), 45 if ring and self.rings else None
        chosen: dict[str, Any] = {} if coded == "nothing" else storage(self.codec, ragged=ragged)
        if coded == "everything":
            chosen = {name: {"codec": self.codec, "chunk_rows": 3} for name in schema.fields}
        self.buffer = buffers.create(self._location, schema, capacity=capacity, storage=chosen)
        self.plain = PlainBuffer(schema, capacity=capacity)

    # --- recording

    @precondition(lambda self: self._writers is None)
    @rule(
        count=st.integers(0, 25),
        env=st.integers(0, 2),
        seed=SEEDS,
        finals=st.booleans(),
        ends=st.sampled_from([0.0, 0.1, 0.5, 1.0]),
    )
    def append(self, count: int, env: int, seed: int, finals: bool, ends: float) -> None:
        """Steps of one environment."""
        schema = self.plain.schema
        rows = columns(schema, count, seed, ends=ends)
        flags = rows["terminated"] | rows["truncated"]
        touched = int(flags.sum()) + (count > 0 and not flags[-1])
        final = (
            schema.unflatten(observations(schema, touched, seed), "observation")
            if finals and touched
            else None
        )
        for recorder in (self.buffer, self.plain):
            named, known = ["", "train", "val"][seed % 3], seed if seed % 2 else None
            recorder.append(rows, env=env, final_observation=final, split=named, seed=known)

    @precondition(lambda self: self._writers is None)
    @rule(count=st.integers(0, 5), env=st.integers(0, 2), seed=SEEDS)
    def append_what_was_said_to_follow(self, count: int, env: int, seed: int) -> None:
        """Steps that begin with the observation that the environment was left at."""
        life = self.plain.state.open.get(env)
        rows = columns(self.plain.schema, count + 1, seed)
        if life is not None and life.after is not None:
            for name, value in life.after.items():
                rows[name] = beginning_with(value, rows[name])
        for recorder in (self.buffer, self.plain):
            recorder.append(rows, env=env)

    @precondition(lambda self: self._writers is None)
    @rule(num_envs=st.integers(1, 3))
    def open_writer(self, num_envs: int) -> None:
        """From now on steps come from several environments at once."""
        self._writers = self.buffer.writer(num_envs), self.plain.writer(num_envs)
        self._started = False

    @precondition(lambda self: self._writers is not None)
    @rule(steps=st.integers(1, 12), seed=SEEDS, masks=st.booleans())
    def record(self, steps: int, seed: int, masks: bool) -> None:
        """Steps of several environments."""
        assert self._writers is not None
        for step in recording(self.plain.schema, self._writers[0].num_envs, steps, seed, masks=masks):
            if "action" in step.columns or step.mask is not None or not self._started or seed % 2:
                for writer in self._writers:
                    play(writer, step, self.plain.schema)
                self._started = True

    @precondition(lambda self: self._writers is not None)
    @rule()
    def close_writer(self) -> None:
        """Cut off what is open."""
        assert self._writers is not None
        for writer in self._writers:
            writer.close()
        self._writers = None

    @precondition(lambda self: len(self.plain.schema.fields) < 11 + len(RAGGED) * self.ragged)
    @rule(
        like=st.sampled_from(["bool", "int16", "float64", "complex64", *RAGGED]),
        shape=st.sampled_from([(), (2,)]),
        fill=st.integers(0, 1),
        mutable=st.booleans(),
    )
    def add_field(self, like: str, shape: tuple[int, ...], fill: Any, mutable: bool) -> None:
        """A late field; one of any length is empty in the rows that there are."""
        if like in RAGGED and self.ragged:
            declared, fill = replace(RAGGED[like], role="info"), 0
        else:
            dtype = np.dtype("bool" if like in RAGGED else like)
            declared = Field(dtype, shape, "info", mutable=mutable)
        for recorder in (self.buffer, self.plain):
            recorder.add_field(f"info/__{len(recorder.schema.fields)}.late", declared, fill=fill)

    @precondition(lambda self: bool(mutable_fields(self.plain)) and recorded(self.plain) > 0)
    @rule(seed=SEEDS)
    def set_values(self, seed: int) -> None:
        """Other values of steps, committed or not."""
        for recorder in (self.buffer, self.plain):
            set_some(recorder, seed)

    # --- commits

    @rule()
    def commit(self) -> None:
        """All is safe now."""
        assert self.buffer.commit() == self.plain.commit()
        self._compare(self.buffer)

    @rule()
    def publish(self) -> None:
        """Other software sees it as well."""
        self.buffer.publish()
        self.plain.publish()

    @rule(name=st.sampled_from(["split", "score", "good"]), seed=SEEDS)
    def set_column(self, name: str, seed: int) -> None:
        """A column of the trajectories."""
        for recorder in (self.plain, self.buffer):
            recorder.commit()
            ended = int((~self.plain.contents().table["open"]).sum())
            generator = np.random.default_rng(seed)
            numbers = generator.random(ended)
            values: Any = (
                [f"{number:.1f}" for number in numbers]
                if name == "split"
                else numbers > 0.5
                if name == "good"
                else numbers
            )
            recorder.set_trajectory_column(name, values)
        self._compare(self.buffer)

    @rule()
    def reopen(self) -> None:
        """Close and open."""
        self.buffer.close()
        self.plain.close()
        self._open()

    @rule()
    def crash(self) -> None:
        """What is not committed is lost."""
        self.buffer.abandon()
        self.plain.abandon()
        self._open()

    @precondition(lambda self: self.suffix != "memory:")
    @rule()
    def crash_on_a_copy(self) -> None:
        """Go on with the files as they are now, while the writer still has them open."""
        before, self._location = self._location, self._place()
        if os.path.isdir(before):
            shutil.copytree(before, self._location)
        else:
            shutil.copyfile(before, self._location)
        self.buffer.abandon()
        self.plain.abandon()
        self._forget_readers()
        self._open()

    @precondition(lambda self: self._writers is None)
    @rule(place=st.integers(0, 10**6))
    def roll_back(self, place: int) -> None:
        """An older commit again."""
        commits = self.plain.commits()
        for recorder in (self.buffer, self.plain):
            recorder.rollback(commits[place % len(commits)])
        self._rollbacks += 1
        self._compare(self.buffer)

    def _open(self) -> None:
        self._writers = None
        self.buffer = buffers.open(self._location, "r+")
        self._compare(self.buffer)

    # --- readers

    @precondition(lambda self: len(self._readers) < 3)
    @rule(read=st.booleans())
    def open_reader(self, read: bool) -> None:
        """A reader, which may look at once or later."""
        reader = buffers.open(self._location)
        assert reader.commit_id == self.plain.commit_id
        if read:
            self._compare(reader)
        self._readers[reader] = self._rollbacks

    @precondition(lambda self: self._readers)
    @rule(place=st.integers(0, 2), refresh=st.booleans())
    def look(self, place: int, refresh: bool) -> None:
        """A reader shows the commit it showed before, or the newest."""
        reader = list(self._readers)[place % len(self._readers)]
        if refresh:
            self._readers[reader] = self._rollbacks
            behind = reader.commit_id != self.plain.commit_id
            assert reader.refresh() == behind
            assert reader.commit_id == self.plain.commit_id
            self._compare(reader)
        else:
            rolled_back = self._readers[reader] != self._rollbacks
            self._compare(reader, may_be_gone=rolled_back or reader.commit_id not in self.plain.commits())

    @rule(place=st.integers(0, 10**6))
    def open_older(self, place: int) -> None:
        """Any commit that was not rolled back can be opened."""
        commits = self.plain.commits()
        commit = commits[place % len(commits)]
        with buffers.open(self._location, commit=commit) as reader:
            assert reader.commit_id == commit
            self._compare(reader)

    @invariant()
    def agrees(self) -> None:
        """The buffer shows its commit."""
        if hasattr(self, "buffer"):
            assert (len(self.buffer), self.buffer.commit_id) == (
                self.plain.contents().steps,
                self.plain.commit_id,
            )
            assert self.buffer.schema == self.plain.schema

    def _compare(self, view: Buffer, *, may_be_gone: bool = False) -> None:
        """The view shows what its commit holds. After a rollback, or if rows have left the ring, it may say
        so instead."""
        try:
            difference = self.plain.history[view.commit_id].contents().difference(Contents.of(view))
        except (ConflictError, IndexError):
            if not may_be_gone:
                raise
        else:
            assert difference == ""

    def _forget_readers(self) -> None:
        for reader in self._readers:
            reader.close()
        self._readers = {}

    def teardown(self) -> None:
        """Close the buffer, read it once more, and remove it."""
        try:
            if hasattr(self, "buffer"):
                self.buffer.close()
                self.plain.close()
                with buffers.open(self._location) as reader:
                    self._compare(reader)
        finally:
            self._forget_readers()
            if hasattr(self, "buffer"):
                self.buffer.abandon()
            self._tiny.close()
            if self._folder:
                shutil.rmtree(self._folder)
            else:
                remove(parse(self._location))
