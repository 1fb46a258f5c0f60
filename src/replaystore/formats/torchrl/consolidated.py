"""A consolidated tensordict: one file of tensors, one behind the other, which ends with what they are, and
with the length of that."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np

from replaystore.errors import FormatError
from replaystore.formats.shared.file_rows import FileRows, opened
from replaystore.formats.torchrl.leaves import BFLOAT16, Rows, WidenedRows, dtype_of
from replaystore.formats.torchrl.trees import (
    DEEPEST,
    MOST_JSON,
    Key,
    Leaf,
    Tree,
    lengths_of,
    names_of,
    parsed,
)

__all__ = ["consolidated_tree", "is_consolidated"]


def is_consolidated(path: str) -> bool:
    """Whether a file is a consolidated tensordict: it ends with what it holds. StorageError."""
    try:
        with opened(path) as (descriptor, size):
            return _ending(descriptor, size, path)[1].startswith(b'{"cls":')
    except FormatError:
        return False


def _ending(descriptor: int, size: int, path: str) -> tuple[int, bytes]:
    """Where the metadata begin, and what they are."""
    octets = np.dtype("u1")
    length = -1
    if size > 8:
        length = int(FileRows(descriptor, path, np.dtype("<u8"), (), 1, size - 8).read(0, 1)[0])
    if not 0 < length <= min(size - 8, MOST_JSON):
        raise FormatError(f"{path} is no consolidated tensordict")
    begin = size - 8 - length
    return begin, FileRows(descriptor, path, octets, (), length, begin).read(0, length).tobytes()


@contextmanager
def consolidated_tree(path: str) -> Iterator[Tree]:
    """The tensordict in a file, which is open meanwhile. The errors of `opened`; FormatError: there is
    none."""
    with opened(path) as (descriptor, size):
        begin, text = _ending(descriptor, size, path)
        said = parsed(text, path)
        tree = Tree(path)
        if not isinstance(said, dict) or "cls" not in said:
            raise FormatError(f"{path} is no consolidated tensordict")
        about = said.get("cls_metadata")
        if isinstance(about, dict):
            tree.batch = lengths_of(about.get("batch_size", []), path)
            tree.names = names_of(about.get("names"))
        _consolidated(tree, (descriptor, begin, path), said, ())
        yield tree


def _consolidated(tree: Tree, file: tuple[int, int, str], said: Mapping[str, Any], above: Key) -> None:
    if len(above) > DEEPEST:
        raise FormatError(f"{tree.where}: tensordicts lie more than {DEEPEST} deep in each other")
    leaves, others = said.get("leaves", {}), said.get("non_tensors", {})
    if not isinstance(leaves, dict) or not isinstance(others, dict):
        raise FormatError(f"{tree.where}: its metadata are damaged")
    for name, one in leaves.items():
        _slice(tree, file, (*above, name), one)
    for name in others:
        tree.lost["/".join((*above, name))] = "it is no tensor"
    for name, inner in said.items():
        if name in ("cls", "non_tensors", "leaves", "cls_metadata") or not isinstance(inner, dict):
            continue
        if inner.get("cls") == "TensorDict":
            _consolidated(tree, file, inner, (*above, name))
        else:
            tree.lost["/".join((*above, name))] = f"a {inner.get('cls')!s:.80}, which is not read"


def _slice(tree: Tree, file: tuple[int, int, str], key: Key, said: Any) -> None:
    descriptor, end, path = file
    where = f"{path}, {'/'.join(key)!r}"
    if not isinstance(said, list) or len(said) < 4 or any(type(at) is not int for at in said[2:4]):
        raise FormatError(f"{where}: its metadata are damaged")
    dtype, shape, offset = dtype_of(said[0]), lengths_of(said[1], where), said[2]
    if dtype is None:
        tree.lost["/".join(key)] = f"its dtype is {said[0]!r:.40}"
        return
    if not 0 <= offset <= offset + math.prod(shape) * dtype.itemsize <= end:
        raise FormatError(f"{where} is said to lie behind the end of the file: it was cut short")
    bfloat16 = said[0] == BFLOAT16

    def flat(axes: int) -> Rows:
        rows = FileRows(descriptor, where, dtype, shape[axes:], math.prod(shape[:axes]), offset)
        return WidenedRows(rows) if bfloat16 else rows

    tree.add(key, Leaf(np.dtype("<f4") if bfloat16 else dtype, shape, flat))
