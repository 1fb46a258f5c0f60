"""Datasets of TFDS that are cut off, damaged, or made to do harm: one error of ours, in little memory."""

from __future__ import annotations

import json
import os
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rlds_files import (
    STEPS,
    dataset,
    episode,
    example,
    inside,
    masked,
    members,
    number,
    record,
    sequence,
    tensor,
)

import replaystore as rs
from replaystore import errors

NAME = "made-train.tfrecord-00000-of-00001"


@pytest.fixture
def made(tmp_path: Path) -> Path:
    return dataset(tmp_path / "made", {"train": [episode(5), episode(3, 1)]})


def refused(made: Path, match: str, error: type[Exception] = errors.FormatError) -> None:
    """It is an error, and there is no target."""
    tracemalloc.start()
    try:
        with pytest.raises(error, match=match):
            rs.convert(made, made.parent / "target.zarr", source_format="rlds")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert not (made.parent / "target.zarr").exists()
    assert peak < 32 << 20


def test_a_checksum_that_does_not_agree(made: Path) -> None:
    data = bytearray((made / NAME).read_bytes())
    data[60] ^= 1
    (made / NAME).write_bytes(data)
    refused(made, "not what its checksum says")


@pytest.mark.parametrize("cut", [1, 5, 13, 100])
def test_a_file_that_is_cut_off(made: Path, cut: int) -> None:
    data = (made / NAME).read_bytes()
    (made / NAME).write_bytes(data[:-cut])
    refused(made, "which is cut off")


def test_a_record_that_is_missing(made: Path) -> None:
    (made / NAME).write_bytes(record(example(episode(5))))
    refused(made, "1 episodes, and dataset_info.json says 2")


def test_a_length_of_an_exabyte(made: Path) -> None:
    length = struct.pack("<Q", 1 << 60)
    (made / NAME).write_bytes(length + masked(length) + b"\0" * 100)
    refused(made, "cut off")


def test_a_length_that_is_no_length(made: Path) -> None:
    (made / NAME).write_bytes(b"\x1f\x8b\x08" + b"\0" * 100)
    refused(made, "or a compressed one")


def nested(depth: int) -> bytes:
    """A message in a message in a message."""
    data = b""
    for _ in range(depth):
        data = inside(1, data)
    return data


def with_list(name: str, data: bytes) -> bytes:
    """An episode in which a feature is other bytes."""
    given = episode(5)
    del given[name]
    entry = inside(1, name.encode()) + inside(2, data)
    return example(given) + inside(1, inside(1, entry))


EMPTY = inside(2, inside(3, b""))
MESSAGES: dict[str, bytes] = {
    "nothing": b"",
    "no example": b"\xff" * 40,
    "deep": nested(3000),
    "a length beyond the end": inside(1, number(10) + number(1 << 40) + b"x"),
    "a number without end": inside(1, b"\x80" * 12),
    "a group": inside(1, b"\x0b\x0c"),
    "a name without end": inside(1, inside(1, inside(1, b"n" * 9999) + inside(2, b""))),
    "a name that is no text": inside(1, inside(1, inside(1, b"\xff") + inside(2, inside(3, b"")))),
    "many features": inside(
        1, b"".join(inside(1, inside(1, b"%d" % n) + inside(2, inside(3, b""))) for n in range(5000))
    ),
    "floats for integers": with_list("steps/action", inside(2, inside(1, b"\0" * 20))),
    "too few": with_list("steps/action", inside(3, inside(1, b"\1\2"))),
    "too many": with_list("steps/action", inside(3, inside(1, b"\1" * 9))),
    "half a number": with_list("steps/reward", inside(2, inside(1, b"\0" * 18))),
    "a number of eleven bytes": with_list("steps/action", inside(3, inside(1, b"\x80" * 11 + b"\0\1\2\3\4"))),
    "a flag of 2": with_list("steps/is_last", inside(3, inside(1, b"\0\0\0\0\2"))),
}


@pytest.mark.parametrize("name", MESSAGES)
def test_a_message_that_is_none(made: Path, name: str) -> None:
    (made / NAME).write_bytes(record(example(episode(5))) + record(MESSAGES[name]))
    refused(made, "the record at byte")


def told(change: Callable[[Any], Any]) -> Callable[[Path], None]:
    """features.json with something else in the place of the features of steps."""

    def write(made: Path) -> None:
        (made / "features.json").write_text(json.dumps(change(dict(STEPS))))

    return write


def deep(_: Any) -> Any:
    inner: Any = tensor("int64")
    for _depth in range(200):
        inner = members({"a": inner})
    return members({"steps": sequence(inner)})


def steps_of(**features: Any) -> Any:
    return members({"steps": sequence(members({**STEPS, **features}), "dataset_feature.Dataset")})


FEATURES: dict[str, Any] = {
    "a list": [],
    "no steps": members({"x": tensor("int64")}),
    "a number": members({"steps": 3}),
    "steps of one number": members({"steps": tensor("int64")}),
    "deep": deep(None),
    "a shape of an exabyte": steps_of(observation=tensor("float32", (1 << 30, 1 << 30))),
    "a negative shape": steps_of(observation=tensor("float32", (-7,))),
    "a dtype that is a list": steps_of(observation=tensor([1])),  # type: ignore[arg-type]
    "another width": steps_of(observation=tensor("float32", (3,))),
    "another dtype": steps_of(observation=tensor("int64", (2,))),
    "a narrower dtype": steps_of(action=tensor("int8")),
    "a feature that is not there": steps_of(more=tensor("int64")),
    "bytes that are none": steps_of(observation=tensor("float64", (1 << 30,), "zlib")),
}


@pytest.mark.parametrize("name", FEATURES)
def test_features_that_lie(made: Path, name: str) -> None:
    (made / "features.json").write_text(json.dumps(FEATURES[name]))
    refused(made, "features|shape|record at byte|is no")


def test_json_that_is_none(made: Path) -> None:
    for text in ('{"a": NaN}', '{"a": 1, "a": 2}', "[" * 100_000, "", "\x00"):
        (made / "features.json").write_text(text)
        refused(made, "is not what TFDS writes")
    (made / "features.json").write_bytes(b" " * (17 << 20))
    refused(made, "more than")


def test_a_zip_bomb(tmp_path: Path) -> None:
    import zlib

    bomb = zlib.compress(b"\0" * (64 << 20))
    given = episode(3) | {"steps/observation": [bomb] * 3}
    steps = STEPS | {"observation": tensor("float32", (2,), "zlib")}
    refused(dataset(tmp_path / "made", {"train": [given]}, steps), "larger than it may be")


def test_no_path_of_a_file_is_followed(made: Path, tmp_path: Path) -> None:
    """The names in dataset_info.json are of no consequence."""
    info = json.loads((made / "dataset_info.json").read_text())
    info["name"] = "../../somewhere"
    info["splits"][0]["filepathTemplate"] = "../../../etc/passwd-{SHARD_X_OF_Y}"
    (made / "dataset_info.json").write_text(json.dumps(info))

    assert rs.convert(made, tmp_path / "a.zarr").steps == 6


def test_a_pipe_is_not_waited_for(made: Path) -> None:
    (made / NAME).unlink()
    os.mkfifo(made / NAME)
    refused(made, "no regular file")


def test_files_of_several_counts_and_of_other_kinds(made: Path) -> None:
    (made / "made-train.tfrecord-00000-of-00002").write_bytes(b"")
    refused(made, "do not agree")
    (made / "made-train.tfrecord-00000-of-00002").rename(made / "made-x.array_record-00000-of-00001")
    refused(made, "are not read", errors.UnsupportedError)


# --- the section of replaystore


@pytest.fixture
def own(tmp_path: Path) -> Path:
    schema = rs.Schema(
        {
            "observation": rs.Field("float32", (2,), "observation"),
            "action": rs.Field("int64", (), "action"),
            "reward": rs.Field("float64", (), "reward"),
            "terminated": rs.Field("bool", (), "terminated"),
            "truncated": rs.Field("bool", (), "truncated"),
        }
    )
    with rs.create(tmp_path / "own.zarr", schema) as buffer:
        flags = np.arange(6) % 3 == 2
        buffer.append(
            {
                "observation": np.zeros((6, 2), np.float32),
                "action": np.arange(6),
                "reward": np.arange(6.0),
                "terminated": flags,
                "truncated": np.zeros(6, bool),
            },
            final_observation=np.ones((2, 2), np.float32),
        )
    rs.convert(tmp_path / "own.zarr", tmp_path / "own.rlds")
    return tmp_path / "own.rlds"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("version", 2),
        ("schema", {"fields": []}),
        ("schema", 3),
        ("features", {}),
        ("columns", [["a", "b", "float32"]]),
        ("columns", 7),
        ("splits", []),
        ("environment", 3),
        ("metadata", None),
    ],
)
def test_a_section_that_does_not_fit(own: Path, key: str, value: Any) -> None:
    content = json.loads((own / "metadata.json").read_text())
    content["replaystore"][key] = value
    (own / "metadata.json").write_text(json.dumps(content))
    refused(own, "the section 'replaystore' does not fit")


def test_without_the_section_it_is_a_dataset_like_any_other(own: Path, tmp_path: Path) -> None:
    for text in (None, "{}", "something else"):
        (own / "metadata.json").unlink()
        if text is not None:
            (own / "metadata.json").write_text(text)
        rs.convert(own, tmp_path / "again.zarr", overwrite=True)
        with rs.open(tmp_path / "again.zarr") as buffer:
            assert buffer.trajectories["terminated"].all()
            assert (buffer["reward"][:] == np.arange(6.0)).all()
            assert (buffer.trajectory(1).final_observation == 1).all()
        (own / "metadata.json").touch()


def test_an_episode_that_replaystore_did_not_write(own: Path) -> None:
    """Two of them in one record, or an environment that there is not."""
    from replaystore.formats.rlds.features import parsed
    from replaystore.formats.rlds.records import opened_shard
    from replaystore.formats.rlds.wire import lists_of

    (shard,) = own.glob("*.tfrecord-*")
    with opened_shard(str(shard)) as file:
        data = [bytes(each.read(0, each.size)) for each in file.records()]
        lists = lists_of(next(iter(file.records())))
    assert len(parsed((own / "features.json").read_bytes(), "").episode) == len(lists) - 8
    envs = inside(1, inside(1, b"episode_metadata/env") + inside(2, inside(3, inside(1, number(-3)))))
    shard.write_bytes(b"".join(record(each + inside(1, envs)) for each in data))
    refused(own, "the environment -3 is none")
    flags = inside(3, inside(1, b"\1\0\1\0"))
    first = inside(1, inside(1, b"steps/is_first") + inside(2, flags))
    shard.write_bytes(b"".join(record(each + inside(1, first)) for each in data))
    refused(own, "of several episodes")
