"""Tensordicts in files: a folder of memmaps, the same in a zip file (`.tdz`), one consolidated file, HDF5,
and Zarr. What each holds, without its rows: `Leaf`s by their keys.

Invariants:
1. Nothing is unpickled: what is no tensor and no JSON is named in `lost`.
2. A key is the name of a file only as tensordict spells it, so that none leaves the folder.
3. The shape of a leaf is compared with the bytes that are there, before anything is read.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from replaystore.errors import FormatError, ReplayStoreError
from replaystore.formats.shared.hdf5.groups import Dataset, Group
from replaystore.formats.shared.zarr.tree import ZarrTree
from replaystore.formats.torchrl.leaves import (
    BFLOAT16,
    FlatRows,
    MemberRows,
    Rows,
    WidenedRows,
    dtype_of,
)
from replaystore.storage.protocol import Reads

__all__ = [
    "DEEPEST",
    "MOST_JSON",
    "DatasetRows",
    "Key",
    "Leaf",
    "Tree",
    "encoded",
    "hdf5_tree",
    "is_tensordict",
    "json_of",
    "lengths_of",
    "memmap_tree",
    "names_of",
    "parsed",
    "pytree",
    "zarr_tree",
]

Key = tuple[str, ...]
META = "meta.json"
MARK = "__tensordict__"
"""The attribute of a group that tensordict wrote into Zarr."""
OBJECT = "__tensordict_non_tensor__"
MOST_LEAVES, DEEPEST = 4096, 32
MOST_JSON = 16 << 20
MOST_VALUES = 1 << 40
_UNSAFE = frozenset('/<>:"|?*\\ \0%' + "".join(map(chr, range(32))) + chr(127))


@dataclass(frozen=True)
class Leaf:
    """A tensor: its dtype and its whole shape; `flat(axes)` gives its rows, the first axes being one."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    flat: Callable[[int], Rows]


@dataclass
class Tree:
    """A tensordict."""

    where: str
    batch: tuple[int, ...] = ()
    leaves: dict[Key, Leaf] = field(default_factory=dict)
    values: dict[Key, Any] = field(default_factory=dict)
    """What is no tensor, and was written as JSON."""
    lost: dict[str, str] = field(default_factory=dict)
    """What is there beside that, and why it is not read."""
    names: tuple[str | None, ...] = ()
    """Of the axes of `batch`, if they have any."""

    def add(self, key: Key, leaf: Leaf) -> None:
        """FormatError: there are more than there can be."""
        if len(self.leaves) >= MOST_LEAVES:
            raise FormatError(f"{self.where} has over {MOST_LEAVES} tensors: do not trust it")
        if 0 in leaf.shape[len(self.batch) :]:
            self.lost["/".join(key)] = "it has no values"
            return
        self.leaves[key] = leaf


def encoded(key: str) -> str:
    """What a key is called in a folder, as tensordict spells it."""
    if not key:
        return "%"
    if key in (".", ".."):
        return "%2E" * len(key)
    return "".join(f"%{ord(char):02X}" if char in _UNSAFE else char for char in key)


def json_of(files: Reads, name: str) -> Any:
    """What a small file says; None: it is not there. FormatError: it is no JSON."""
    try:
        data = files.read_whole(name, MOST_JSON)
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return None
    return parsed(data, files.path(name))


def parsed(data: bytes, where: str) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{where} is no JSON ({error}): it is damaged") from error


def lengths_of(given: object, where: str) -> tuple[int, ...]:
    if (
        not isinstance(given, list)
        or len(given) > DEEPEST
        or any(type(length) is not int or length < 0 for length in given)
        or math.prod(given) > MOST_VALUES
    ):
        raise FormatError(f"{where}: {given!r:.80} is no shape of a tensor: it is damaged")
    return tuple(given)


# --- memmaps


def memmap_tree(files: Reads, folder: str = "") -> Tree:
    """The tensordict of a folder. FormatError: there is none, or it is damaged."""
    tree = Tree(files.path(folder))
    meta = json_of(files, _in(folder, META))
    if not isinstance(meta, dict) or "_type" not in meta:
        raise FormatError(f"{tree.where} is no tensordict: it has no {META} that says so")
    tree.batch = lengths_of(meta.get("shape", []), tree.where)
    _memmaps(tree, files, folder, meta, ())
    return tree


def _in(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder else name


def _memmaps(tree: Tree, files: Reads, folder: str, meta: Mapping[str, Any], above: Key) -> None:
    if len(above) > DEEPEST:
        raise FormatError(f"{tree.where}: tensordicts lie more than {DEEPEST} deep in each other")
    if files.exists(_in(folder, "other.pickle")):
        tree.lost["/".join((*above, "other.pickle"))] = "a pickle, which is never loaded"
    for name, said in meta.items():
        if not isinstance(said, dict):
            continue
        if not name.isprintable() or not _is_text(name):
            raise FormatError(f"{tree.where}: {name!r:.80} is no key: do not trust it")
        key = (*above, name)
        if "type" in said:
            _inner(tree, files, folder, key)
        elif "dtype" in said and "shape" in said:
            _memmap(tree, files, folder, key, said)


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _inner(tree: Tree, files: Reads, folder: str, key: Key) -> None:
    """What lies in a folder of its own."""
    inside = next((_in(folder, name) for name in _spellings(key[-1]) if _is_folder(files, folder, name)), "")
    meta = json_of(files, _in(inside, META)) if inside else None
    if not isinstance(meta, dict):
        tree.lost["/".join(key)] = "it is not there"
    elif meta.get("_is_non_tensor"):
        if "data" in meta and not files.exists(_in(inside, "other.pickle")):
            tree.values[key] = meta["data"]
        else:
            tree.lost["/".join(key)] = "a pickle, which is never loaded"
    elif "TensorDict'" in str(meta.get("_type")) and "Lazy" not in str(meta.get("_type")):
        _memmaps(tree, files, inside, meta, key)
    else:
        tree.lost["/".join(key)] = f"a {meta.get('_type')!s:.80}, which is not read"


def _is_folder(files: Reads, folder: str, name: str) -> bool:
    return bool(files.exists(_in(folder, name))) and bool(files.list(_in(folder, name)))


def _spellings(key: str) -> Iterator[str]:
    """What a key is called in a folder; older versions wrote it as it is."""
    yield encoded(key)
    if not {"/", "\\", "\0"} & set(key) and key not in ("", ".", ".."):
        yield key


def _memmap(tree: Tree, files: Reads, folder: str, key: Key, said: Mapping[str, Any]) -> None:
    dtype, shown = dtype_of(said["dtype"]), "/".join(key)
    if dtype is None:
        tree.lost[shown] = f"its dtype is {said['dtype']!r:.40}"
        return
    shape = lengths_of(said["shape"], f"{tree.where}: {shown}")
    names = [_in(folder, f"{name}.memmap") for name in _spellings(key[-1])]
    name = next((one for one in names if files.exists(one)), names[0])
    if said.get("is_nested"):
        shape = _nested(files, name, shape, dtype)
    whole = MemberRows(files, name, dtype, (), math.prod(shape))
    whole.check()
    bfloat16 = said["dtype"] == BFLOAT16

    def flat(axes: int) -> Rows:
        rows = MemberRows(files, name, dtype, shape[axes:], math.prod(shape[:axes]))
        return WidenedRows(rows) if bfloat16 else rows

    tree.add(key, Leaf(np.dtype("<f4") if bfloat16 else dtype, shape, flat))


def _nested(files: Reads, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> tuple[int, ...]:
    """The shape of tensors of several lengths that lie one behind the other."""
    where = files.path(name)
    if len(shape) != 2 or not shape[0] or not shape[1]:
        raise FormatError(f"{where}: {shape} is no shape of shapes: it is damaged")
    shapes = MemberRows(
        files, name.removesuffix(".memmap") + ".shape.memmap", np.dtype("<i8"), shape[1:], shape[0]
    )
    shapes.check()
    inner = lengths_of(shapes.read(0, 1)[0, 1:].tolist(), where)
    row = math.prod(inner) * dtype.itemsize
    size = files.size(name)
    return (size // row if row else 0, *inner)


def pytree(files: Reads, folder: str, metadata: Mapping[str, Any]) -> Tree:
    """The tensors of a storage that holds something else than a tensordict, by their keys."""
    tree = Tree(files.path(folder))
    for path, said in metadata.items():
        key = tuple(part.replace("_<dot>_", ".") for part in path.split("."))
        if not isinstance(said, dict) or not {"dtype", "shape"} <= said.keys() or {"", "..", "."} & set(key):
            raise FormatError(f"{tree.where}: {path!r:.80} is no tensor: it is damaged")
        inside = "/".join((folder, *key[:-1])) if folder else "/".join(key[:-1])
        _memmap(tree, files, inside, (key[-1],), said)
        if len(key) > 1 and (key[-1],) in tree.leaves:
            tree.leaves[key] = tree.leaves.pop((key[-1],))
    return tree


# --- HDF5 and Zarr


def names_of(given: object) -> tuple[str | None, ...]:
    return tuple(given) if isinstance(given, list) and all(isinstance(n, str | None) for n in given) else ()


@dataclass(frozen=True)
class DatasetRows:
    dataset: Dataset

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.dataset.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        return self.dataset.shape[1:]

    @property
    def count(self) -> int:
        return self.dataset.rows

    def read(self, start: int, stop: int) -> Any:
        return self.dataset.read(start, stop)


def hdf5_tree(group: Group) -> Tree:
    """The tensordict of a group."""
    tree = Tree(group.where)
    for path, dataset in group.walk():
        key = tuple(path.split("/"))
        if dataset.kind != "numbers" or dtype_of(dataset.dtype.name) is None:
            tree.lost[path] = "it holds no numbers"
        elif not dataset.shape:
            tree.values[key] = dataset.read().item()
        else:
            tree.add(key, Leaf(dataset.dtype, dataset.shape, _axes_of(DatasetRows(dataset))))
    return tree


def zarr_tree(found: ZarrTree) -> Tree:
    """The tensordict in a hierarchy that tensordict wrote."""
    tree = Tree(str(found))
    about = found.attributes().get(MARK)
    if not isinstance(about, dict):
        raise FormatError(f"{tree.where} is no tensordict: its root does not say so")
    tree.batch, tree.names = lengths_of(about.get("batch_size", []), tree.where), names_of(about.get("names"))
    for path in found.arrays():
        if OBJECT in found.attributes(path):
            tree.lost[path] = "it is no tensor"
            continue
        array = found.array(path)
        if not array.full_shape:
            tree.values[tuple(path.split("/"))] = array.read(0, 1)[0].item()
        else:
            tree.add(tuple(path.split("/")), Leaf(array.dtype, array.full_shape, _axes_of(array)))
    return tree


def _axes_of(rows: Rows) -> Callable[[int], Rows]:
    return lambda axes: rows if axes == 1 else FlatRows(rows, axes)


def is_tensordict(files: Reads, folder: str = "") -> bool:
    """Whether there is a tensordict of memmaps in a folder."""
    try:
        meta = json_of(files, _in(folder, META))
    except ReplayStoreError:
        return False
    return isinstance(meta, dict) and "tensordict" in str(meta.get("_type"))
