"""features.json and dataset_info.json of a new dataset, as `tfds.builder_from_directory` wants them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from replaystore.formats.rlds.features import EPISODE, STEPS, Feature

__all__ = ["Written", "features_json", "info_json", "name_of", "split_names"]

_CLASSES = "tensorflow_datasets.core.features."
VERSION = "1.0.0"


@dataclass
class Written:
    """What has been written of a split."""

    name: str
    lengths: list[int] = field(default_factory=list)
    """How many records each file has."""
    size: int = 0
    """Bytes of their data."""


def features_json(steps: Iterable[Feature], episode: Iterable[Feature]) -> dict[str, Any]:
    """The features of episodes of steps."""
    inner = _dict(_nested(steps))
    dataset = {
        "pythonClassName": f"{_CLASSES}dataset_feature.Dataset",
        "sequence": {"feature": inner, "length": "-1"},
    }
    return _dict({EPISODE: _dict(_nested(episode)), STEPS: dataset})


def _nested(features: Iterable[Feature]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for feature in features:
        *above, name = feature.path
        place = found
        for part in above:
            place = place.setdefault(part, {})
        place[name] = _leaf(feature)
    return {name: _closed(part) for name, part in found.items()}


def _closed(part: dict[str, Any]) -> dict[str, Any]:
    """A leaf as it is; what is nested as a FeaturesDict."""
    if "pythonClassName" in part and isinstance(part["pythonClassName"], str):
        return part
    return _dict({name: _closed(inner) for name, inner in part.items()})


def _dict(features: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "pythonClassName": f"{_CLASSES}features_dict.FeaturesDict",
        "featuresDict": {"features": dict(features)},
    }


def _leaf(feature: Feature) -> dict[str, Any]:
    if feature.text:
        return {"pythonClassName": f"{_CLASSES}text_feature.Text", "text": {}}
    lengths = [str(-1 if length is None else length) for length in feature.shape]
    shape = {"dimensions": lengths} if lengths else {}
    tensor = {
        "pythonClassName": f"{_CLASSES}tensor_feature.Tensor",
        "tensor": {"shape": shape, "dtype": feature.dtype.name, "encoding": feature.encoding},
    }
    if not feature.sequence:
        return tensor
    return {
        "pythonClassName": f"{_CLASSES}sequence_feature.Sequence",
        "sequence": {"feature": tensor, "length": "-1"},
    }


def info_json(name: str, splits: Sequence[Written]) -> dict[str, Any]:
    """What TFDS wants to know of the files."""
    return {
        "name": name,
        "version": VERSION,
        "moduleName": "replaystore",
        "description": "Episodes of steps, written by replaystore.",
        "fileFormat": "tfrecord",
        "releaseNotes": {VERSION: "written by replaystore"},
        "splits": [
            {
                "name": split.name,
                "shardLengths": [str(length) for length in split.lengths],
                "numBytes": str(split.size),
                "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
            }
            for split in splits
        ],
    }


def name_of(path: str) -> str:
    """What the dataset in a folder is called: as the folder, as far as TFDS allows it; as what its version
    lies in, where it lies as TFDS has it, name/1.0.0."""
    parts = [part for part in re.split(r"[/\\]", path) if part not in ("", ".", "..")]
    while parts and re.fullmatch(r"\d+\.\d+\.\d+", parts[-1]):
        parts.pop()
    name = re.sub(r"\.(rlds|tfds)$", "", parts[-1], flags=re.IGNORECASE) if parts else ""
    found = re.sub(r"\W+", "_", name, flags=re.ASCII).strip("_").lower()
    return found if re.match(r"[a-z]", found) else f"dataset_{found}".rstrip("_")


def split_names(splits: Iterable[str]) -> dict[str, str]:
    """For each split of a buffer its name in TFDS. Steps of none are those of "train", where there is no
    other of this name."""
    found: dict[str, str] = {}
    for split in splits:
        if split:
            name = re.sub(r"\W", "_", split, flags=re.ASCII)
            found[split] = _free(f"{name}_" if name in ("all", "") else name, found)
    if "" in splits:
        found[""] = _free("train", found)
    return found


def _free(name: str, found: Mapping[str, str]) -> str:
    while name in found.values():
        name += "_"
    return name
