"""What replaystore keeps in metadata.json, TFDS's place for what else is known of a dataset: the section
"replaystore". Without it a dataset is one of TFDS like any other.

    schema        as a buffer's document has it
    features      of each field, where it is in a step
    columns       of the user's columns of trajectories: name, name in episode_metadata, dtype
    splits        of each split of TFDS what it is called in a buffer; those without trajectories too
    environment, metadata

In episode_metadata, beside `seed`, `env`, `terminated` and `truncated`, are the two of `INDEX`, the place of
the trajectory among all, and `FINAL`, whether its last observation is known.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from replaystore.errors import FormatError, ReplayStoreError
from replaystore.formats.rlds.features import Feature, Features
from replaystore.schema.fields import Field, Schema
from replaystore.schema.spaces import DTYPES
from replaystore.schema.strict_json import decoded

__all__ = ["FINAL", "INDEX", "OWN", "SECTION", "Own", "own_of"]

SECTION, VERSION = "replaystore", 1
INDEX, FINAL = "replaystore_index", "replaystore_final"
OWN: Mapping[str, str] = {
    "seed": "int64",
    "env": "int64",
    "terminated": "bool",
    "truncated": "bool",
    INDEX: "int64",
    FINAL: "bool",
}
"""In episode_metadata, whatever the buffer."""


@dataclass(frozen=True)
class Own:
    """The section."""

    schema: Schema
    features: Mapping[str, tuple[str, ...]]
    columns: Mapping[str, tuple[str, str]]
    """name → (name in episode_metadata, dtype)."""
    splits: Mapping[str, str]
    environment: dict[str, Any] | None
    metadata: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        """What stands in the file."""
        return {
            SECTION: {
                "version": VERSION,
                "schema": self.schema.to_json(),
                "features": {name: list(path) for name, path in self.features.items()},
                "columns": [[name, *said] for name, said in self.columns.items()],
                "splits": dict(self.splits),
                "environment": self.environment,
                "metadata": self.metadata,
            }
        }


def own_of(data: bytes | None, features: Features, where: str) -> Own | None:
    """The section in a file of this content; None: there is none. FormatError: it is none of ours, or not
    that of these features."""
    if data is None:
        return None
    try:
        content = decoded(data)
    except ValueError:  # somebody else's, who may write what TFDS can read
        return None
    if not isinstance(content, dict) or SECTION not in content:
        return None
    given = content[SECTION]
    try:
        if given["version"] != VERSION:
            raise ValueError(f"its version is {given['version']!r:.40}: upgrade replaystore")
        schema = Schema.from_json(given["schema"])
        paths = {str(name): tuple(map(str, path)) for name, path in given["features"].items()}
        columns = {str(name): (str(key), str(dtype)) for name, key, dtype in given["columns"]}
        splits = {str(name): str(ours) for name, ours in given["splits"].items()}
        environment, metadata = given["environment"], given["metadata"]
        if not isinstance(environment, dict | None) or not isinstance(metadata, dict):
            raise TypeError("the environment or the metadata are no object")
        own = Own(schema, paths, columns, splits, environment, metadata)
        _check(own, features)
    except (KeyError, ValueError, TypeError, AttributeError, ReplayStoreError) as error:
        raise FormatError(
            f"{where}: the section {SECTION!r} does not fit features.json, or is damaged ({error}): remove "
            "it, and the dataset is read as any other"
        ) from error
    return own


def _check(own: Own, features: Features) -> None:
    """ValueError: the features are others."""
    found = {feature.path: feature for feature in features.steps}
    for name, declared in own.schema.fields.items():
        feature = found.get(own.features[name])
        if feature is None or not _fits(declared, feature):
            raise ValueError(f"the field {name!r:.80} is no such feature")
    episode = {feature.path: feature for feature in features.episode}
    wanted = {**{(name,): dtype for name, dtype in OWN.items()}}
    for key, dtype in own.columns.values():
        wanted[key,] = dtype
    for path, dtype in wanted.items():
        held = episode.get(path)
        if held is None or held.dtype != DTYPES[dtype] or held.shape or held.sequence:
            raise ValueError(f"episode_metadata has no {path[0]!r:.80} of dtype {dtype:.20}")


def _fits(declared: Field, feature: Feature) -> bool:
    if declared.text or feature.text:
        return declared.text and feature.text
    shape = (*feature.sequence, *feature.shape)
    return declared.dtype == feature.dtype and tuple(declared.shape) == shape
