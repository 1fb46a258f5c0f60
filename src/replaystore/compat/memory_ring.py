"""The rows of a buffer in memory: tensors of a fixed number of places, written round and round.

What was written since is told from what was changed behind the ring's back by the version that torch counts
for each tensor: so a save that brings only the new rows to a store knows when that is not enough. (A change
through `tensor.numpy()` is not counted by torch.)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from replaystore.compat.lazy import LazyTensor, Rows
from replaystore.schema.values import array_of

__all__ = ["TensorRing", "field_attribute", "is_plain", "is_plain_number", "rows_at"]


class TensorRing:
    """Fields of `capacity` rows each, as tensors of shape (capacity, width) on one device."""

    def __init__(self, tensors: Mapping[str, torch.Tensor], capacity: int) -> None:
        self.tensors = dict(tensors)
        self._made = {
            name: (torch.Size((capacity, *tensor.shape[1:])), tensor.dtype)
            for name, tensor in tensors.items()
        }
        self.capacity = capacity
        self.size = 0
        self.position = 0
        self.written = 0
        """Rows written by `append`, those no longer here included."""
        self.changes = 0
        """How often something else than `append` changed rows, as far as could be seen."""
        self._seen: list[tuple[torch.Tensor, int]] = []
        self._expected = (0, 0)
        self._writes = 0
        """Rows, or runs of rows, written by `advance` since: each is one more version of each tensor."""
        self._look()

    def tensor(self, name: str) -> torch.Tensor:
        """The tensor of a field."""
        return self.tensors[name]

    def set_tensor(self, name: str, value: Any) -> None:
        """Replace the tensor of a field."""
        self.tensors[name] = value
        self._plain = False

    def gather(self, names: Sequence[str], index: torch.Tensor) -> dict[str, torch.Tensor]:
        """Rows of several fields at places from 0 on, of any shape."""
        if index.dim() != 1:
            return {name: self.tensors[name][index] for name in names}
        return {name: rows_at(self.tensors[name], index) for name in names}

    def append(self, rows: Mapping[str, torch.Tensor]) -> None:
        """Write checked rows (count, width) of each field from `position` on; of more than `capacity` rows
        the last ones stay."""
        self.notice()
        count = len(next(iter(rows.values())))
        kept = min(count, self.capacity)
        places = self.places(self.position + count - kept, kept)
        for name, tensor in self.tensors.items():
            tensor[places] = rows[name][count - kept :].detach().to(tensor.device)
        self.position = (self.position + count) % self.capacity
        self.size = min(self.size + count, self.capacity)
        self.written += count
        self._look()

    @property
    def room_tensors(self) -> Mapping[str, torch.Tensor]:
        """The tensors that `room` gives places of."""
        return self.tensors

    def room(self, count: int) -> int:
        """The place from which on `count` rows can be set in `room_tensors` as they are; `advance` then makes
        them count.

        -1: there is no such place, and `append` writes the rows."""
        if (
            not self._plain
            or (self.position, self.size) != self._expected
            or torch.is_inference_mode_enabled()
        ):
            return -1
        return self.position if count <= self.capacity - self.position else -1

    def advance(self, count: int) -> None:
        """Let `count` rows count that were set at `room`."""
        self.position = (self.position + count) % self.capacity
        self.size = min(self.size + count, self.capacity)
        self.written += count
        self._writes += 1
        self._expected = (self.position, self.size)

    def places(self, start: int, count: int) -> Any:
        """Places from `start` on, round the end: a slice where they lie side by side."""
        start %= max(self.capacity, 1)
        if start + count <= self.capacity:
            return slice(start, start + count)
        return torch.arange(start, start + count) % self.capacity

    def read(self, name: str, places: Rows) -> NDArray[Any]:
        """Rows of a field, as an array."""
        return array_of(name, self.tensors[name].detach()[torch.from_numpy(places)])

    def used(self) -> int:
        """Rows from the first place on that are in use, or are not zeros though they are not."""
        if self.size == self.capacity:
            return self.size
        rest = [
            tensor[self.size :].ne(0).reshape(self.capacity - self.size, -1).any(dim=1).cpu()
            for tensor in self.tensors.values()
        ]
        found = torch.nonzero(torch.stack(rest).any(dim=0)).reshape(-1)
        return self.size + (int(found[-1]) + 1 if len(found) else 0)

    def set_rows(self, name: str, places: Rows, values: NDArray[Any]) -> None:
        """Change rows of a field."""
        with torch.no_grad():
            self.tensors[name][torch.from_numpy(places)] = torch.from_numpy(values).to(self.tensors[name])

    def close(self) -> None:
        """There is nothing to release."""

    def notice(self) -> None:
        """Count what others have changed since."""
        known = zip(self._seen, self.tensors.values(), strict=True)
        if (self.position, self.size) != self._expected or any(
            tensor is not now or version + (version >= 0) * self._writes != _version(now)
            for (tensor, version), now in known
        ):
            self.changes += 1
            self._look()

    def _look(self) -> None:
        self._seen = [(tensor, _version(tensor)) for tensor in self.tensors.values()]
        self._expected = (self.position, self.size)
        self._writes = 0
        self._plain = all(self._settable(name) for name in self.tensors)

    def _settable(self, name: str) -> bool:
        """Whether plain values of a row can be set in a tensor one after another, as none can fail; others
        may have been put there."""
        tensor, (shape, dtype) = self.tensors[name], self._made[name]
        return (
            is_plain(tensor) and (tensor.shape, tensor.dtype) == (shape, dtype) and not tensor.is_inference()
        )


REAL = frozenset({torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.bool, torch.uint8})
REAL |= {torch.int8, torch.int16, torch.int32, torch.int64}
LARGEST = float(np.finfo(np.float32).max)


def is_plain(value: torch.Tensor) -> bool:
    """Whether a tensor holds real numbers in the memory of the CPU, and no graph hangs on it."""
    return (
        type(value) is torch.Tensor
        and value.dtype in REAL
        and value.is_cpu
        and value.layout is torch.strided
        and not value.requires_grad
    )


def is_plain_number(value: Any) -> bool:
    """Whether it is a Python number that float32 can hold."""
    return isinstance(value, float | int) and -LARGEST <= value <= LARGEST


def rows_at(tensor: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """`tensor[index]` for one dimension of places from 0 on; faster where both lie together."""
    if type(tensor) is torch.Tensor and index.device == tensor.device and index.dtype == torch.int64:
        return tensor.index_select(0, index)
    return tensor[index]


def _version(tensor: Any) -> int:
    """How often torch has seen it changed; -1 if it does not count."""
    try:
        return int(tensor._version)
    except (AttributeError, RuntimeError):  # no tensor, or one made in inference mode
        return -1


def field_attribute(name: str) -> Any:
    """An attribute of a buffer that is a field of its ring (`_ring`): a tensor, or a `LazyTensor` if the ring
    lies in a store."""

    def get(self: Any) -> Any:
        found = self._ring.tensor(name)
        return found.kept_by(self) if isinstance(found, LazyTensor) else found

    def put(self: Any, value: Any) -> None:
        self._ring.set_tensor(name, value)

    return property(get, put)
