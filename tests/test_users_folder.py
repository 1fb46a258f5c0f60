"""`~` at the beginning of a path is the user's folder wherever a path is given."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from tensors import torch

import replaystore as rs
from replaystore.testing.samples import columns, small

PLACES: dict[str, Callable[[], object]] = {
    "create": lambda: rs.create("~/b.zarr", small()).close(),
    "open": lambda: rs.open("~/a.zarr").close(),
    "to a store": lambda: rs.convert("~/a.zarr", Path("~") / "b.h5"),
    "to a file": lambda: rs.convert("~/a.zarr", "~/b.npz"),
    "from a file": lambda: rs.convert("~/a.npz", "~/b.zarr"),
    "dry run": lambda: rs.convert("~/a.npz", "~/b.zarr", dry_run=True),
    "digest of a file": lambda: rs.digest("~/a.npz"),
    "diff of files": lambda: rs.diff("~/a.npz", "~/a.zarr"),
    "merge": lambda: rs.merge(["~/a.zarr", "~/a.npz"], "~/b.zarr"),
    "verify": lambda: rs.verify("~/a.zarr"),
}


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's folder, with a store and a file in it; the current one is another, and empty."""
    found = tmp_path / "home"
    with rs.create(found / "a.zarr", small()) as buffer:
        buffer.append(columns(small(), 10, 1))
    rs.convert(found / "a.zarr", found / "a.npz")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("HOME", str(found))
    return found


@pytest.mark.parametrize("name", PLACES)
def test_a_tilde_is_the_users_folder(name: str, home: Path) -> None:
    before = set(home.iterdir())

    PLACES[name]()

    assert list(Path.cwd().iterdir()) == []
    if name in ("create", "to a store", "to a file", "from a file", "merge"):
        assert len(set(home.iterdir()) - before) == 1


@pytest.mark.skipif(torch is None, reason="PyTorch is not installed")
@pytest.mark.parametrize("name", ["~/x.pkl", "~/x.zarr"])
def test_buffers_of_other_projects_are_saved_there_too(name: str, home: Path) -> None:
    from rlhf_buffers import ReplayBuffer, filled

    filled(8, 5).save(name)

    assert (home / name[2:]).exists()
    assert ReplayBuffer.load(name).size == 5
    assert list(Path.cwd().iterdir()) == []
