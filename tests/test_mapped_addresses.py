"""Where mapped rows lie in the addresses of a process, and how few calls it takes to map what is added."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from columns import ROW, needs_maps, random_rows, same
from raw_shards import grown

from replaystore.columns import mapped
from replaystore.containers.protocol import PAGE
from replaystore.storage.local import Files


@needs_maps
@pytest.mark.parametrize("offset", [0, PAGE, 3 * PAGE])
def test_addresses_agree_with_places_in_files(tmp_path: Path, offset: int) -> None:
    """So that the system can map large pieces by one entry each."""
    files = Files(tmp_path, writable=True)
    column, _, model = grown(files, 300, offset=offset)
    assert column.items is not None
    assert column.items.ctypes.data % mapped.HUGE == offset
    assert same(column.read(0, 300), model)
    files.close()


@needs_maps
def test_what_a_column_grows_by_is_mapped_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a file that goes on, and anew of each file that follows."""
    calls, original = [], mapped._mmap()
    monkeypatch.setattr(mapped, "_mmap", lambda: lambda *given: calls.append(given) or original(*given))
    files = Files(tmp_path, writable=True)
    column, shards, model = grown(files, 10)
    for step in range(120):
        begin, more = len(model), random_rows(ROW, 7, step)
        model = np.concatenate([model, more])
        shards.append(more)
        column.extend(shards.extents(begin, len(model)), len(model))
        assert same(column.read(0, len(model)), model)
    assert len(calls) == -(-len(model) // 128)
    files.close()
