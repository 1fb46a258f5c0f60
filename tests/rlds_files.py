"""Datasets of TFDS, made by hand: the bytes of records and messages are put together here, independently of
what reads them."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np

CLASSES = "tensorflow_datasets.core.features."


def number(value: int) -> bytes:
    """A varint."""
    value &= (1 << 64) - 1
    out = b""
    while value > 127:
        out, value = out + bytes([value % 128 + 128]), value // 128
    return out + bytes([value])


def inside(field: int, data: bytes) -> bytes:
    """A field of bytes."""
    return number(field * 8 + 2) + number(len(data)) + data


def feature(values: Any) -> bytes:
    """A Feature: of floats, integers, or texts and bytes."""
    if isinstance(values, list):
        listed = b"".join(inside(1, v.encode() if isinstance(v, str) else v) for v in values)
        return inside(1, listed)
    values = np.asarray(values)
    if values.dtype.kind == "f":
        return inside(2, inside(1, values.astype("<f4").tobytes()))
    return inside(3, inside(1, b"".join(number(int(v)) for v in values.reshape(-1))))


def example(lists: Mapping[str, Any]) -> bytes:
    """A tf.train.Example."""
    entries = [
        inside(1, inside(1, key.encode()) + inside(2, feature(values))) for key, values in lists.items()
    ]
    return inside(1, b"".join(entries))


def masked(data: bytes) -> bytes:
    checksum = google_crc32c.value(data)
    return struct.pack("<I", ((checksum >> 15 | checksum << 17) + 0xA282EAD8) % (1 << 32))


def record(data: bytes) -> bytes:
    """A record of a TFRecord file."""
    length = struct.pack("<Q", len(data))
    return length + masked(length) + data + masked(data)


def tensor(dtype: str, shape: Sequence[int] = (), encoding: str = "none") -> dict[str, Any]:
    dimensions = {"dimensions": [str(length) for length in shape]} if shape else {}
    told = {"shape": dimensions, "dtype": dtype, "encoding": encoding}
    return {"pythonClassName": f"{CLASSES}tensor_feature.Tensor", "tensor": told}


def text() -> dict[str, Any]:
    return {"pythonClassName": f"{CLASSES}text_feature.Text", "text": {}}


def image(shape: Sequence[int]) -> dict[str, Any]:
    told = {"shape": {"dimensions": [str(n) for n in shape]}, "dtype": "uint8", "encodingFormat": "png"}
    return {"pythonClassName": f"{CLASSES}image_feature.Image", "image": told}


def members(features: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "pythonClassName": f"{CLASSES}features_dict.FeaturesDict",
        "featuresDict": {"features": dict(features)},
    }


def sequence(inner: Any, kind: str = "sequence_feature.Sequence", length: int = -1) -> dict[str, Any]:
    return {"pythonClassName": CLASSES + kind, "sequence": {"feature": inner, "length": str(length)}}


MARKS = {name: tensor("bool") for name in ("is_first", "is_last", "is_terminal")}
STEPS = {
    "observation": tensor("float32", (2,)),
    "action": tensor("int64"),
    "reward": tensor("float32"),
    "discount": tensor("float32"),
    **MARKS,
}


def dataset(
    folder: Path,
    episodes: Mapping[str, Sequence[Mapping[str, Any]]],
    steps: Mapping[str, Any] | None = None,
    episode: Mapping[str, Any] | None = None,
) -> Path:
    """A dataset with these records, by split."""
    folder.mkdir(parents=True)
    inner = sequence(members(STEPS if steps is None else steps), "dataset_feature.Dataset")
    features = members({"steps": inner, "episode_metadata": members(episode or {})})
    (folder / "features.json").write_text(json.dumps(features))
    splits = []
    for split, lists in episodes.items():
        records = [example(each) for each in lists]
        (folder / f"made-{split}.tfrecord-00000-of-00001").write_bytes(b"".join(map(record, records)))
        splits.append({"name": split, "shardLengths": [str(len(records))], "numBytes": "1"})
    info = {"name": "made", "version": "1.0.0", "fileFormat": "tfrecord", "splits": splits}
    (folder / "dataset_info.json").write_text(json.dumps(info))
    return folder


def episode(rows: int, seed: int = 0, *, last: bool = True, terminal: bool = True) -> dict[str, Any]:
    """The lists of an episode of so many rows, of the features `STEPS`; the last step has zeros."""
    generator = np.random.default_rng(seed)
    at = np.arange(rows)
    ends = (at == rows - 1) & last
    return {
        "steps/observation": generator.normal(size=(rows, 2)),
        "steps/action": np.where(ends, 0, generator.integers(-9, 300, rows)),
        "steps/reward": np.where(ends, 0, generator.normal(size=rows)),
        "steps/discount": np.where(ends & terminal, 0.0, 1.0),
        "steps/is_first": at == 0,
        "steps/is_last": ends,
        "steps/is_terminal": ends & terminal,
    }
