"""What a lazy buffer has in the place of a tensor: the rows of a ring that lies in a store, read when they
are asked for.

1. `len`, `shape`, `dtype` and `device` read nothing.
2. Indexing reads just the rows that the first index names, and gives a torch tensor of its own on the
   buffer's device: writing to it changes nothing that is stored.
3. All else that a tensor can do (methods, operators, functions of torch, `numpy`, `torch.as_tensor`,
   iteration in blocks) works on what `materialize` gives: all rows of the field in memory, once, for that one
   operation. So do `copy`, `pickle` and `torch.save`. Sampling never does that.
4. Rows are set with `tensor[rows] = values` if the store is open for writing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from replaystore.errors import UnsupportedError

__all__ = ["LazyTensor", "Ring", "Rows"]

Rows = NDArray[np.int64]
BLOCK_BYTES = 4 << 20
"""Iteration reads about so much at once."""


class Ring(Protocol):
    """Rows of several fields in `capacity` places; `position` is the place that is written next."""

    capacity: int

    @property
    def size(self) -> int:
        """How many rows have been written, at most `capacity`."""

    @property
    def position(self) -> int:
        """The place of the next row."""

    def read(self, name: str, places: Rows) -> NDArray[Any]:
        """The rows of a field at these places, (len(places), *row shape); zeros where none was written."""

    def set_rows(self, name: str, places: Rows, values: NDArray[Any]) -> None:
        """Change rows."""


class LazyTensor:
    """A field of a ring in a store, as a tensor of shape (capacity, *row shape). Made by the buffers'
    `load`."""

    def __init__(
        self,
        ring: Ring,
        name: str,
        dtype: torch.dtype,
        row_shape: Sequence[int],
        device: torch.device,
        *,
        keeps: object = None,
    ) -> None:
        self._ring = ring
        self._name = name
        self.dtype = dtype
        self.device = device
        self.shape = torch.Size((ring.capacity, *row_shape))
        self._keeps = keeps

    def kept_by(self, buffer: object) -> LazyTensor:
        """The same field, which keeps a buffer from being collected, and so its store open, for as long as it
        is referred to itself."""
        return LazyTensor(self._ring, self._name, self.dtype, self.shape[1:], self.device, keeps=buffer)

    # --- what is known without reading

    def __len__(self) -> int:
        return self.shape[0]

    def size(self, dim: int | None = None) -> torch.Size | int:
        """As of a tensor."""
        return self.shape if dim is None else self.shape[dim]

    def dim(self) -> int:
        """As of a tensor."""
        return len(self.shape)

    @property
    def ndim(self) -> int:
        """As of a tensor."""
        return len(self.shape)

    is_cuda = property(lambda self: self.device.type == "cuda")
    requires_grad = False

    def numel(self) -> int:
        """As of a tensor."""
        return self.shape.numel()

    def __repr__(self) -> str:
        return f"<LazyTensor {self._name!r} {tuple(self.shape)} {self.dtype} on {self.device}>"

    # --- rows

    def __getitem__(self, key: Any) -> torch.Tensor:
        """Rows, by an integer, slice, list, tensor or array of integers of any shape, or mask; further
        indices apply to what was read."""
        first, rest = _split(key)
        if first is None:
            return self.materialize()[key]
        places, shape = self._places(first)
        rows = self.of(self._ring.read(self._name, places), shape)
        return rows[(slice(None),) * len(shape) + rest] if rest else rows

    def __setitem__(self, key: Any, value: Any) -> None:
        """Set rows, as of a tensor; UnsupportedError or ConflictError if the store cannot be written to."""
        first, rest = _split(key)
        if first is None:
            first, rest = slice(None), () if key is ... else key
        places, shape = self._places(first)
        before = (
            self._ring.read(self._name, places)
            if rest
            else np.zeros((len(places), *self.shape[1:]), _numpy_dtype(self.dtype))
        )
        rows = torch.from_numpy(before).reshape(*shape, *self.shape[1:])
        with torch.no_grad():
            rows[(slice(None),) * len(shape) + rest if rest else ...] = value
        self._ring.set_rows(self._name, places, rows.reshape(len(places), *self.shape[1:]).numpy())

    def _places(self, key: Any) -> tuple[Rows, tuple[int, ...]]:
        """The places that an index of the first dimension names, flat, and the shape of that index."""
        count = len(self)
        if isinstance(key, slice):
            places = np.arange(*key.indices(count), dtype=np.int64)
            return places, (len(places),)
        if isinstance(key, torch.Tensor):
            key = key.detach().cpu().numpy()
        found = np.asarray(key)
        if found.dtype == np.bool_ and found.shape == (count,):
            found = np.flatnonzero(found)
        if found.size == 0 and found.dtype.kind == "f":
            found = found.astype(np.int64)
        if found.dtype.kind not in "iu":
            raise IndexError(
                f"{self._name} of {count} rows is indexed by integers, slices or a mask of {count}, not "
                f"{found.dtype}{list(found.shape)}"
            )
        flat = found.astype(np.int64).reshape(-1)
        if flat.size and not -count <= int(flat.min()) <= int(flat.max()) < count:
            wrong = int(flat[(flat < -count) | (flat >= count)][0])
            raise IndexError(f"index {wrong} is out of bounds for {self._name} with {count} rows")
        return np.where(flat < 0, flat + count, flat), found.shape

    def of(self, rows: NDArray[Any], shape: Sequence[int]) -> torch.Tensor:
        """Rows that were read, as a tensor of this field, (*shape, *row shape)."""
        if not rows.flags.writeable or not rows.flags.c_contiguous:
            rows = rows.copy()
        tensor = torch.from_numpy(rows)
        if self.device.type != "cpu":
            tensor = tensor.to(self.device)
        return (
            tensor
            if len(shape) == 1 and tensor.dim() == len(self.shape)
            else tensor.reshape(*shape, *self.shape[1:])
        )

    def __iter__(self) -> Iterator[torch.Tensor]:
        step = max(1, BLOCK_BYTES // max(1, self.shape[1:].numel() * self.dtype.itemsize))
        for start in range(0, len(self), step):
            yield from self[start : start + step]

    # --- all rows

    def materialize(self) -> torch.Tensor:
        """All rows in memory, as a tensor of its own."""
        return self[:]

    def cpu(self) -> torch.Tensor:
        """All rows, on the CPU."""
        return self.materialize().cpu()

    def numpy(self) -> NDArray[Any]:
        """All rows, as an array."""
        return np.asarray(self.materialize().cpu().numpy())

    def to(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """All rows, converted or moved as by `torch.Tensor.to`."""
        return self.materialize().to(*args, **kwargs)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        if copy is False:
            raise ValueError("the rows of a store cannot be had as an array without a copy")
        return self.numpy() if dtype is None else self.numpy().astype(dtype)

    def __deepcopy__(self, memo: Any) -> torch.Tensor:
        return self.materialize()

    __copy__ = materialize

    def __reduce_ex__(self, protocol: Any) -> Any:
        tensor: Any = self.materialize()  # what is unpickled is a tensor with all rows
        return tensor.__reduce_ex__(protocol)

    def __dlpack__(self, **kwargs: Any) -> Any:
        return self.materialize().__dlpack__(**kwargs)

    def __dlpack_device__(self) -> Any:
        return torch.empty(0, device=self.device).__dlpack_device__()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or not hasattr(torch.Tensor, name):
            raise AttributeError(f"{type(self).__name__} has no attribute {name!r}", name=name, obj=self)
        if name.endswith("_"):
            raise UnsupportedError(
                f"{self._name} lies in a store and is not changed as a whole: set rows "
                "with tensor[rows] = values"
            )
        return getattr(self.materialize(), name)

    @classmethod
    def __torch_function__(
        cls,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        return func(*_materialized(args), **_materialized(kwargs or {}))


def _operator(name: str) -> Callable[..., Any]:
    method = getattr(torch.Tensor, name)

    def operate(self: LazyTensor, *args: Any) -> Any:
        return method(self.materialize(), *_materialized(args))

    operate.__name__ = name
    operate.__doc__ = "As of a tensor, with all rows in memory."
    return operate


for _name in (
    *(
        [
            "add",
            "radd",
            "sub",
            "rsub",
            "mul",
            "rmul",
            "truediv",
            "rtruediv",
            "floordiv",
            "rfloordiv",
            "mod",
            "rmod",
            "pow",
            "rpow",
            "matmul",
            "rmatmul",
        ]
    ),
    *(
        [
            "and",
            "rand",
            "or",
            "ror",
            "xor",
            "rxor",
            "eq",
            "ne",
            "lt",
            "le",
            "gt",
            "ge",
            "neg",
            "pos",
            "abs",
            "invert",
            "bool",
            "float",
            "int",
            "contains",
        ]
    ),
):
    setattr(LazyTensor, f"__{_name}__", _operator(f"__{_name}__"))
LazyTensor.__hash__ = object.__hash__  # type: ignore[method-assign]  # __eq__ compares rows, and would take it away


def _materialized(value: Any) -> Any:
    if isinstance(value, LazyTensor):
        return value.materialize()
    if isinstance(value, Mapping):
        return {key: _materialized(item) for key, item in value.items()}
    return type(value)(_materialized(item) for item in value) if type(value) in (list, tuple) else value


def _split(key: Any) -> tuple[Any, tuple[Any, ...]]:
    """An index as that of the first dimension and those of the others; (None, ()) if it does not begin with
    the first dimension."""
    if isinstance(key, tuple):
        if not key or key[0] is None or key[0] is ...:
            return None, ()
        return key[0], key[1:]
    return (None, ()) if key is None or key is ... or isinstance(key, bool) else (key, ())


def _numpy_dtype(dtype: torch.dtype) -> np.dtype[Any]:
    return np.dtype(torch.empty(0, dtype=dtype).numpy().dtype)
