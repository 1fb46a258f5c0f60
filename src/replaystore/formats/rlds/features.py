"""features.json: what the steps and the metadata of an episode consist of, flat.

There are two ways in which it is written: today's (`pythonClassName`, and a message of the kind's own), and
that of TFDS before 4.4 (`type` and `content`). Both say the same.

What a class of TFDS is stored as is told by its name, and by nothing that would have to be imported. A
feature of a kind that is none of these, or of more dimensions than a field can have, is named with the reason
why it is left out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from replaystore.errors import FormatError
from replaystore.schema.spaces import DTYPES
from replaystore.schema.strict_json import decoded

__all__ = ["EPISODE", "STEPS", "Feature", "Features", "parsed"]

STEPS, EPISODE = "steps", "episode_metadata"
MOST_FEATURES, MOST_DEPTH, MOST_NUMBERS = 2000, 16, 1 << 40
Encoding = Literal["none", "bytes", "zlib", "image", "text"]


@dataclass(frozen=True)
class Feature:
    """A leaf: what one value is, and how it is stored."""

    path: tuple[str, ...]
    """Where it is in a step, or in an episode."""
    key: str
    """Its name in a tf.train.Example."""
    dtype: np.dtype[Any]
    shape: tuple[int | None, ...]
    encoding: Encoding
    sequence: tuple[int | None, ...] = ()
    """How long the sequences are that it is in within a step: of one at most."""

    @property
    def text(self) -> bool:
        return self.encoding == "text"


@dataclass
class Features:
    """What there is of a dataset of episodes."""

    steps: list[Feature] = field(default_factory=list)
    episode: list[Feature] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    """What is left out, and why."""


def parsed(data: bytes, where: str) -> Features:
    """What features.json says. FormatError: it is none, or not that of episodes of steps."""
    try:
        top = _members(decoded(data))
        if top is None or STEPS not in top:
            raise ValueError("it describes no episodes, which have `steps`")
        kind, content = _kind_of(top[STEPS])
        inner = _inner(content) if kind in ("Dataset", "Sequence") else None
        if inner is None:
            raise ValueError(f"`steps` are a {kind}, and no dataset")
        found = Features()
        _walk(inner, (), STEPS, (), found.steps, found.skipped, 0)
        for name, given in top.items():
            if name != STEPS:
                path = () if name == EPISODE else (name,)
                _walk(given, path, name, (), found.episode, found.skipped, 0)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise FormatError(f"{where} is not what TFDS writes for episodes of steps: {error}") from error
    if not found.steps:
        raise FormatError(f"{where}: the steps have no feature that could be a field")
    return found


def _kind_of(given: Any) -> tuple[str, Any]:
    """The name of the class, and what it says of itself."""
    if not isinstance(given, dict):
        raise TypeError("a feature is no object")
    if "type" in given and "content" in given:
        return str(given["type"]).rpartition(".")[2], given["content"]
    name = str(given.get("pythonClassName", "")).rpartition(".")[2]
    content = [value for key, value in given.items() if key not in ("pythonClassName", "description")]
    parts = [value for value in content if isinstance(value, dict)]
    return name, parts[0] if parts else {}


def _members(given: Any) -> dict[str, Any] | None:
    """The features of a FeaturesDict; None: it is something else."""
    kind, content = _kind_of(given)
    if kind not in ("FeaturesDict", "TopLevelFeature"):
        return None
    members = content.get("features", {}) if "pythonClassName" in given else content
    if not isinstance(members, dict):
        raise TypeError("the features of a FeaturesDict are no object")
    return members


def _inner(content: Any) -> Any:
    return content["feature"]


def _walk(
    given: Any,
    path: tuple[str, ...],
    key: str,
    sequence: tuple[int | None, ...],
    found: list[Feature],
    skipped: dict[str, str],
    depth: int,
) -> None:
    """All leaves below a feature."""
    if depth > MOST_DEPTH or len(found) + len(skipped) > MOST_FEATURES:
        raise ValueError(f"it has more than {MOST_FEATURES} features, or is deeper than {MOST_DEPTH} levels")
    members = _members(given)
    if members is not None:
        for name, member in members.items():
            if not name:
                raise ValueError("a feature has no name")
            _walk(member, (*path, name), f"{key}/{name}", sequence, found, skipped, depth + 1)
        return
    kind, content = _kind_of(given)
    if kind in ("Sequence", "Dataset"):
        length = _length(content.get("length"))
        _walk(_inner(content), path, key, (*sequence, length), found, skipped, depth + 1)
        return
    leaf = _leaf(kind, content, path, key, sequence)
    if isinstance(leaf, str):
        skipped[key] = leaf
    else:
        found.append(leaf)


def _leaf(
    kind: str, content: Any, path: tuple[str, ...], key: str, sequence: tuple[int | None, ...]
) -> Feature | str:
    """A feature that holds values; or why it cannot be a field."""
    shape: tuple[int | None, ...]
    if kind in _KNOWN:
        shape, dtype, encoding = _KNOWN[kind]
    elif kind == "Image":
        shape, dtype, encoding = _shape(content.get("shape")), content.get("dtype") or "uint8", "image"
    elif kind in ("Tensor", "Scalar"):
        shape = _shape(content.get("shape"))
        dtype, encoding = content.get("dtype"), content.get("encoding") or "none"
    else:
        return f"{kind or 'what'!s:.60} is not known to replaystore"
    dtype = dtype.removeprefix("tf.").removeprefix("<dtype: '").removesuffix("'>")
    if dtype in ("string", "object", "object_", "str"):
        if shape:
            return "arrays of texts"
        dtype, encoding = "uint8", "text"
    if dtype not in DTYPES:
        return f"the dtype {dtype!r:.40}"
    if encoding not in ("none", "bytes", "zlib", "image", "text"):
        return f"the encoding {encoding!r:.40}"
    return _unfit(shape, encoding, sequence) or Feature(path, key, DTYPES[dtype], shape, encoding, sequence)


_KNOWN: Mapping[str, tuple[tuple[int | None, ...], str, Encoding]] = {
    "Text": ((), "string", "text"),
    "ClassLabel": ((), "int64", "none"),
    "BBoxFeature": ((4,), "float32", "none"),
}


def _unfit(shape: tuple[int | None, ...], encoding: str, sequence: tuple[int | None, ...]) -> str:
    """Why values of this form cannot be a field; "" if they can."""
    if len(sequence) > 1 or (sequence and encoding == "text"):
        return "sequences of sequences, or of texts"
    if 0 in (*sequence, *shape):
        return "values without numbers"
    unknown = [length is None for length in (*sequence, *shape)]
    if encoding != "image" and (sum(unknown) > 1 or any(unknown[1:])):
        return "arrays of several unknown lengths"
    if encoding == "none" and None in shape:
        return "arrays of unknown length that are not encoded"
    if sequence and encoding != "none":
        return "sequences of encoded values"
    return ""


def _shape(given: Any) -> tuple[int | None, ...]:
    """A shape, in which None, or -1, is any length."""
    lengths = given.get("dimensions", []) if isinstance(given, Mapping) else given or []
    found = tuple(_length(length) for length in lengths)
    if len(found) > 16 or math.prod(length or 1 for length in found) > MOST_NUMBERS:
        raise ValueError(f"a shape {lengths!r:.60} is too large")
    return found


def _length(given: Any) -> int | None:
    length = -1 if given is None else int(given)
    if length < -1 or isinstance(given, bool | float):
        raise ValueError(f"{given!r:.40} is no length")
    return None if length == -1 else length
