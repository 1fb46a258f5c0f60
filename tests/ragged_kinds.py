"""One recording with fields of any length, in stores of every kind."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import replaystore as rs
from replaystore.containers.located import remove
from replaystore.location import Location
from replaystore.testing.crashes import tiny
from replaystore.testing.servers import serving

KINDS = ["zarr", "h5", "ring", "lanes", "archive.zarr", "archive.h5", "zip", "memory", "http", "http-zip"]
SCHEMA = rs.Schema(
    {
        "observation/text": rs.Field.of_text("observation"),
        "observation/image": rs.Field("uint8", (None, 2, 3), "observation"),
        "action": rs.Field("int32", (None,), "action"),
        "reward": rs.Field("float32", (), "reward"),
        "terminated": rs.Field("bool", (), "terminated"),
        "truncated": rs.Field("bool", (), "truncated"),
        "info/points": rs.Field("float32", (None, 3), "info"),
        "info/flags": rs.Field("bool", (None,), "info"),
        "info/waves": rs.Field("complex64", (None,), "info"),
    }
)
STEPS = 90
CAPACITY = 40


def columns(count: int, seed: int) -> dict[str, Any]:
    """Steps of finite numbers; a value is empty, short, or as long as a few chunks."""
    random = np.random.default_rng(seed)
    found: dict[str, Any] = {"reward": random.normal(size=count).astype(np.float32)}
    found |= {"terminated": random.random(count) < 0.07, "truncated": np.zeros(count, bool)}
    for name, declared in SCHEMA.ragged.items():
        lengths = random.choice([0, 1, 2, 7, 40, 700], count, p=[0.2, 0.2, 0.2, 0.2, 0.15, 0.05])
        if declared.text:
            found[name] = ["é語a"[: n % 4] * (n // 3 + 1) for n in lengths.tolist()]
            continue
        numbers = [random.normal(3, 50, (n, *declared.inner)) for n in lengths.tolist()]
        if declared.dtype.kind in "bu":
            numbers = [np.abs(values) % 200 for values in numbers]
        found[name] = [values.astype(declared.dtype) for values in numbers]
    return found


def _record(place: str, **options: Any) -> None:
    with tiny(), rs.create(place, SCHEMA, **options) as buffer:
        for number in range(STEPS // 15):
            buffer.append(columns(15, number), split="train")
            buffer.commit()


def _record_lanes(place: str) -> None:
    """Three environments at once, so that rows of a trajectory do not lie side by side."""
    with tiny(), rs.create(place, SCHEMA) as buffer:
        writer = buffer.writer(3)
        given = columns(STEPS + 6, 9)
        names = SCHEMA.names("observation")
        for at in range(0, STEPS + 3, 3):
            now = {name: values[at : at + 3] for name, values in given.items()}
            observation = {name.removeprefix("observation/"): now[name] for name in names}
            if not at:
                writer.reset(observation)
                continue
            info = {name: now[name] for name in now if name.startswith("info/")}
            ended = now["terminated"]
            writer.step(now["action"], now["reward"], ended, now["truncated"], observation, info)
            if ended.any():
                writer.reset(observation, mask=ended)


def made(kind: str, folder: Path) -> str:
    """Where a store of this kind is, which is made in a folder; what is on a server is made for it."""
    if kind == "memory":
        _record("memory:ragged-kinds", overwrite=True)
        return "memory:ragged-kinds"
    place = folder / {"h5": "a.h5", "archive.h5": "a.h5"}.get(kind, "a.zarr")
    if kind == "lanes":
        _record_lanes(str(place))
        return str(place)
    options: dict[str, Any] = {"capacity": CAPACITY} if kind == "ring" else {}
    if kind.startswith("archive") or kind.endswith("zip"):
        options["layout"] = "archive"
    _record(str(place), **options)
    if kind.endswith("zip"):
        rs.convert(place, f"{place}.zip")
        return f"{place}.zip"
    return str(place)


@pytest.fixture(params=KINDS)
def ragged_store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The location of a store of each kind."""
    place = made(request.param, tmp_path)
    if request.param.startswith("http"):
        with serving(tmp_path) as server:
            yield f"{server.url}/{Path(place).name}"
    else:
        yield place
    remove(Location("memory", "zarr", "ragged-kinds"))
