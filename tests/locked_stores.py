"""Stores of few rows for the tests of locks, and children that do something to them."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import replaystore as rs
from replaystore.errors import ConflictError
from replaystore.schema.fields import Field, Schema

SCHEMA = Schema({"observation": Field(np.dtype("f4"), (3,), "observation")})
SUFFIXES = [".zarr", ".h5"]


def rows(value: float, count: int) -> dict[str, Any]:
    return {"observation": np.full((count, 3), value, "f4")}


def make(path: Path, value: float = 1, count: int = 10) -> None:
    with rs.create(path, SCHEMA) as buffer:
        buffer.append(rows(value, count))


def values(path: Path) -> list[float]:
    with rs.open(path) as buffer:
        return buffer["observation"][:][:, 0].tolist()  # type: ignore[no-any-return]


def in_child(doing: Callable[[], object]) -> int:
    """Do it in a forked child; 0: done, 1: a ConflictError, 2: another error."""
    pid = os.fork()
    if not pid:
        try:
            doing()
        except ConflictError:
            os._exit(1)
        except BaseException:  # noqa: BLE001  # a child never comes back
            os._exit(2)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def names(path: Path) -> dict[str, Path]:
    """Other names of a store."""
    folder = path.parent / "links"
    folder.mkdir()
    found = {
        "symbolic link": folder / path.name,
        "link to a link": folder / f"b{path.suffix}",
        "over a folder": path.parent / "up" / path.name,
    }
    found["symbolic link"].symlink_to(path)
    found["link to a link"].symlink_to(found["symbolic link"])
    (path.parent / "up").symlink_to(path.parent)
    if path.is_file():
        found["hard link"] = folder / "c.h5"
        os.link(path, found["hard link"])
    return found
