"""Values of any length, one behind another: what a field of shape `(None, …)` holds, in memory.

Invariants:
1. Value i is `values[offsets[i] : offsets[i + 1]]`, and `offsets` never decrease; they may begin above 0, so
   that a slice is a view.
2. A `Ragged` never changes what it names; that may be the memory of others, as a view of NumPy is.
3. Of texts `values` are UTF-8, which is looked at where they come in (given_ragged.py), and whenever one is
   decoded.
4. `values` and `offsets` are arrays of NumPy or, after `to`, tensors.

More than 25 methods because it is taken for a list, for an array and for a batch of tensors.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from replaystore.errors import ArgumentError, CorruptError
from replaystore.schema.ragged_forms import (
    arrow_of,
    cast,
    check_parts,
    jagged_of,
    joined_parts,
    lead_of,
    offsets_of,
    on_host,
    padded,
    taken,
    tensor_of,
)
from replaystore.schema.values import is_tensor, of_any_length

if TYPE_CHECKING:
    from numpy.typing import DTypeLike

__all__ = ["MOST_BYTES", "Ragged"]

MOST_BYTES = 1 << 30
"""Of one value in a store."""


class Ragged:
    """Arrays of different lengths, `(length, *inner)` each, in one array: `ragged[i]` is the i-th.

    Args:
        values: all of them, one behind another, `(total, *inner)`.
        offsets: `(count + 1,)`: value i begins at `offsets[i]` and ends before `offsets[i + 1]`.
        lead: how the values are arranged, `(count,)` if it is not said; `(batch, steps)` of fragments.
        text: whether each value is a text in UTF-8, which `ragged[i]` then gives as a `str`.

    `ragged[i]` is a value (of two leading dimensions a Ragged of one less); `ragged[a:b]`, a view, and
    `ragged[rows]` and `ragged[mask]`, copies, are Ragged. `to_padded()` makes one array and a mask of it,
    `tolist()` lists, `to_torch_jagged()` and `to_arrow()` what these libraries have for it. Two are equal if
    their dtypes, lengths and bits are.
    """

    __hash__ = None  # type: ignore[assignment]  # as arrays
    __array_ufunc__ = None  # what compares an array with it asks this class

    values: Any
    offsets: Any
    lead: tuple[int, ...]
    text: bool

    def __init__(
        self, values: Any, offsets: Any, lead: tuple[int, ...] | None = None, *, text: bool = False
    ) -> None:
        known = on_host(offsets)
        if known.dtype.kind in "iu":
            known = known.astype(np.int64, copy=False)
        values = values if is_tensor(values) else np.asarray(values)
        check_parts(values, known, text)
        if is_tensor(values):
            known = tensor_of(known).to(values.device)
        self.values, self.offsets, self.text = values, known, text
        self.lead = lead_of(lead, len(known) - 1)

    @classmethod
    def _made(cls, values: Any, offsets: Any, lead: tuple[int, ...], text: bool) -> Ragged:
        """As the constructor, of parts that are known to agree."""
        made = object.__new__(cls)
        made.values, made.offsets, made.lead, made.text = values, offsets, lead, text
        return made

    # --- made of others

    @classmethod
    def of(
        cls,
        values: Iterable[Any],
        dtype: DTypeLike | None = None,
        inner: tuple[int, ...] | None = None,
        *,
        text: bool = False,
    ) -> Ragged:
        """Of a list of arrays, or of texts (`text=True`).

        `dtype` and `inner` are those of the first value that is not empty if they are not said. SchemaError:
        a value has others, and would have to be changed."""
        if isinstance(values, str | bytes | Mapping) or not isinstance(values, Iterable):
            raise ArgumentError(f"values are a list, not a {type(values).__name__}: of a single one [value]")
        values = list(values)
        known: np.dtype[Any] = np.dtype(np.uint8)
        if text:
            inner = ()
        elif values:
            # An empty list has no dtype of its own.
            first = on_host(next((value for value in values if not _is_empty(value)), values[0]))
            known = first.dtype if dtype is None else np.dtype(dtype)
            inner = first.shape[1:] if inner is None else tuple(inner)
        elif dtype is not None and inner is not None:
            known = np.dtype(dtype)
        else:
            raise ArgumentError("of no values it is not known what they are: give dtype and inner, or text")
        arrays = [
            of_any_length(f"value {place}", value, known, inner, text) for place, value in enumerate(values)
        ]
        whole = np.concatenate(arrays) if arrays else np.empty((0, *inner), known)
        return cls._made(whole, offsets_of([len(array) for array in arrays]), (len(arrays),), text)

    @classmethod
    def empty(
        cls,
        lead: int | tuple[int, ...],
        dtype: DTypeLike = np.uint8,
        inner: tuple[int, ...] = (),
        *,
        text: bool = False,
    ) -> Ragged:
        """So many values of length 0."""
        lead = (lead,) if isinstance(lead, int) else lead
        offsets = np.zeros(math.prod(lead) + 1, dtype=np.int64)
        return cls(np.empty((0, *inner), dtype), offsets, lead, text=text)

    @classmethod
    def concatenate(cls, parts: Iterable[Ragged]) -> Ragged:
        """One behind another, along the first dimension."""
        parts = list(parts)
        if not parts or not all(isinstance(part, Ragged) for part in parts):
            raise ArgumentError("concatenate takes a list of Ragged, at least one")
        first = parts[0]
        if len(parts) == 1:
            return first
        kind = (first.dtype, first.inner, first.text, first.lead[1:])
        for part in parts:
            if (part.dtype, part.inner, part.text, part.lead[1:]) != kind:
                raise ArgumentError(f"{first!r} and {part!r} do not fit: dtype, text and shape must agree")
        offsets = offsets_of(np.concatenate([on_host(part.lengths).reshape(-1) for part in parts]))
        values, after = joined_parts([part.named for part in parts], offsets)
        return cls._made(values, after, (sum(map(len, parts)), *first.lead[1:]), first.text)

    # --- what it is

    @property
    def dtype(self) -> Any:
        """That of the values."""
        return self.values.dtype

    @property
    def inner(self) -> tuple[int, ...]:
        """The shape of what a value is a row of."""
        return tuple(self.values.shape[1:])

    @property
    def shape(self) -> tuple[int | None, ...]:
        """(*lead, None, *inner)."""
        return (*self.lead, None, *self.inner)

    @property
    def lengths(self) -> Any:
        """How long each value is, (*lead)."""
        return (self.offsets[1:] - self.offsets[:-1]).reshape(self.lead)

    @property
    def named(self) -> Any:
        """The values that the offsets name, one behind another, and no others."""
        begin, end = int(self.offsets[0]), int(self.offsets[-1])
        return self.values if (begin, end) == (0, len(self.values)) else self.values[begin:end]

    @property
    def nbytes(self) -> int:
        """Bytes of these values and of the offsets."""
        return int(self.named.nbytes + self.offsets.nbytes)

    def __repr__(self) -> str:
        lengths = self.lengths
        some = (
            f"lengths {int(lengths.min())} to {int(lengths.max())}" if math.prod(self.lead) else "no values"
        )
        return f"Ragged({'text' if self.text else self.dtype}, shape {self.shape}, {some})"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Ragged):
            return NotImplemented
        mine, others = self.to_numpy(), other.to_numpy()
        return (
            (mine.dtype, mine.shape, mine.text) == (others.dtype, others.shape, others.text)
            and np.array_equal(mine.lengths, others.lengths)
            and np.array_equal(_bits(mine.named), _bits(others.named))
        )

    def __array__(self, *_: Any, **__: Any) -> Any:
        raise TypeError(
            "values of different lengths are no array: use .to_padded(), which gives one and a mask, or "
            ".values and .offsets"
        )

    def __reduce__(self) -> tuple[Any, ...]:
        parts = self.compact()
        return _again, (parts.values, parts.offsets, self.lead, self.text)

    # --- some of it

    def __len__(self) -> int:
        return self.lead[0]

    def __iter__(self) -> Iterator[Any]:
        for place in range(len(self)):
            yield self[place]

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, int | np.integer) and not isinstance(key, bool):
            place = int(key) + (len(self) if key < 0 else 0)
            if not 0 <= place < len(self):
                raise IndexError(f"there is no value {key} among {len(self)}")
            return (
                self._value(place) if len(self.lead) == 1 else self._between(place, place + 1, self.lead[1:])
            )
        if isinstance(key, slice):
            begin, end, step = key.indices(len(self))
            if step == 1:
                end = max(begin, end)
                return self._between(begin, end, (end - begin, *self.lead[1:]))
        places = self._places[on_host(key) if is_tensor(key) else key]
        return self._value(int(places)) if places.ndim == 0 else self._taken(places)

    def take(self, rows: Any) -> Ragged:
        """The values of these rows of the first dimension, copied."""
        chosen = on_host(rows)
        return self._taken(self._places[chosen if chosen.size else chosen.astype(np.int64)])

    def reshape(self, *lead: Any) -> Ragged:
        """The same values, arranged otherwise; -1 once, for what is left."""
        lead = tuple(lead[0]) if len(lead) == 1 and isinstance(lead[0], Iterable) else lead
        try:
            arranged = np.broadcast_to(np.int8(0), (math.prod(self.lead),)).reshape(lead).shape
        except (TypeError, ValueError) as error:
            raise ArgumentError(f"values of {self.lead} cannot be arranged as {lead}: {error}") from None
        return self._made(self.values, self.offsets, arranged or (1,), self.text)

    def compact(self) -> Ragged:
        """The same, of offsets that begin at 0 and of no more values than they name."""
        named, begin = self.named, int(self.offsets[0])
        if is_tensor(named) and named is not self.values:
            named = named.clone()  # a view of a tensor is pickled with all that it is a view of
        return self._made(named, self.offsets - begin if begin else self.offsets, self.lead, self.text)

    @property
    def _places(self) -> NDArray[np.int64]:
        """The number of each value, as they are arranged: what NumPy finds at an index of these is there."""
        return np.arange(math.prod(self.lead)).reshape(self.lead)

    def _value(self, place: int) -> Any:
        value = self.values[int(self.offsets[place]) : int(self.offsets[place + 1])]
        if not self.text:
            return value
        try:
            return str(on_host(value).tobytes(), "utf-8")
        except UnicodeDecodeError as error:
            raise CorruptError(
                f"text {place}, of {len(value)} bytes, is not UTF-8 ({error.reason} at byte {error.start}): "
                "`replaystore verify` says whether the store that it came from is damaged, and .values has "
                "the bytes"
            ) from None

    def _between(self, begin: int, end: int, lead: tuple[int, ...]) -> Ragged:
        """What lies side by side in the first dimension; a view."""
        each = math.prod(self.lead[1:])
        return self._made(self.values, self.offsets[begin * each : end * each + 1], lead, self.text)

    def _taken(self, places: NDArray[np.int64]) -> Ragged:
        values, offsets = taken(self.values, self.offsets, places.reshape(-1))
        return self._made(values, offsets, places.shape, self.text)

    # --- in other forms

    def map(self, function: Callable[[Any], Any]) -> Ragged:
        """Of what a function makes of `values`, and of `offsets`."""
        return self._made(function(self.values), function(self.offsets), self.lead, self.text)

    def astype(self, dtype: Any, copy: bool = True) -> Ragged:
        """The values in another dtype, as NumPy or PyTorch casts."""
        if self.text:
            raise ArgumentError("texts have no other dtype: .values has their bytes")
        return self._made(cast(self.values, dtype, copy), self.offsets, self.lead, False)

    def to_numpy(self) -> Ragged:
        """Of arrays of NumPy; itself where it is."""
        return self if type(self.values) is np.ndarray else self.map(on_host)

    def to(self, device: Any, *, non_blocking: bool = False) -> Ragged:
        """Of tensors on a device of PyTorch."""
        return self.map(lambda part: tensor_of(part).to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Ragged:
        """Of tensors in memory from which they are copied to a device while the program goes on."""
        return self.map(lambda part: tensor_of(part).pin_memory())

    def tolist(self) -> list[Any]:
        """Lists of Python's own numbers, or of texts, nested as the values are arranged."""
        return [item if isinstance(item, str) else item.tolist() for item in self]

    def to_padded(self, fill: Any = 0, side: Literal["end", "start"] = "end") -> tuple[Any, Any]:
        """One array (*lead, longest, *inner), and where in it there are values, (*lead, longest); the rest,
        at the end or at the start of each value, is `fill`. Tensors of tensors."""
        return padded(self.named, self.lengths, fill, side)

    def to_torch_jagged(self) -> Any:
        """PyTorch's nested tensor of the layout `torch.jagged`, of one leading dimension."""
        parts = self.compact()
        return jagged_of(parts.values, parts.offsets)

    def to_arrow(self) -> Any:
        """A LargeListArray of pyarrow (of FixedSizeLists, where there are inner dimensions), of texts a
        LargeStringArray; of several leading dimensions FixedSizeLists of these."""
        parts = self.to_numpy().compact()
        return arrow_of(parts.values, parts.offsets, self.lead, self.text)


def _again(values: Any, offsets: Any, lead: tuple[int, ...], text: bool) -> Ragged:
    """For pickles."""
    return Ragged(values, offsets, lead, text=text)


def _is_empty(value: Any) -> bool:
    return getattr(value, "ndim", 1) > 0 and hasattr(value, "__len__") and not len(value)


def _bits(part: NDArray[Any]) -> NDArray[np.uint8]:
    return np.ascontiguousarray(part).reshape(-1).view(np.uint8)
