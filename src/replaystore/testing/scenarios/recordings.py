"""Recording: a store is made or opened, written to in all ways, and closed.

Every commit that it may show is known beforehand: `PlainBuffer` keeps what each of them holds.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from typing import Any
from unittest.mock import patch

import numpy as np

from replaystore.buffers import create_open as buffers
from replaystore.buffers.buffer import Buffer
from replaystore.checking.verify import verify
from replaystore.errors import NotFoundError, UnsupportedError
from replaystore.testing.contents import Contents
from replaystore.testing.crashes import tiny
from replaystore.testing.plain import PlainBuffer
from replaystore.testing.samples import small, storage
from replaystore.testing.scenarios import Floor, Tell
from replaystore.testing.workloads import Action, Workload, act

__all__ = ["Recording", "here", "same", "scenario", "verified"]

ACTIONS = 4
CAPACITY = 60
WRAPPED = 36
"""Commits to a ring, some of 7 rows each."""
NEW = 0.35
"""Of the recordings, those that make their store."""


MENDED = ("other software sees different numbers of rows", "opening the store for writing mends it")
"""What `verify` may say of a store that nobody has opened for writing since its writer was killed."""


class Recording:
    """Actions on a store, which is made by them (`new`) or was made before, empty."""

    torch = False

    def __init__(
        self, name: str, suffix: str, plain: PlainBuffer, actions: list[Action], *, new: bool, **options: Any
    ) -> None:
        self.name, self._file, self.new, self._options = name, "store" + suffix, new, options
        self.plain, self.actions, self._schema = plain, actions, small(ragged=bool(plain.schema.ragged))
        self.archive = options.get("layout") == "archive"
        self._synced = options.get("durability") != "none"
        self._codec = "gzip:1" if suffix == ".h5" else "zstd:1"
        self.opened: Callable[[Buffer], None] = lambda _: None
        """Told each buffer that `perform` opens."""
        self.reached = 0
        """The action that `perform` is at."""
        self.failed: int | None = None
        """The action that ended with an error, after which what was there could be committed; None: none
        did."""

    def path(self, folder: str) -> str:
        return os.path.join(folder, self._file)

    def prepare(self, folder: str) -> None:
        if not self.new:
            made = self._make(folder)
            made.abandon() if self.archive else made.close()  # closing would seal it

    def _make(self, folder: str) -> Buffer:
        options: dict[str, Any] = {"capacity": self.plain.capacity, **self._options}
        if not self.archive:
            options["storage"] = storage(self._codec, ragged=bool(self._schema.ragged))
        with tiny():
            return buffers.create(self.path(folder), self._schema, **options)

    def open(self, folder: str) -> Buffer:
        """The store, for writing."""
        return buffers.open(self.path(folder), "r+")

    def perform(self, folder: str, tell: Tell) -> None:
        with tiny():
            buffer = self._make(folder) if self.new else self.open(folder)
            self.opened(buffer)
            tell(Floor(buffer.commit_id))
            for number, action in enumerate(self.actions):
                self.reached = number
                buffer = self.act(buffer, action, folder, tell)
            buffer.close()
            tell(Floor(buffer.commit_id))

    def act(self, buffer: Buffer, action: Action, folder: str, tell: Tell) -> Buffer:
        """Do one of the actions."""

        def reopened(closed: Buffer) -> Buffer:
            tell(Floor(closed.commit_id))
            again = self.open(folder)
            self.opened(again)
            return again

        found: Buffer = act(
            buffer, action, acknowledge=lambda commit: tell(Floor(commit, self._synced)), reopen=reopened
        )
        return found

    def recover(self, folder: str) -> None:
        if os.path.exists(self.path(folder)):
            with tiny():
                try:
                    self.open(folder).abandon()
                except UnsupportedError:
                    if not self.archive:
                        raise

    # --- what must be true

    def _expected(self, commit: int) -> PlainBuffer | None:
        """What the store must be as of a commit; a sealed one is as of the last."""
        if self.archive and commit > self.plain.commit_id:
            commit = self.plain.commit_id
        return self.plain.history.get(commit)

    def _candidates(self, commit: int) -> list[PlainBuffer]:
        """What it may be: after an error, that without the action which failed, or with it, committed
        then."""
        known = self._expected(commit)
        found = [] if known is None else [known]
        for stop in [] if self.failed is None else [self.failed, self.failed + 1]:
            plain = PlainBuffer(self._schema, capacity=self.plain.capacity)
            for action in self.actions[:stop]:
                act(plain, action)
            plain.commit()
            found.append(plain)
        return found

    def _partly(self) -> bool:
        """Whether the action that failed is several, of which some may have been done."""
        return self.failed is not None and self.actions[self.failed].name in (
            "record",
            "column",
            "rollback",
            "reopen",
            "field",
            "values",
        )

    def look(self, folder: str, floor: int | None) -> tuple[int | None, PlainBuffer | None]:
        """The commit that is shown to a reader, which must be right, and what it is; None if there is no
        store."""
        try:
            reader = buffers.open(self.path(folder))
        except NotFoundError:
            if floor is not None:
                raise
            return None, None
        with reader:
            commit, contents = reader.commit_id, Contents.of(reader)
            shown = reader.store.state.shows
        if floor is not None and commit < floor:
            raise AssertionError(f"it shows commit {commit}, and {floor} was acknowledged")
        if self._partly():  # its numbers for trajectories may be used up, too: nobody knows what comes next
            return commit, None
        candidates = self._candidates(commit)
        if not self._synced and shown < commit:  # a recovery has gone back to it, and was cut from power, too
            candidates += self._candidates(shown)
        problems = [candidate.contents().difference(contents) for candidate in candidates]
        if "" not in problems:
            raise AssertionError(f"commit {commit}: {(problems or ['was never made'])[0]}")
        then = candidates[problems.index("")]
        self._look_back(folder, commit, then)
        return commit, then

    def _look_back(self, folder: str, commit: int, then: PlainBuffer) -> None:
        """See that an older commit is what it was, too."""
        older = then.commits()
        old = older[commit * 7 % len(older)]
        # Sealing drops the others; what a power cut left of newer ones may say that a ring's rows have gone.
        whole = self._synced or self.plain.capacity is None
        if then is self.plain.history.get(commit) and (not self.archive or old == commit) and whole:
            with buffers.open(self.path(folder), commit=old) as reader:
                same(then, reader, old)

    def check(self, folder: str, floor: int | None, *, cut: bool = False) -> None:
        commit, then = self.look(folder, floor)
        if commit is None:
            self.perform(folder, lambda _: None)
            verified(self.path(folder))
            return
        plain = None
        if then is not None:
            plain = then.history[then.commit_id].resumed(then.commit_id)
        with tiny():
            try:
                buffer = self.open(folder)
            except UnsupportedError:
                if not self.archive or (self.failed is None and commit < self.plain.commit_id):
                    raise
            else:
                if plain is not None:
                    same(plain, buffer)
                self._go_on(buffer, plain, folder).close()
        if plain is not None:
            with buffers.open(self.path(folder)) as reader:
                same(plain, reader)
        verified(self.path(folder))

    def _go_on(self, buffer: Buffer, plain: PlainBuffer | None, folder: str) -> Buffer:
        # Numbers of commits may differ.
        if plain is None or plain.commit_id != buffer.commit_id or self.archive:
            actions = [Action("append", (buffer.commit_id, 5, 0, 1)), Action("commit")]
            if plain is not None:
                for action in actions:
                    act(plain, action)
        else:
            actions = Workload(plain.commit_id, 1, start=plain).actions
        for action in actions:
            buffer = self.act(buffer, action, folder, lambda _: None)
        return buffer


def same(plain: PlainBuffer, buffer: Buffer, commit: int | None = None) -> None:
    """AssertionError: a buffer is not what it should be as of a commit."""
    problem = plain.contents(commit).difference(Contents.of(buffer))
    if problem:
        raise AssertionError(f"commit {buffer.commit_id}: {problem}")


def here() -> contextlib.AbstractContextManager[object]:
    """`verify` opens HDF5 files in this process, which is one of its own already."""
    return patch("replaystore.checking.verify._probe", lambda *_: True)


def verified(path: str) -> None:
    """AssertionError: `verify` finds something. What it has to find is that a writer was killed while it
    published, or within the few bytes of a record of an HDF5 file's front; the next writer mends both."""
    with here():
        problems = verify(path).problems
        if problems and all(any(text in problem.what for text in MENDED) for problem in problems):
            buffers.open(path, "r+").close()
            problems = verify(path).problems
    if problems:
        raise AssertionError(f"verify: {problems[0]}")


# --- which ones there are


def scenario(name: str, seed: int) -> Recording:
    """One of the recordings, by its name; every second seed has fields of any length."""
    generator = np.random.default_rng(seed)
    suffix = ".h5" if name.endswith("hdf5") else ".zarr"
    options: dict[str, Any] = {}
    capacity = CAPACITY if name in ("ring", "wrapped", "wrapped-unsynced") else None
    kind = name.removesuffix("-hdf5")
    if kind == "archive":
        options["layout"] = "archive"
    elif kind == "wrapped-unsynced":
        options["durability"] = "none"
    elif kind == "unsynced":
        options["durability"] = "none"
        capacity = CAPACITY if suffix == ".zarr" and seed % 3 == 0 else None
    new = bool(generator.random() < NEW)
    schema = small(ragged=seed % 2 == 1)
    plain = PlainBuffer(schema, capacity=capacity)
    if kind in ("publish", "rollback", "values", "wrapped", "wrapped-unsynced"):
        return Recording(name, suffix, plain, _fixed(kind, plain, generator), new=new, **options)
    workload = Workload(int(generator.integers(1 << 30)), ACTIONS, start=plain)
    if kind == "archive":  # which is sealed when it is closed
        plain, kept = PlainBuffer(schema), [action for action in workload.actions if action.name != "reopen"]
        return Recording(name, suffix, plain, _possible(plain, kept), new=new, **options)
    return Recording(name, suffix, plain, workload.actions, new=new, **options)


def _possible(plain: PlainBuffer, actions: list[Action]) -> list[Action]:
    """Do these to a plain buffer; those that were done: a rollback may name a commit that there is not any
    more."""
    found = []
    for action in actions:
        if action.name != "rollback" or action.arguments[0] in plain.commits():
            act(plain, action)
            found.append(action)
    return found


def _fixed(kind: str, plain: PlainBuffer, generator: np.random.Generator) -> list[Action]:
    """Little else than what the scenario is named after."""
    actions: list[Action] = []

    def do(name: str, *arguments: object) -> None:
        actions.append(Action(name, arguments))
        act(plain, actions[-1])

    if kind.startswith("wrapped"):  # shards of steps leave often, and then those of tables, too
        for number in range(WRAPPED):
            do("append", int(generator.integers(1 << 20)), int(generator.integers(1, 14)), number % 3, 1)
            do("commit")
        return actions
    if kind == "values":
        do("field", "info/late0", "float64", 0, True)
    for _ in range(3):
        do("append", int(generator.integers(1 << 20)), int(generator.integers(1, 24)), 0, 1)
        do("commit")
        if kind == "publish":
            do("publish")
        if kind == "values":
            do("append", int(generator.integers(1 << 20)), int(generator.integers(1, 24)), 0, 1)
            for _ in range(2):
                do("values", int(generator.integers(1 << 20)))
                do("commit")
    if kind == "rollback":
        for back in (2, 3):
            do("rollback", plain.commits()[-back])
            do("append", int(generator.integers(1 << 20)), 9, 0, 0)
            do("commit")
    return actions
