"""Fields of any length in `buffer.zarr_store()`: two plain arrays, and where each step's values lie."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray
import zarr
from conversions import record

import replaystore as rs

pytest_plugins = ["conversions"]

NAMES = ["observation/text", "info/tokens", "info/points"]


def value(root: Any, group: str, name: str, row: int) -> bytes:
    """What anybody who knows the rule reads."""
    begin, end = np.asarray(root[f"{group}/{name}"][row]).tolist()
    data: bytes = np.asarray(root[f"values/{name}"][begin:end]).tobytes()
    return data


@pytest.mark.parametrize("kind", ["a.zarr", "a.h5", "b.zarr.zip"])
@pytest.mark.parametrize("capacity", [None, 333])
def test_values_lie_where_their_steps_say(tmp_path: Path, kind: str, capacity: int | None) -> None:
    if capacity is not None and kind != "a.zarr":
        pytest.skip("only folders are rings")
    location = str(tmp_path / kind)
    first = location if kind != "b.zarr.zip" else str(tmp_path / "a.zarr")
    record(first, steps=300, capacity=capacity, ragged=True)
    if first != location:
        rs.convert(first, location, layout="archive")

    with rs.open(location) as buffer:
        root = zarr.open_group(buffer.zarr_store(), mode="r")
        for name in NAMES:
            kept = buffer.store.rows(f"values/{name}") - buffer.store.first(f"values/{name}")
            assert root[f"values/{name}"].shape[0] == kept
            for row in range(0, len(buffer), 41):
                assert value(root, "steps", name, row) == buffer[name][row : row + 1].named.tobytes()
        parts = np.asarray(root["parts"][:])  # type: ignore[index]
        ended = parts[parts[:, 5] >= 0]
        shown = buffer.parts
        assert len(ended) > 20
        for start, final in ended[:, [0, 5]].tolist():
            mine = int(np.flatnonzero(shown.start == start + buffer.first_row)[0])
            text = buffer.final_values("observation/text", shown.final[mine : mine + 1])
            assert value(root, "final", "observation/text", final) == text.named.tobytes()
        finals = np.asarray(root["final/observation/text"][:])  # type: ignore[index]
        assert 0 <= finals.min() <= finals.max() <= root["values/observation/text"].shape[0]
        assert (capacity is None) == (buffer.store.first("values/info/tokens") == 0)


def test_xarray_names_a_dimension_for_the_values_of_each_field(tmp_path: Path) -> None:
    record(str(tmp_path / "a.zarr"), ragged=True)

    with rs.open(str(tmp_path / "a.zarr")) as buffer:
        values = xarray.open_zarr(buffer.zarr_store(), group="values/info", consolidated=False)
        assert set(values.variables) == {"tokens", "points"}
        assert values["tokens"].dims != values["points"].dims[:1]
        begin, end = buffer.rows("info/tokens", slice(7, 8))[0].tolist()
        assert values["tokens"][begin:end].values.tolist() == buffer["info/tokens"][7].tolist()
