"""An archive is opened by copies of its metadata: what its arrays themselves say is looked at by verify."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import replaystore as rs
from replaystore.errors import CorruptError
from replaystore.testing.samples import columns, small


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sealed store, as a folder."""
    folder = tmp_path_factory.mktemp("sealed")
    with rs.create(folder / "a.zarr", small(), layout="archive") as buffer:
        buffer.append(columns(small(), 50, 0))
    return folder / "a.zarr"


def described(archive: Path) -> list[str]:
    """The files of metadata of all arrays and groups but the root."""
    found = sorted(str(file.relative_to(archive)) for file in archive.rglob("zarr.json"))
    return [name for name in found if name != "zarr.json"]


@pytest.mark.parametrize("what", ["a group's", "no shape", "an empty shape", "a shape of text", "no JSON"])
def test_metadata_that_are_none_of_an_array_are_a_problem_and_no_surprise(
    archive: Path, tmp_path: Path, what: str
) -> None:
    for number, file in enumerate(described(archive)):
        place = tmp_path / f"{number}.zarr"
        shutil.copytree(archive, place)
        found: dict[str, Any] = json.loads((place / file).read_text())
        changed: Any = {
            "a group's": {"zarr_format": 3, "node_type": "group", "attributes": {}},
            "no shape": {key: value for key, value in found.items() if key != "shape"},
            "an empty shape": found | {"shape": []},
            "a shape of text": found | {"shape": {"name": "bytes"}},
            "no JSON": None,
        }[what]
        if changed == found:
            continue
        (place / file).write_text("{" if changed is None else json.dumps(changed))

        problems = rs.verify(place).problems

        assert problems, file
        assert not any("nobody thought of" in str(problem) for problem in problems), (file, problems)
        assert any(file in str(problem) for problem in problems), (file, problems)
        with pytest.raises(CorruptError):
            rs.open(place)
