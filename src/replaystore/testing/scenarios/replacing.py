"""Replacing: what is under a name is what was there before, or what was to be put there, and nothing else.

Both are known from a run without faults: what `read` says of the folder before and after it. After an
interruption it must say one of the two (the new one, if that was acknowledged); then the same is done again,
which must work, and give the new one, and leave nothing else beside it.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import tempfile
from collections.abc import Mapping
from typing import Any

import numpy as np

from replaystore.errors import NotFoundError
from replaystore.schema.ragged import Ragged
from replaystore.testing.contents import Contents
from replaystore.testing.scenarios import Floor, Tell

__all__ = ["NOTHING", "Replacing", "digest"]

NOTHING = "nothing"
DONE = 1
LEFT = "left"
"""Of what is known: not what `read` says, but the names in the folder, a line each."""


class Replacing:
    """Subclasses say what is done, and how the outcome is read."""

    torch = False
    again = True
    """Whether doing it again gives the same."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._known: dict[str, str] = {}

    def prepare(self, folder: str) -> None:
        """What is there before."""

    def do(self, folder: str) -> None:
        """What may be interrupted."""
        raise NotImplementedError

    def read(self, folder: str) -> str:
        """What is under the name, in a few letters. NotFoundError: nothing is."""
        raise NotImplementedError

    def recover(self, folder: str) -> None:
        """Whoever comes first looks at what is there, for writing if that can be."""
        self._seen(folder)

    def verify(self, folder: str) -> None:
        """AssertionError: what is under the name is not sound."""

    def perform(self, folder: str, tell: Tell) -> None:
        self.do(folder)
        tell(Floor(DONE))

    def _seen(self, folder: str) -> str:
        try:
            return self.read(folder)
        except NotFoundError:
            return NOTHING

    def outcomes(self) -> dict[str, str]:
        """What `read` says before and after; found out by doing it elsewhere, in the child that asks."""
        with tempfile.TemporaryDirectory(dir="/dev/shm" if os.path.isdir("/dev/shm") else None) as folder:  # noqa: S108
            self.prepare(folder)
            before = self._seen(folder)
            self.do(folder)
            return {"old": before, "new": self._seen(folder), LEFT: "\n".join(sorted(os.listdir(folder)))}

    def check(self, folder: str, floor: int | None, *, cut: bool = False) -> None:
        known, seen = dict(self.known(folder)), self._seen(folder)
        left = known.pop(LEFT).splitlines()
        if seen not in known.values():
            raise AssertionError(
                f"under the name is neither the old nor the new, but {seen}; there are "
                f"{sorted(os.listdir(folder))}"
            )
        if floor is not None and seen != known["new"]:
            raise AssertionError("under the name is the old one, and the new one was acknowledged")
        self.verify(folder)
        if self.again or seen != known["new"]:
            self.do(folder)
            self.verify(folder)
            more = sorted(set(os.listdir(folder)) - set(left))
            if more:
                raise AssertionError(f"done again, it leaves {', '.join(more)}")
        if self._seen(folder) != known["new"]:
            raise AssertionError("done again, it gives something else")

    def known(self, folder: str) -> Mapping[str, str]:
        """`outcomes`, kept beside the folder for the children that come later."""
        kept = os.path.join(os.path.dirname(folder), "outcomes")
        key = repr((self.name, vars(self).get("seed")))
        try:
            with open(kept, "rb") as file:
                found: tuple[str, dict[str, str]] = pickle.load(file)  # noqa: S301  # written by ourselves
        except (OSError, EOFError):
            found = ("", {})
        if found[0] != key:
            found = key, self.outcomes()
            with open(kept, "wb") as file:
                pickle.dump(found, file)
        return found[1]


def digest(contents: Contents | Mapping[str, Any]) -> str:
    """A few letters that say whether contents are the same."""
    found = hashlib.sha256()
    if isinstance(contents, Contents):
        parts: dict[str, Any] = {
            **contents.columns,
            **{f"table {name}": values for name, values in contents.table.items()},
        }
        found.update(
            repr(
                [(len(story.columns), story.final_observation is None) for story in contents.stories]
            ).encode()
        )
        found.update(repr(dict(contents.following)).encode())
    else:
        parts = dict(contents)
    for name, values in parts.items():
        if isinstance(values, Ragged):
            compact = values.compact()
            found.update(f"{name} {compact.shape} ".encode() + compact.lengths.tobytes())
            found.update(compact.values.tobytes())
            continue
        array = np.ascontiguousarray(values)
        text = array.tolist() if array.dtype.kind == "U" else array.tobytes()
        found.update(f"{name} {array.dtype.kind} {array.shape} ".encode() + repr(text).encode())
    return found.hexdigest()[:12]
