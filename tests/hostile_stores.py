"""Stores that somebody has made to do harm: specimens, what is tried on them, and how they are spoiled."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import replaystore as rs
from replaystore.containers.zarr.metadata import CHECKSUM, document_checksum
from replaystore.testing.crafting_log import packed, records
from replaystore.testing.specimens import Specimen, in_children, look, make, write

KINDS = ("live.zarr", "ring.zarr", "archive.zarr", "archive.zarr.zip", "live.h5", "archive.h5")
ACTIONS = ("append", "repair", "convert", "show")


@pytest.fixture(scope="session")
def stores(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Specimen]:
    return make(str(tmp_path_factory.mktemp("stores")))


@pytest.fixture
def live(stores: dict[str, Specimen], tmp_path: Path) -> Path:
    shutil.copytree(stores["live.zarr"].path, tmp_path / "live.zarr")
    return tmp_path / "live.zarr"


def treated(
    store: Specimen, change: Any, *, actions: tuple[str, ...] = ACTIONS, strict: bool = True
) -> list[str]:
    """What is wrong with how a spoiled store is treated, in a child with its bounds of time and memory."""

    def attempt(_: int) -> list[str]:
        store.spoil(change)
        findings = look(store, strict=strict)
        for action in actions:
            findings += write(store, action)
            store.renew()
            store.spoil(change)
        return findings

    findings = [finding for _, finding in in_children([0], attempt)]
    store.renew()
    return findings


def with_document(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    root = json.loads((path / "zarr.json").read_text())
    change(root["attributes"]["replaystore"])
    root["attributes"][CHECKSUM] = document_checksum(root["attributes"]["replaystore"])
    (path / "zarr.json").write_text(json.dumps(root))


def with_record(
    path: Path, change: Callable[[dict[str, Any], list[list[Any]]], None], *, number: int = -1
) -> None:
    """Change a record of the newest segment, and make its checksum right."""
    log = path / "journal" / "log"
    place = log / str(max(int(name) for name in os.listdir(log) if name.isdigit()))
    known = records(place.read_bytes())
    change(*known[number])
    place.write_bytes(b"".join(packed(*record) for record in known))


MISSING = object()


def _seconds(action: Callable[[], object]) -> float:
    begin = time.perf_counter()
    action()
    return time.perf_counter() - begin


def read_all(path: Path) -> None:
    with rs.open(path) as buffer:
        buffer.sampler(4).sample()
        buffer.trajectory(len(buffer.trajectories) - 1)
