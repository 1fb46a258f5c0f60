"""A reader whose store goes another way meanwhile is told, and never shown rows of two histories."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import replaystore as rs
from replaystore.errors import ConflictError

SCHEMA = rs.Schema({"observation": rs.Field(np.dtype("f4"), (256,), "observation")})
STORAGE = {"observation": {"codec": "zstd:1", "chunk_rows": 4}}


def rows(value: int) -> dict[str, Any]:
    return {"observation": np.full((20, 256), value, "f4")}


def values(buffer: rs.Buffer) -> list[float]:
    found: list[float] = buffer["observation"][::20][:, 0].tolist()
    return found


@pytest.mark.parametrize("storage", [{}, STORAGE], ids=["raw", "coded"])
def test_rows_opened_after_a_rollback_are_not_taken_for_those_before(tmp_path: Path, storage: Any) -> None:
    with rs.create(tmp_path / "a.zarr", SCHEMA, storage=storage) as writer:
        for value in (1, 2):
            writer.append(rows(value))
            writer.commit()
        reader = rs.open(tmp_path / "a.zarr")  # and reads nothing yet
        writer.rollback(1)
        writer.append(rows(3))
        writer.commit()

        with pytest.raises(ConflictError, match="went back to an older commit; refresh or reopen"):
            values(reader)

        assert reader.refresh()
        assert values(reader) == [1, 3]
        reader.close()


@pytest.mark.parametrize("suffix", [".zarr", ".h5"])
def test_a_reader_does_not_go_on_with_another_store(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    for value in (1, 2):
        with rs.create(path, SCHEMA, overwrite=True) as writer:
            for _ in range(value):
                writer.append(rows(value))
                writer.commit()
        if value == 1:
            reader = rs.open(path)

    with pytest.raises(ConflictError, match="another store has taken its place; open it again"):
        reader.refresh()

    reader.close()
    with rs.open(path) as again:
        assert values(again) == [2, 2]
