"""Columns of raw rows are mapped and read while other threads open, close and extend."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from columns import ROW, needs_maps, random_rows, same
from raw_shards import grown

from replaystore.columns import mapped
from replaystore.columns.mapped import raw_column
from replaystore.containers.protocol import Extent
from replaystore.storage.local import Files
from replaystore.storage.memory import MemoryFiles


@needs_maps
def test_a_file_that_is_being_mapped_is_not_closed_by_another_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, others = random_rows(ROW, 64), random_rows(ROW, 64, 1)
    files, looked = Files(tmp_path, writable=True), mapped._identity
    for name, data in (("a", rows), ("b", others)):
        files.create(name)
        files.write(name, 0, data.tobytes())
    files.forget("b")
    status = files.status("a")

    def beside(fd: int) -> Any:
        """Between looking at a file and mapping it, which is not one operation."""
        found = looked(fd)
        thread = threading.Thread(target=lambda: (files.forget("a"), files.descriptor("b")))
        thread.start()
        thread.join()
        return found

    column = raw_column(files, ROW)
    monkeypatch.setattr(mapped, "_identity", beside)
    column.extend([Extent("a", 0, rows.nbytes)], 64)
    assert column.mapped
    assert same(column.read(0, 64), rows)
    assert files.status("a") == status
    files.close()


@needs_maps
def test_reading_and_extending_at_once_is_safe() -> None:
    files = MemoryFiles("test")
    column, shards, model = grown(files, 1)
    rows = random_rows(ROW, 3000, 5)
    rows[0] = model[0]
    wrong: list[int] = []
    done = threading.Event()

    def read() -> None:
        generator = np.random.default_rng()
        while not done.is_set():
            stop = column.stop
            numbers = generator.integers(0, stop, 16)
            if not (
                same(column.take(numbers), rows[numbers])
                and same(column.rows(stop // 2, stop), rows[stop // 2 : stop])
            ):
                wrong.append(stop)

    threads = [threading.Thread(target=read) for _ in range(3)]
    for thread in threads:
        thread.start()
    for stop in range(11, 3000, 10):
        begin = column.stop
        shards.append(rows[begin:stop])
        column.extend(shards.extents(begin, stop), stop)
    done.set()
    for thread in threads:
        thread.join()
    assert not wrong
