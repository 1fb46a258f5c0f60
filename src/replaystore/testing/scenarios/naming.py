"""Naming: a store of which few commits are kept, and those that have names, while segments of its log are
removed, and names taken back.

Whatever interrupts it: each name that the commit which is shown knows opens, and shows what it did when it
was given; and no other name is there.
"""

from __future__ import annotations

import numpy as np

from replaystore.buffers import create_open as buffers
from replaystore.buffers.buffer import Buffer
from replaystore.errors import EvictedError
from replaystore.testing.plain import PlainBuffer, name_in_ring, names_of
from replaystore.testing.samples import small
from replaystore.testing.scenarios.recordings import CAPACITY, Recording, same
from replaystore.testing.workloads import Action, act

__all__ = ["Naming", "scenario"]

KEPT = 2
"""Commits without a name that can be opened."""
COMMITS = 12
NAMES = ("a", "b", "c")


class Naming(Recording):
    """A recording that names commits, goes back to them, and takes names back."""

    def _look_back(self, folder: str, commit: int, then: PlainBuffer) -> None:
        if then is not self.plain.history.get(commit):
            return
        (expected, uncertain), path = names_of(then), self.path(folder)
        failed = None if self.failed is None else self.actions[self.failed]
        # After an error, the commit may have been made without forgetting it.
        again = set(failed.arguments) if failed is not None and failed.name == "forget" else set()
        with buffers.open(path) as reader:
            found = reader.names
        # After an error, the commit may have been made without its name.
        late = {name for name, number in expected.items() if self.failed is not None and number == commit}
        needed = expected.keys() - late - uncertain
        if not needed <= set(found) <= set(expected) | again:
            raise AssertionError(f"commit {commit} knows the names {found}, not {sorted(expected)}")
        for name in found:
            if name in late or name not in expected:
                continue
            try:
                with buffers.open(path, commit=name) as reader:
                    same(then, reader, expected[name])
            except EvictedError:
                if then.capacity is None or name == name_in_ring(then):  # whose rows are kept
                    raise

    def _go_on(self, buffer: Buffer, plain: PlainBuffer | None, folder: str) -> Buffer:
        for number in range(3):
            for action in (Action("append", (number, 5, 0, 1)), Action("commit", ("a",))):
                buffer = self.act(buffer, action, folder, lambda _: None)
                if plain is not None:
                    act(plain, action)
        return buffer


def scenario(name: str, seed: int) -> Naming:
    """One of them, by its name; every second seed has fields of any length."""
    generator = np.random.default_rng(seed)
    plain = PlainBuffer(small(ragged=seed % 2 == 1), capacity=CAPACITY if name.endswith("ring") else None)
    actions: list[Action] = []

    def do(kind: str, *arguments: object) -> None:
        actions.append(Action(kind, arguments))
        act(plain, actions[-1])

    for _ in range(COMMITS):
        do("append", int(generator.integers(1 << 20)), int(generator.integers(1, 24)), 0, 1)
        chance = generator.random()
        known, uncertain = names_of(plain)
        if chance < 0.4:
            do("commit", str(generator.choice(NAMES)))
        elif chance < 0.5 and (back := _newest(plain)) is not None:
            do("rollback", back)
        elif chance < 0.6:
            do("reopen")
        elif chance < 0.75 and (sure := [name for name in known if name not in uncertain]):
            do("forget", str(generator.choice(sure)))
        else:
            do("commit")
    options = {"keep_commits": KEPT} | ({"durability": "none"} if seed % 3 == 0 else {})
    suffix = ".h5" if name.endswith("hdf5") else ".zarr"
    return Naming(name, suffix, plain, actions, new=False, **options)


def _newest(plain: PlainBuffer) -> int | None:
    """The commit that was named last, which can be gone back to, if there is one."""
    names, uncertain = names_of(plain)
    whole = [name_in_ring(plain)] if plain.capacity is not None else list(names)
    known = [names[name] for name in whole if name in names and name not in uncertain]
    return max(known, default=None)
