"""Folders and files of TorchRL that are none, damaged, or a stranger's: one error, or what is whole."""

from __future__ import annotations

import json
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torchrl_files import changed, checkpoint, converted, memmaps, steps

import replaystore as rs
from replaystore.errors import FormatError, ReplayStoreError, UnsupportedError
from replaystore.formats.finding import find
from replaystore.testing import samples

# --- what can be told


def test_rings_begin_where_the_next_row_is_written(tmp_path: Path) -> None:
    rows = {name: np.roll(values, 5, axis=0) for name, values in steps(12).items()}
    report = converted(checkpoint(tmp_path / "a", rows, cursor=5), tmp_path)
    assert report.rest == {}
    with rs.open(tmp_path / "out.zarr") as buffer:
        assert buffer["action"][:].tolist() == list(range(12))
        assert buffer.trajectories["length"].tolist() == [4, 4, 4]


def test_only_rows_that_are_used_are_steps_and_an_open_end_is_said(tmp_path: Path) -> None:
    report = converted(checkpoint(tmp_path / "a", steps(16), length=6, cursor=6), tmp_path)
    assert report.steps == 6
    assert "1 trajectories go on" in report.rest["open"].how
    with rs.open(tmp_path / "out.zarr") as buffer:
        assert buffer.trajectories["length"].tolist() == [4, 2]
        final = buffer.final_observation(1)
        assert final is not None
        assert final["observation"].tolist() == [24, 25, 26, 27]


def test_without_numbers_it_is_cut_where_something_else_follows(tmp_path: Path) -> None:
    """A flattened batch of environments: nothing but the observations tells."""
    rows = steps(80)
    rows["next/done"] = rows["next/terminated"] = np.zeros((80, 1), np.bool_)
    rows["next/observation"][[9, 49]] = -1
    del rows["collector/traj_ids"]
    report = converted(checkpoint(tmp_path / "a", rows), tmp_path)
    assert any("2 trajectories were cut" in remark for remark in report.remarks)
    with rs.open(tmp_path / "out.zarr") as buffer:
        assert buffer.trajectories["length"].tolist() == [10, 40, 30]
        final = buffer.final_observation(0)
        assert final is not None
        assert (final["observation"] == -1).all()
        assert not buffer.trajectories["terminated"].any()


@pytest.mark.parametrize(
    ("gone", "there"),
    [
        (["next/truncated"], {"terminated", "truncated"}),
        (["next/terminated", "next/truncated"], {"next/done"}),
        (["next/done"], {"terminated", "truncated"}),
        (["next/done", "next/terminated", "next/truncated"], set()),
    ],
)
def test_flags_that_are_not_there(gone: list[str], there: set[str], tmp_path: Path) -> None:
    rows = {name: values for name, values in steps(12).items() if name not in gone}
    converted(checkpoint(tmp_path / "a", rows), tmp_path)
    with rs.open(tmp_path / "out.zarr") as buffer:
        flags = {"terminated", "truncated", "next/done"}
        assert flags & buffer.schema.fields.keys() == there
        assert buffer.trajectories["length"].tolist() == [4, 4, 4]


def test_flags_that_say_more_are_kept(tmp_path: Path) -> None:
    rows = steps(12)
    rows["done"] = rows["done"].copy()
    rows["done"][0] = True
    rows["next/done"] = rows["next/done"].copy()
    rows["next/done"][5] = True
    converted(checkpoint(tmp_path / "a", rows), tmp_path)
    with rs.open(tmp_path / "out.zarr") as buffer:
        assert buffer["done"][:].ravel().tolist() == [True] + [False] * 11
        assert buffer["next/done"][:].ravel().tolist() == rows["next/done"].ravel().tolist()
        assert buffer.trajectories["length"].tolist() == [4, 2, 2, 4]


def test_priorities_become_a_field(tmp_path: Path) -> None:
    path = checkpoint(tmp_path / "a", steps(12), cursor=4)
    (path / "sampler").mkdir()
    np.arange(12.0).tofile(path / "sampler" / "sumtree.memmap")
    (path / "sampler" / "sampler_metadata.json").write_text('{"_alpha": 0.7, "_max_capacity": 12.0}')
    report = converted(path, tmp_path)
    assert any("(priority + eps) ** alpha" in remark for remark in report.remarks)
    with rs.open(tmp_path / "out.zarr") as buffer:
        assert buffer["priority"][:].tolist() == [*range(4, 12), *range(4)]


def test_storages_of_something_else_than_tensordicts(tmp_path: Path) -> None:
    """A dict of tensors, whose names are in the metadata."""
    path = checkpoint(tmp_path / "a", steps(8))
    metadata = {}
    for file in (path / "storage").rglob("*.memmap"):
        name = str(file.relative_to(path / "storage")).removesuffix(".memmap")
        said = json.loads((file.parent / "meta.json").read_text())[file.stem]
        metadata[name.replace("/", ".")] = {"shape": said["shape"], "dtype": said["dtype"]}
    for file in (path / "storage").rglob("meta.json"):
        file.unlink()
    changed(
        path / "storage" / "storage_metadata.json", lambda c: {**c, "is_pytree": True, "metadata": metadata}
    )
    assert find(str(path)) == "torchrl"
    assert converted(path, tmp_path).steps == 8


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("version", 2),
        ("schema", {"fields": 7}),
        ("splits", [1]),
        ("splits", []),
        ("environment", {"id": 7}),
        ("keys", {"action": [[]]}),
        ("keys", 3),
    ],
)
def test_notes_that_are_damaged_are_left_out_or_one_error(key: str, value: Any, tmp_path: Path) -> None:
    with rs.create(tmp_path / "a.zarr", samples.small()) as buffer:
        buffer.append(samples.columns(samples.small(), 5, 0))
    rs.convert(tmp_path / "a.zarr", tmp_path / "b", target_format="torchrl")
    where = tmp_path / "b" / "replaystore" / ".zattrs"
    noted = json.loads(where.read_text())
    if isinstance(value, dict) and key == "keys":
        value = {**noted["keys"], **value}
    where.write_text(json.dumps({**noted, key: value}))
    try:
        converted(tmp_path / "b", tmp_path)
    except ReplayStoreError:
        assert not (tmp_path / "out.zarr").exists()


# --- what must not be believed


class Bomb:
    """What unpickling would run."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch /nowhere/at/all",)


def test_pickles_are_never_loaded(tmp_path: Path) -> None:
    path = checkpoint(tmp_path / "a", steps(8))
    bomb = pickle.dumps(Bomb())
    (path / "prefetch.pkl").write_bytes(bomb)
    (path / "transform.t").write_bytes(bomb)
    (path / "storage" / "other.pickle").write_bytes(bomb)
    (path / "storage" / "note").mkdir()
    (path / "storage" / "note" / "meta.json").write_text('{"_is_non_tensor": true, "_type": "x"}')
    (path / "storage" / "note" / "other.pickle").write_bytes(bomb)
    changed(path / "storage" / "meta.json", lambda c: {**c, "note": {"type": "NonTensorData"}})
    report = converted(path, tmp_path)
    assert report.rest.keys() == {"prefetch.pkl", "transform.t", "other.pickle", "note"}
    assert all("never loaded" in fate.how for fate in report.rest.values())


def said(**what: Any) -> Callable[[Any], Any]:
    return lambda content: {**content, "observation": {**content["observation"], **what}}


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("storage/meta.json", said(shape=[1 << 40, 4])),
        ("storage/meta.json", said(shape=[1 << 62, 1 << 62])),
        ("storage/meta.json", said(shape=[-8, 4])),
        ("storage/meta.json", said(shape="8")),
        ("storage/meta.json", said(shape=[8.0, 4])),
        ("storage/meta.json", said(is_nested=True)),
        ("storage/meta.json", lambda c: {**c, "shape": [1 << 50]}),
        ("storage/meta.json", lambda c: {**c, "shape": None}),
        ("storage/meta.json", lambda c: {**c, "../../../etc/x": c["action"]}),
        ("storage/meta.json", lambda c: {**c, "..": c["action"]}),
        ("storage/meta.json", lambda c: {**c, "\0": c["action"]}),
        ("storage/meta.json", lambda _: [1]),
        ("storage/storage_metadata.json", lambda c: {**c, "len": 99}),
        ("storage/storage_metadata.json", lambda c: {**c, "len": -1}),
        ("storage/storage_metadata.json", lambda c: {**c, "len": True}),
        ("storage/storage_metadata.json", lambda c: {**c, "is_pytree": True, "metadata": {"..": {}}}),
        ("storage/storage_metadata.json", lambda c: {**c, "is_pytree": True, "metadata": 3}),
    ],
)
def test_lies_are_one_error(name: str, change: Callable[[Any], Any], tmp_path: Path) -> None:
    path = checkpoint(tmp_path / "a", steps(8))
    changed(path / name, change)
    with pytest.raises(FormatError):
        converted(path, tmp_path)
    assert not (tmp_path / "out.zarr").exists()


def test_a_memmap_that_was_cut_short_is_an_error_and_kills_nobody(tmp_path: Path) -> None:
    path = checkpoint(tmp_path / "a", steps(4096))
    os.truncate(path / "storage" / "observation.memmap", 4096)
    with pytest.raises(FormatError, match="cut short"):
        converted(path, tmp_path)
    os.unlink(path / "storage" / "observation.memmap")
    with pytest.raises(FormatError, match="not there"):
        converted(path, tmp_path)


def test_a_memmap_that_becomes_shorter_while_it_is_read_is_an_error(tmp_path: Path) -> None:
    path = checkpoint(tmp_path / "a", steps(1 << 18))
    shown: list[int] = []

    def cut(done: int, _total: int) -> None:
        shown.append(done)
        os.truncate(path / "storage" / "observation.memmap", 4096)

    with pytest.raises(FormatError, match="became shorter"):
        rs.convert(path, tmp_path / "out.zarr", progress=cut)
    assert shown
    assert not (tmp_path / "out.zarr").exists()


def test_links_are_not_followed(tmp_path: Path) -> None:
    path = checkpoint(tmp_path / "a", steps(8))
    os.rename(path / "storage" / "next", tmp_path / "next")
    os.symlink(tmp_path / "next", path / "storage" / "next")
    with pytest.raises(FormatError, match="link"):
        converted(path, tmp_path)


def test_compact_layouts_that_lie_are_one_error(tmp_path: Path) -> None:
    rows = {name.removeprefix("next/"): values for name, values in steps(8).items() if name != "observation"}
    rows["observation"] = np.zeros((10, 4), np.float32)
    path = checkpoint(tmp_path / "a", rows, batch=[])
    known = {"_storage_shape": [8], "shift": 8, "is_full": True}

    def said_of(values: dict[str, Any]) -> None:
        for name, value in values.items():
            folder = path / "storage" / name
            folder.mkdir(exist_ok=True)
            content = {"_is_non_tensor": True, "data": value, "_type": "NonTensorData"}
            (folder / "meta.json").write_text(json.dumps(content))
            changed(
                path / "storage" / "meta.json", lambda c, name=name: {**c, name: {"type": "NonTensorData"}}
            )

    said_of(known)
    assert converted(path, tmp_path).steps == 8
    for name, value in (
        ("_storage_shape", [1 << 40]),
        ("_storage_shape", []),
        ("_storage_shape", "8"),
        ("shift", 9),
        ("shift", -1),
        ("shift", 4.0),
        ("is_full", 1),
    ):
        said_of({**known, name: value})
        with pytest.raises(FormatError):
            converted(path, tmp_path)
    said_of({**known, "is_full": False, "shift": 3})  # one trajectory more than there are observations for
    with pytest.raises(FormatError):
        converted(path, tmp_path)


def test_archives_that_lie_are_one_error(tmp_path: Path) -> None:
    folder = memmaps(tmp_path / "a", steps(8))
    path = tmp_path / "a.tdz"

    def packed(**more: bytes) -> None:
        with zipfile.ZipFile(path, "w") as file:
            for member in sorted(folder.rglob("*")):
                if member.is_file():
                    file.write(member, str(member.relative_to(folder)))
            for name, data in more.items():
                file.writestr(name, data, zipfile.ZIP_DEFLATED)

    packed()
    assert find(str(path)) == "torchrl"
    assert converted(path, tmp_path).steps == 8
    packed(bomb=b"\0" * (64 << 20))
    with pytest.raises(UnsupportedError, match="compressed"):
        converted(path, tmp_path)
    packed(**{"../up": b"x"})
    with pytest.raises(FormatError):
        converted(path, tmp_path)


@pytest.mark.parametrize(
    "tail", [b"", b"\0" * 8, b"\xff" * 8, b'{"cls":' + b"[" * 9000 + (9007).to_bytes(8, "little")]
)
def test_consolidated_files_that_lie_are_one_error(tail: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.td").write_bytes(b"\0" * 64 + tail)
    with pytest.raises(ReplayStoreError):
        converted(tmp_path / "a.td", tmp_path)


@pytest.mark.parametrize(
    "leaf",
    [
        ["torch.float32", [1 << 40], 0, 4, 0],
        ["torch.float32", [4], -16, 0, 0],
        ["torch.float32", [4], 1 << 62, 16, 0],
        ["torch.float32", [4]],
        "torch.float32",
        ["torch.float32", [4], "0", 16, 0],
    ],
)
def test_leaves_of_consolidated_files_that_lie_are_one_error(leaf: Any, tmp_path: Path) -> None:
    said = {
        "cls": "TensorDict",
        "non_tensors": {},
        "leaves": {"x": leaf},
        "cls_metadata": {"batch_size": [4]},
    }
    text = json.dumps(said, separators=(",", ":")).encode()
    (tmp_path / "a.td").write_bytes(b"\0" * 16 + text + len(text).to_bytes(8, "little"))
    assert find(str(tmp_path / "a.td")) == "torchrl"
    with pytest.raises(FormatError):
        converted(tmp_path / "a.td", tmp_path)


def test_other_storages_are_named(tmp_path: Path) -> None:
    for name, word in (("data_indices.json", "CompressedListStorage"), ("0/meta.json", "several storages")):
        path = tmp_path / word / "storage" / name
        path.parent.mkdir(parents=True)
        path.write_text("{}")
        with pytest.raises(FormatError, match=word):
            rs.convert(tmp_path / word, tmp_path / "out.zarr", source_format="torchrl")
