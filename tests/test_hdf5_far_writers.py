"""A reader that is far away shows whole commits while a writer goes on, goes back, and grows."""

from __future__ import annotations

import random
import threading
from pathlib import Path

import pytest
from far_hdf5 import rows, without_directory

import replaystore as rs
from replaystore.errors import ConflictError, NotFoundError
from replaystore.testing import samples
from replaystore.testing.far import far_disk


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("older", [False, True], ids=["", "without-directory"])
def test_a_far_reader_shows_what_was_committed(tmp_path: Path, seed: int, older: bool) -> None:
    path, chance = tmp_path / "a.h5", random.Random(seed)
    truth: dict[int, set[bytes]] = {}
    stop = threading.Event()

    def note(buffer: rs.Buffer) -> None:
        data = b"".join(found.tobytes() for found in rows(buffer).values())
        truth.setdefault(buffer.commit_id, set()).add(data)

    def write(buffer: rs.Buffer) -> None:
        for step in range(60):
            action = chance.choice(["rows", "rows", "rows", "publish", "back"])
            if action == "rows":
                buffer.append(samples.columns(buffer.schema, chance.randint(1, 150), seed=step))
                buffer.commit()
            elif action == "publish":
                buffer.publish()
            else:
                buffer.rollback(chance.choice(buffer.commits()).commit)
            note(buffer)
        stop.set()

    shown: list[tuple[int, bytes]] = []
    with rs.create(path, samples.small()) as buffer, far_disk():
        note(buffer)
        writer = threading.Thread(target=write, args=(buffer,))
        writer.start()
        try:
            while not stop.is_set():
                if older:
                    without_directory(path)
                try:
                    with rs.open(path) as reader:
                        for _ in range(3):
                            found = b"".join(data.tobytes() for data in rows(reader).values())
                            shown.append((reader.commit_id, found))
                            reader.refresh()
                except (ConflictError, NotFoundError):
                    continue
        finally:
            writer.join()
    assert shown
    assert all(found in truth.get(commit, ()) for commit, found in shown)
