"""What a path holds: the folder that `ReplayBuffer.dumps` made, the storage of one, or a tensordict in one of
its files. What lies around the steps (samplers, random numbers, pickles) is named in `rest`, if it is lost.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from replaystore.errors import FormatError, NotFoundError
from replaystore.formats.report import Fate, lost
from replaystore.formats.shared.hdf5.groups import SIGNATURE, Group, opened_hdf5
from replaystore.formats.shared.zarr.tree import ZIP, ZarrTree
from replaystore.formats.torchrl import trees
from replaystore.formats.torchrl.consolidated import consolidated_tree, is_consolidated
from replaystore.formats.torchrl.grids import Held, compact, transitions
from replaystore.formats.torchrl.leaves import JoinedRows, MemberRows, Rows, dtype_of
from replaystore.formats.torchrl.trees import Key, Tree, json_of
from replaystore.storage.folder import FolderReader
from replaystore.storage.protocol import Reads
from replaystore.storage.zip import ZipFiles

__all__ = ["Opened", "is_buffer", "opened_buffer"]

STORAGE, WRITER, SAMPLER, CHECKPOINT = "storage", "writer/metadata.json", "sampler", "checkpoint.h5"
STATE = "storage_metadata.json"
_TRAJECTORY = re.compile(r"traj_([0-9]+)")


@dataclass
class Opened:
    """A buffer, while its files are open."""

    held: Held
    beside: ZarrTree | None = None
    """Where what we wrote beside it may lie."""
    rest: dict[str, Fate] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)


@contextmanager
def opened_buffer(path: str) -> Iterator[Opened]:
    """NotFoundError, StorageError; FormatError: there is none, or it is damaged."""
    if not os.path.exists(path):
        raise NotFoundError(f"{path} does not exist: check the path")
    with ExitStack() as stack:
        if os.path.isdir(path):
            files = FolderReader(path, writable=False)
            stack.callback(files.close)
            yield _folder(files, path, stack)
            return
        if not os.path.isfile(path):
            raise FormatError(f"{path} is neither a file nor a folder: check the path")
        with open(path, "rb") as file:
            begin = file.read(len(SIGNATURE))
        if begin.startswith(ZIP):
            packed = ZipFiles(path)
            stack.callback(packed.close)
            yield Opened(transitions(trees.memmap_tree(packed), None, None, storage=False))
        elif begin == SIGNATURE:
            yield Opened(_hdf5(stack.enter_context(opened_hdf5(path)), None))
        else:
            tree = stack.enter_context(consolidated_tree(path))
            yield Opened(transitions(tree, None, None, storage=False))


def is_buffer(path: str) -> bool:
    """Whether there is one, as its metadata say. OSError, ReplayStoreError: that cannot be told."""
    if os.path.isdir(path):
        files = FolderReader(path, writable=False)
        try:
            inside = _storage_of(files)
            return (
                trees.is_tensordict(files, inside)
                or files.exists(_in(inside, CHECKPOINT))
                or _is_pytree(files, inside)
                or (files.exists("zarr.json") and trees.MARK in ZarrTree(files).attributes())
            )
        finally:
            files.close()
    if not os.path.isfile(path):
        return False
    with open(path, "rb") as file:
        begin = file.read(len(SIGNATURE))
    if begin.startswith(ZIP):
        packed = ZipFiles(path)
        try:
            return trees.is_tensordict(packed)
        finally:
            packed.close()
    if begin == SIGNATURE:
        with opened_hdf5(path) as root:
            return "_storage_shape" in root or ("next" in root and root.get("next/done") is not None)
    return is_consolidated(path)


def _in(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder else name


def _storage_of(files: Reads) -> str:
    """The folder with the storage: one of this name, or the folder itself."""
    return STORAGE if files.list(STORAGE) else ""


def _is_pytree(files: Reads, folder: str) -> bool:
    state = json_of(files, _in(folder, STATE))
    return isinstance(state, dict) and state.get("is_pytree") is True


# --- folders


def _folder(files: FolderReader, path: str, stack: ExitStack) -> Opened:
    inside = _storage_of(files)
    if files.exists("zarr.json") and not inside:
        return Opened(transitions(trees.zarr_tree(ZarrTree(files)), None, None, storage=False))
    opened = Opened(Held("", {}, {}, []), ZarrTree(files))
    cursor, ranked = _cursor(files, opened)
    if files.exists(_in(inside, CHECKPOINT)):
        files.size(_in(inside, CHECKPOINT))  # which is no link
        root = stack.enter_context(opened_hdf5(os.path.join(path, inside, CHECKPOINT)))
        opened.held = _hdf5(root, cursor)
    else:
        opened.held = _memmaps(files, inside, cursor)
    if inside:
        _around(files, opened)
    if ranked:
        opened.held.remarks.append("its rows are those of the highest rank, and lie in no order of time")
    return opened


def _cursor(files: Reads, opened: Opened) -> tuple[int | None, bool]:
    """The row that is written next, if that is known; and whether rows are ranked."""
    said = json_of(files, WRITER)
    if not isinstance(said, dict):
        return None, False
    opened.details |= {key: said[key] for key in ("cursor", "write_count") if type(said.get(key)) is int}
    ranked, cursor = "rank_key" in said, said.get("cursor")
    return (cursor if type(cursor) is int and cursor >= 0 and not ranked else None), ranked


def _memmaps(files: Reads, inside: str, cursor: int | None) -> Held:
    state = json_of(files, _in(inside, STATE))
    length = None
    if isinstance(state, dict):
        length = state.get("len")
        if type(length) is not int or length < 0:
            raise FormatError(f"{files.path(_in(inside, STATE))}: {length!r:.40} is no length: it is damaged")
        if state.get("is_pytree") is True:
            return transitions(
                trees.pytree(files, inside, _mapping(state.get("metadata"), files.path(inside))),
                length,
                cursor,
                storage=True,
            )
    if not trees.is_tensordict(files, inside):
        raise FormatError(_something_else(files, inside))
    tree = trees.memmap_tree(files, inside)
    shape, shift, full = (tree.values.get((key,)) for key in ("_storage_shape", "shift", "is_full"))
    if shape is not None:
        rows = {key: leaf.flat(1) for key, leaf in tree.leaves.items() if leaf.shape}
        return compact(tree, rows, shape, shift, full)
    return transitions(tree, length, cursor, storage=isinstance(state, dict))


def _mapping(given: object, where: str) -> Mapping[str, Any]:
    if not isinstance(given, dict):
        raise FormatError(f"{where}: its metadata are damaged")
    return given


def _something_else(files: Reads, inside: str) -> str:
    where = files.path(inside)
    if files.exists(_in(inside, "data_indices.json")):
        return f"{where} is a CompressedListStorage, which is not read: dump a LazyMemmapStorage"
    if files.exists(_in(inside, "0")):
        return f"{where} has several storages: convert each, {os.path.join(where, '0')} and so on"
    return f"{where} is neither a checkpoint of a replay buffer of TorchRL nor a tensordict"


def _around(files: FolderReader, opened: Opened) -> None:
    """What lies around a storage, and is lost; priorities are rows of a field."""
    held, rest = opened.held, opened.rest
    for name, why in (
        ("prefetch.pkl", "a pickle, which is never loaded"),
        ("transform.t", "a pickle of transforms, which is never loaded"),
        ("rng_state", "the state of TorchRL's random numbers"),
        ("writer/generation.memmap", "how often each row was written"),
    ):
        if files.exists(name):
            rest[name] = lost(why)
    if not files.list(SAMPLER):
        return
    said = json_of(files, f"{SAMPLER}/sampler_metadata.json")
    capacity = said.get("_max_capacity") if isinstance(said, dict) else None
    grid = held.grids[0] if len(held.grids) == 1 else None
    if capacity is None or grid is None or held.compact or capacity != grid.steps or grid.lanes != 1:
        rest[SAMPLER] = lost("the state of the sampler")
        return
    rows = MemberRows(files, f"{SAMPLER}/sumtree.memmap", np.dtype("<f8"), (), grid.steps)
    rows.check()
    if ("priority",) in {*held.columns, *held.pairs}:
        rest[SAMPLER] = lost("priorities are there already")
        return
    held.columns[("priority",)] = rows
    opened.details["sampler"] = said
    held.remarks.append("priority is what the sum tree of the sampler has: (priority + eps) ** alpha")


# --- HDF5


def _hdf5(root: Group, cursor: int | None) -> Held:
    if "_storage_shape" not in root:
        return transitions(trees.hdf5_tree(root), None, cursor, storage=False)
    tree = Tree(root.where)
    shape, shift, full = (root.dataset(name).read() for name in ("_storage_shape", "shift", "is_full"))
    if shift.ndim or full.ndim or shape.ndim != 1 or full.dtype != np.bool_ or shift.dtype.kind != "i":
        raise FormatError(f"{root.where}: its shift, is_full and _storage_shape are none: it is damaged")
    rows = _joined(root, [int(n) for n in shape], full=bool(full))
    return compact(tree, rows, [int(n) for n in shape], int(shift), bool(full))


def _joined(root: Group, shape: list[int], *, full: bool) -> dict[Key, Rows]:
    """The datasets of all trajectories, as if each lay behind the one before."""
    numbers = sorted((int(one[1]), name) for name in root if (one := _TRAJECTORY.fullmatch(name)))
    names = [name for _, name in numbers]
    if not names:
        raise FormatError(f"{root.where} has no trajectories: it is damaged, or something else")
    lengths = np.array([root.group(name).dataset("done").rows for name in names], np.int64)
    more = np.ones(len(names), np.int64)
    if not full:  # what was never written is one trajectory more, without an observation of its own
        more[np.cumsum(lengths) % max(1, shape[0]) == 0] = 0
    found: dict[Key, Rows] = {}
    for path, dataset in root.group(names[0]).walk():
        if dataset.kind != "numbers" or not dataset.shape or dtype_of(dataset.dtype.name) is None:
            raise FormatError(f"{dataset.where} has no rows of numbers: it is damaged, or something else")
        key = tuple(path.split("/"))
        counts = lengths if dataset.rows == lengths[0] else lengths + more

        def part(number: int, path: str = path) -> Rows:
            return trees.DatasetRows(root.group(names[number]).dataset(path))

        found[key] = JoinedRows(dataset.dtype, dataset.shape[1:], counts.tolist(), part)
    return found
