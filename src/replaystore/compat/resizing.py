"""Buffers that are loaded with another capacity: the rows in use, oldest first, from place 0 on; of more than
fit, the newest.

That is what a ring of that capacity would hold if the same rows had been added to it, but for the place that
it began at. Trajectories that have not all their rows any more are not listed; rows of theirs that are left
are still there. What was loaded is not changed.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence

import numpy as np
import torch

from replaystore.compat.checks import zeros
from replaystore.compat.memory_ring import TensorRing
from replaystore.compat.ring_slots import Move
from replaystore.compat.stored import StoredRing
from replaystore.errors import ReplayStoreWarning, UnsupportedError
from replaystore.formats.active_rlhf.pickling import Info

__all__ = ["resized"]


def resized(
    ring: TensorRing | StoredRing,
    capacity: int | None,
    path: str | os.PathLike[str],
    infos: Sequence[Info] = (),
    *,
    stacklevel: int = 3,
) -> tuple[TensorRing | StoredRing, Sequence[Info]]:
    """A ring that was just loaded from `path`, and its trajectories, with another capacity; None: as they
    are.

    It warns of what is left out. UnsupportedError: the ring writes to its store. SchemaError: no room in
    memory."""
    if capacity is None or capacity == ring.capacity:
        return ring, infos
    move = Move(ring.capacity, ring.size, ring.position, capacity)
    if isinstance(ring, StoredRing):
        if ring.writable:
            raise UnsupportedError(
                f"{path} has capacity={ring.capacity}, which a store that is written to keeps: load it with "
                f"capacity={capacity} and "
                f"mode='r', save that to another name, and load the new store with mode='r+'"
            )
        ring.resize(capacity)
    else:
        ring = _in_memory(ring, move)
    kept = [moved for moved in (_moved(info, move) for info in infos) if moved is not None]
    told = []
    if move.dropped:
        told.append(f"the oldest {move.dropped} of {move.size} rows are not loaded")
    if len(kept) < len(infos):
        told.append(
            f"{len(infos) - len(kept)} of {len(infos)} trajectories, of which rows are missing, are "
            "not listed"
        )
    if told:
        message = (
            f"{path} with capacity={capacity} instead of {move.before}: {', and '.join(told)}; in "
            f"{path} they stay"
        )
        warnings.warn(message, ReplayStoreWarning, stacklevel=stacklevel)
    return ring, kept


def _in_memory(ring: TensorRing, move: Move) -> TensorRing:
    """The rows in new tensors, one field after another; those of `ring` are given up."""
    places = torch.from_numpy((move.begin + move.dropped + np.arange(move.kept)) % move.before)
    tensors = {}
    for name in list(ring.tensors):
        old = ring.tensors.pop(name)
        new = zeros(move.capacity, {name: int(old.shape[1])}, old.device, old.dtype)[name]
        new[: move.kept] = old[places.to(old.device)]
        tensors[name] = new
    found = TensorRing(tensors, move.capacity)
    found.size, found.position = move.kept, move.position
    return found


def _moved(info: Info, move: Move) -> Info | None:
    """Where a trajectory lies then; None if it has not all its rows."""
    start, length, split, score, updated = info
    row = (start - move.begin) % move.before if 0 <= start < move.before else -1
    if row < move.dropped or row + length > move.size:
        return None
    return (row - move.dropped) % move.capacity, length, split, score, updated
