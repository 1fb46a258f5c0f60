"""What a pickled buffer of active_rlhf says, found out without running anything in it.

This is no unpickler: it knows the few instructions that such a file consists of, and the four names that it
speaks of, and makes of them numbers, text and the places of tensors. Nothing is imported, called or looked up
by a name from the file; Python's `pickle` and `torch` are not involved.

1. An instruction, a name, a shape of data that such a file never has is a FormatError that says at which
   byte.
2. The bytes of a tensor are not read: a tensor is the place in the file where they lie one behind the other.
3. Memory is bounded whatever the file says: what is on the stack, how deep it is nested, how long text is,
   how much is remembered. Only trajectories grow with the file: they are kept as columns, 36 bytes each, at
   most MAX_TRAJECTORIES.
"""

from __future__ import annotations

import re
import struct
from array import array
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from replaystore.errors import FormatError
from replaystore.formats.shared.pickles.instructions import PLAIN, Machine, Name, Payload, Stream

__all__ = ["MAX_TRAJECTORIES", "Infos", "Tensor", "scan"]

MAX_TRAJECTORIES = 1 << 20
INNER_HEADER = 4096
"""A torch stream of one storage begins with about 320 bytes that are not its numbers."""
_MAGIC = 0x1950A86A20F9469CFC6C
_DEVICE = re.compile("[a-z]{1,16}(:[0-9]{1,4})?")
_INT64 = range(-(1 << 63), 1 << 63)


@dataclass(frozen=True)
class Tensor:
    """Where the numbers of a tensor lie in the file: C order, little-endian."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    offset: int


@dataclass
class Infos:
    """The list of trajectories, as columns."""

    start: array[int] = field(default_factory=lambda: array("q"))
    length: array[int] = field(default_factory=lambda: array("q"))
    split: array[int] = field(default_factory=lambda: array("i"))
    """Places in `splits`."""
    score: array[float] = field(default_factory=lambda: array("d"))
    updated: array[int] = field(default_factory=lambda: array("q"))
    splits: list[str] = field(default_factory=list)
    _codes: dict[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.start)

    def append(self, start: int, length: int, split: str, score: float, updated: int) -> None:
        if split not in self._codes:
            self._codes[split] = len(self.splits)
            self.splits.append(split)
        self.start.append(start)
        self.length.append(length)
        self.split.append(self._codes[split])
        self.score.append(score)
        self.updated.append(updated)


def scan(descriptor: int, size: int, where: str) -> dict[str, Any]:
    """The dict that the file of `size` bytes holds: ints, tuples of ints, `Tensor`s, and `Infos` for the list
    of trajectories.

    FormatError: it is not the pickle of a buffer of active_rlhf, or damaged.
    """
    found = _Outer(Stream(descriptor, 0, size, where)).run()
    if type(found) is not dict:
        raise FormatError(
            f"{where} holds a {type(found).__name__}, not a buffer of active_rlhf: check which file it is"
        )
    return found


# --- values that are no plain data


@dataclass(frozen=True)
class _Storage:
    dtype: np.dtype[Any]
    offset: int
    count: int


class _Hooks:
    """The empty OrderedDict that every tensor has."""


class _Info:
    """A trajectory; without state until that is known."""

    __slots__ = ("state",)

    def __init__(self) -> None:
        self.state: tuple[int, int, str, float, int] | None = None


_HOOKS = _Hooks()
_REBUILD = Name("torch._utils", "_rebuild_tensor_v2")
_LOAD = Name("torch.storage", "_load_from_bytes")
_ORDERED = Name("collections", "OrderedDict")
_INFO = Name("active_rlhf.data.buffers", "TrajectoryInfo")
_STORAGES: dict[Any, np.dtype[Any]] = {
    Name("torch", "FloatStorage"): np.dtype("<f4"),
    Name("torch", "DoubleStorage"): np.dtype("<f8"),
    Name("torch", "HalfStorage"): np.dtype("<f2"),
    Name("torch", "BoolStorage"): np.dtype(np.bool_),
}
_INFO_KEYS = {
    "start_pos": int,
    "length": int,
    "split": str,
    "on_policiness_score": float,
    "last_updated_step": int,
}


# --- the machines


class _Outer(Machine):
    """The pickle of the buffer."""

    protocols = range(3, 6)
    names = frozenset((_REBUILD, _LOAD, _ORDERED, _INFO))
    flat = (*PLAIN, _Storage, Tensor, _Hooks)

    def __init__(self, stream: Stream) -> None:
        super().__init__(stream)
        self.table |= {
            0x95: self.frame,
            0x94: lambda: self.remember(len(self.memo)),  # MEMOIZE
            0x47: lambda: self.push(struct.unpack(">d", stream.take(8))[0]),  # BINFLOAT
            0x43: lambda: self.payload(stream.number(1)),  # SHORT_BINBYTES
            0x42: lambda: self.payload(stream.number(4)),  # BINBYTES
            0x8E: lambda: self.payload(stream.number(8)),  # BINBYTES8
            0x93: lambda: self.named(*self.popped(2)),  # STACK_GLOBAL
            0x5D: lambda: self.push(Infos()),  # EMPTY_LIST
            0x61: lambda: self.append(self.popped(1)),  # APPEND
            0x65: lambda: self.append(self.marked()),  # APPENDS
            0x52: lambda: self.reduce(*self.popped(2)),  # REDUCE
            0x81: lambda: self.new(*self.popped(2)),  # NEWOBJ
            0x62: self.build,
        }

    def run(self) -> Any:
        result = super().run()
        if self.stream.at != self.stream.stop:
            raise self.stream.error(f"{self.stream.stop - self.stream.at} bytes follow its end")
        return result

    def may_hold(self, value: Any) -> bool:
        return type(value) is Infos or super().may_hold(value)

    def payload(self, size: int) -> None:
        start = self.stream.at
        self.stream.skip(size)
        self.push(Payload(start, start + size))

    def append(self, items: list[Any]) -> None:
        (target,) = self.popped(1)
        if type(target) is not Infos or len(target) + len(items) > MAX_TRAJECTORIES:
            raise self.stream.error(
                f"items are added to what is no list of at most {MAX_TRAJECTORIES} trajectories"
            )
        for item in items:
            if type(item) is not _Info or item.state is None:
                raise self.stream.error(
                    f"its list of trajectories has a {type(item).__name__.strip('_').lower()}"
                )
            target.append(*item.state)
        self.stack.append(target)

    def new(self, name: Any, args: Any) -> None:
        if name != _INFO or args != ():
            raise self.stream.error("it makes an object that is no trajectory")
        self.push(_Info())

    def build(self) -> None:
        target, state = self.popped(2)
        if type(target) is not _Info or target.state is not None or type(state) is not dict:
            raise self.stream.error("it sets the state of what is no new trajectory")
        if state.keys() != _INFO_KEYS.keys() or any(
            type(state[key]) is not kind for key, kind in _INFO_KEYS.items()
        ):
            raise self.stream.error(
                "a trajectory has other values than start_pos, length, split, on_policiness_score and "
                "last_updated_step"
            )
        if any(state[key] not in _INT64 for key, kind in _INFO_KEYS.items() if kind is int):
            raise self.stream.error("a number of a trajectory is beyond 64 bits")
        target.state = tuple(state[key] for key in _INFO_KEYS)
        self.stack.append(target)

    def reduce(self, name: Any, args: Any) -> None:
        if name == _ORDERED and args == ():
            self.push(_HOOKS)
        elif name == _LOAD and type(args) is tuple and len(args) == 1 and type(args[0]) is Payload:
            self.push(_storage(self.stream, args[0]))
        elif name == _REBUILD and type(args) is tuple and len(args) == 6:
            self.push(self.tensor(*args))
        else:
            raise self.stream.error("it calls something that such a file does not")

    def tensor(self, storage: Any, offset: Any, shape: Any, stride: Any, gradient: Any, hooks: Any) -> Tensor:
        """A tensor whose numbers lie one behind the other in its storage: with other strides a small file
        could stand for any size."""
        if (
            type(storage) is not _Storage
            or type(offset) is not int
            or type(gradient) is not bool
            or hooks is not _HOOKS
        ):
            raise self.stream.error("a tensor is not made as such a file does it")
        if not all(
            type(sizes) is tuple and all(type(n) is int and n >= 0 for n in sizes)
            for sizes in (shape, stride)
        ):
            raise self.stream.error("a tensor has sizes or strides that are no numbers, or negative")
        count, wanted = 1, []
        for length in reversed(shape):
            wanted.append(count)
            count *= length
        if len(shape) != len(stride) or (
            count and any(n != 1 and s != w for n, s, w in zip(shape, stride, wanted[::-1], strict=True))
        ):
            raise self.stream.error(
                f"a tensor of shape {shape} has the strides {stride}, and does not lie in one piece"
            )
        if offset < 0 or offset + count > storage.count:
            raise self.stream.error(
                f"a tensor of {count} numbers reaches beyond its storage of {storage.count}"
            )
        return Tensor(storage.dtype, shape, storage.offset + offset * storage.dtype.itemsize)


class _Inner(Machine):
    """The small pickles at the beginning of a torch stream of one storage."""

    protocols = range(2, 3)
    names = frozenset(_STORAGES)

    def __init__(self, stream: Stream) -> None:
        super().__init__(stream)
        self.table |= {
            0x51: lambda: self.persistent(*self.popped(1)),  # BINPERSID
            0x5D: lambda: self.push([]),  # EMPTY_LIST
            0x61: lambda: self.append(*self.popped(2)),  # APPEND
        }

    def may_hold(self, value: Any) -> bool:
        return type(value) is dict or super().may_hold(value)

    def append(self, target: Any, item: Any) -> None:
        if type(target) is not list or target or type(item) is not str:
            raise self.stream.error("a list in a torch stream is not that of its one storage")
        self.push([item])

    def persistent(self, value: Any) -> None:
        """A storage is written as `("storage", type, key, device, count, view)`, and as nothing else."""
        if (
            type(value) is not tuple
            or len(value) != 6
            or value[0] != "storage"
            or value[1] not in _STORAGES
            or value[5] is not None
        ):
            raise self.stream.error("a torch stream refers to what is no storage")
        _, kind, key, device, count, _ = value
        # Wherever it was, its numbers are in the file.
        if type(device) is not str or not _DEVICE.fullmatch(device):
            raise self.stream.error(f"a tensor lies on a device {device!r:.40}, which there is not")
        if type(key) is not str or type(count) is not int or count < 0:
            raise self.stream.error("a storage has no name, or no size")
        self.push((kind, key, count))


def _storage(outer: Stream, payload: Payload) -> _Storage:
    """The storage that a torch stream of the old kind holds: five small pickles, the number of elements, the
    elements."""
    stream = Stream(
        outer.descriptor, payload.start, min(payload.stop, payload.start + INNER_HEADER), outer.where
    )
    magic, version, system, stored, keys = (_Inner(stream).run() for _ in range(5))
    if (
        magic != _MAGIC
        or version != 1001
        or type(system) is not dict
        or system.get("little_endian") is not True
    ):
        raise stream.error("a tensor is not stored as torch does it on a little-endian machine")
    if type(stored) is not tuple or len(stored) != 3 or type(stored[0]) is not Name or keys != [stored[1]]:
        raise stream.error("a torch stream holds something else than one storage")
    dtype, count, written = _STORAGES[stored[0]], stored[2], stream.number(8)
    if written != count or count * dtype.itemsize != payload.stop - stream.at:
        raise stream.error(
            f"a storage says that it has {count} and {written} elements of {dtype}, and has "
            f"{payload.stop - stream.at} bytes"
        )
    return _Storage(dtype, stream.at, count)
