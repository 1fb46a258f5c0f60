"""Pickles of NumPy arrays and of objects that hold some, as inert data.

`scan` follows a pickle as Python's own unpickler would, and makes plain data of it: dicts, lists, tuples,
texts, numbers. Nothing is imported, called or looked up by a name from the file; Python's `pickle` is not
involved.

1. An array is the place in the file where its numbers lie (`Array`); they are not read. One of objects has
   its items. Scalars of NumPy are read.
2. What else the file makes by calling something, or of a class, is a `Thing`: the name, what it was called
   with, and its state. Which names a file may speak of, its reader says; any other is a FormatError that
   names it.
3. Memory is bounded whatever the file says: the number of objects, of items in them, of what is remembered,
   the length of texts, the depth of the stack.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from replaystore.errors import FormatError
from replaystore.formats.shared.pickles.instructions import Machine, Name, Payload, Stream
from replaystore.storage.local import read_all

__all__ = ["Array", "Name", "Payload", "Thing", "bytes_of", "numpy_name", "scan"]

MAX_OBJECTS = 1 << 21
MAX_ITEMS = 1 << 23
MAX_TEXT = 1 << 16
MAX_TEXTS = 1 << 24
"""Bytes of all texts, each counted where it is written."""
MAX_DEPTH = 64
"""Of marks: containers that are being filled."""
MAX_STACK = 1 << 14
MAX_SCALAR = 64
_DTYPE = re.compile(r"[?]|[biufc][0-9]{1,2}|O8?|[SU][0-9]{1,4}|V[0-9]{1,4}")
Args = tuple[Any, ...]
_ARRAYS = ("numpy.core.multiarray", "numpy._core.multiarray")
_BUFFERS = ("numpy.core.numeric", "numpy._core.numeric")


@dataclass(frozen=True)
class Array:
    """Where the numbers of an array lie in the file, one behind the other."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    offset: int
    fortran: bool = False
    """The first dimension runs fastest."""
    items: list[Any] | None = None
    """Of an array of objects what is in it, the last dimension fastest."""

    @property
    def size(self) -> int:
        found = 1
        for length in self.shape:
            found *= length
        return found


@dataclass
class Thing:
    """Something that a file makes by a name, and that nobody has made."""

    name: Name
    args: Any = ()
    state: Any = None

    @property
    def attributes(self) -> dict[Any, Any]:
        """Its state, if that is a dict as objects have them."""
        return self.state if type(self.state) is dict else {}


@dataclass
class _Dtype:
    text: str
    order: str = "<"

    def numpy(self) -> np.dtype[Any]:
        found = np.dtype(self.text)
        return found.newbyteorder(">") if self.order == ">" else found


@dataclass
class _Coming:
    """An array of which only the class is known."""

    array: Array | None = field(default=None)


def numpy_name(name: Name) -> bool:
    """Whether arrays, scalars and dtypes of NumPy need a name, those of 1 and of 2."""
    if name.module == "numpy":
        return name.name in ("dtype", "ndarray")
    return (name.module in _ARRAYS and name.name in ("_reconstruct", "scalar")) or (
        name.module in _BUFFERS and name.name == "_frombuffer"
    )


def scan(descriptor: int, size: int, where: str, maker: str, allowed: Callable[[Name], bool]) -> Any:
    """What the pickle in a file of `size` bytes holds.

    `maker`: who writes such files, for messages. `allowed`: whether a file may speak of a name, beside those
    of `numpy_name`. FormatError: it is no such pickle, or damaged, or would run something."""
    stream = Stream(descriptor, 0, size, where, maker)
    found = _Inert(stream, allowed).run()
    if stream.at != stream.stop:
        raise stream.error(f"{stream.stop - stream.at} bytes follow its end")
    return found


def bytes_of(descriptor: int, payload: Payload, most: int, where: str) -> bytes:
    """The bytes that a file has as a value. FormatError: there are more than `most`, or not so many."""
    if payload.stop - payload.start > most:
        raise FormatError(f"{where}: a value of more than {most} bytes is not one of such a file")
    found = read_all(descriptor, payload.start, payload.stop - payload.start)
    if len(found) != payload.stop - payload.start:
        raise FormatError(f"{where}: the file became shorter while it was read: copy it again")
    return found


class _Inert(Machine):
    """Follows one pickle, of protocol 3 or later."""

    protocols = range(3, 6)

    def __init__(self, stream: Stream, allowed: Callable[[Name], bool]) -> None:
        super().__init__(stream)
        self._allowed = allowed
        self._objects = self._items = self._text_bytes = 0
        self.table |= {
            0x95: self.frame,
            0x94: lambda: self.remember(len(self.memo)),  # MEMOIZE
            0x47: lambda: self.push(struct.unpack(">d", stream.take(8))[0]),  # BINFLOAT
            0x43: lambda: self.payload(stream.number(1)),  # SHORT_BINBYTES
            0x42: lambda: self.payload(stream.number(4)),  # BINBYTES
            0x8E: lambda: self.payload(stream.number(8)),  # BINBYTES8
            0x96: lambda: self.payload(stream.number(8)),  # BYTEARRAY8
            0x8D: lambda: self.push(self.text(stream.number(8))),  # BINUNICODE8
            0x93: lambda: self.named(*self.popped(2)),  # STACK_GLOBAL
            0x7D: lambda: self.made({}),  # EMPTY_DICT
            0x5D: lambda: self.made([]),  # EMPTY_LIST
            0x61: lambda: self.append(self.popped(1)),  # APPEND
            0x65: lambda: self.append(self.marked()),  # APPENDS
            0x52: lambda: self.reduce(*self.popped(2)),  # REDUCE
            0x81: lambda: self.new(*self.popped(2)),  # NEWOBJ
            0x62: self.build,
            0x30: self.pop,  # POP
        }

    def made(self, value: Any) -> None:
        """Push something that takes memory of its own."""
        self._objects += 1
        if self._objects > MAX_OBJECTS:
            raise self.stream.error(f"it has more than {MAX_OBJECTS} objects")
        self.push(value)

    def pop(self) -> None:
        self.popped(1)

    def _holding(self, count: int) -> None:
        self._items += count
        if self._items > MAX_ITEMS:
            raise self.stream.error(f"it has more than {MAX_ITEMS} items in its objects")

    def push(self, value: Any) -> None:
        self.stack.append(value)
        if len(self.stack) > MAX_STACK:
            raise self.stream.error("too much is on its stack")

    def mark(self) -> None:
        if len(self.below) >= MAX_DEPTH:
            raise self.stream.error("it is nested too deeply")
        self.below.append(self.stack)
        self.stack = []

    def payload(self, size: int) -> None:
        start = self.stream.at
        self.stream.skip(size)
        self.made(Payload(start, start + size))

    def long(self) -> int:
        count = self.stream.number(1)
        if count > MAX_SCALAR:
            raise self.stream.error("a number in it is too large")
        return int.from_bytes(self.stream.take(count), "little", signed=True)

    def text(self, size: int) -> str:
        self._text_bytes += size
        if size > MAX_TEXT or self._text_bytes > MAX_TEXTS:
            raise self.stream.error(f"text of {size} bytes is too long, or there is too much of it")
        text = self.stream.text(self.stream.take(size))
        return self.texts.setdefault(text, text)

    def tuple(self, values: list[Any]) -> None:
        self._holding(len(values))
        self.made(tuple(values))

    def set_items(self, items: list[Any]) -> None:
        (target,) = self.popped(1)
        if type(target) is not dict or len(items) % 2:
            raise self.stream.error("keys are set of what is no dict")
        self._holding(len(items))
        for key, value in zip(items[::2], items[1::2], strict=True):
            if type(key) not in (str, int, float, bool, type(None)):
                raise self.stream.error(f"a key of a dict is a {_kind(key)}")
            target[key] = value
        self.stack.append(target)

    def append(self, items: list[Any]) -> None:
        (target,) = self.popped(1)
        if type(target) is not list:
            raise self.stream.error("items are added to what is no list")
        self._holding(len(items))
        target += items
        self.stack.append(target)

    def remember(self, place: int) -> None:
        if not self.stack or place > len(self.memo) or place > MAX_ITEMS:
            raise self.stream.error("it remembers too much, or nothing")
        value = self.stack[-1]
        if place == len(self.memo):
            self.memo.append(value)
        else:
            self.memo[place] = value

    def recall(self, place: int) -> None:
        if place >= len(self.memo):
            raise self.stream.error("it uses what it never had")
        self.push(self.memo[place])

    def named(self, module: Any, name: Any) -> None:
        known = Name(module, name) if type(module) is str and type(name) is str else None
        if known is None or not (known == _ORDERED or numpy_name(known) or self._allowed(known)):
            raise self.stream.error(f"it refers to {module!r:.60} {name!r:.60}")
        self.made(known)

    # --- what calls make

    def reduce(self, name: Any, args: Any) -> None:
        if type(name) is not Name or type(args) is not tuple:
            raise self.stream.error("it calls what is no name")
        if name == _ORDERED and not args:
            self.made({})
        elif not numpy_name(name):
            self.made(Thing(name, args))
        elif name.name == "dtype":
            self.made(self._dtype(args))
        elif name.name == "_frombuffer":
            self.made(self._from_buffer(args))
        elif name.name == "scalar":
            self.made(self._scalar(args))
        elif name.name == "_reconstruct" and args[:1] == (Name("numpy", "ndarray"),):
            self.made(_Coming())
        else:
            raise self.stream.error(f"it calls {name.name!r:.60} as nobody does")

    def new(self, name: Any, args: Any) -> None:
        if type(name) is not Name or type(args) is not tuple or numpy_name(name):
            raise self.stream.error("it makes an object of what is no class")
        self.made({} if name == _ORDERED else Thing(name, args))

    def build(self) -> None:
        target, state = self.popped(2)
        if type(target) is _Dtype and type(state) is tuple and len(state) >= 8:
            if state[1] not in ("<", ">", "=", "|") or state[2:5] != (None, None, None):
                raise self.stream.error("a dtype is not one of plain numbers")
            target.order = state[1]
        elif type(target) is _Coming and target.array is None:
            target.array = self._built(state)
        elif type(target) is Thing and target.state is None:
            target.state = state
        else:
            raise self.stream.error(f"it sets the state of a {_kind(target)}")
        self.stack.append(target)

    def _dtype(self, args: Args) -> _Dtype:
        text = args[0] if args else None
        if type(text) is not str or not _DTYPE.fullmatch(text):
            raise self.stream.error(f"a dtype {text!r:.40} is not one of plain numbers")
        try:
            np.dtype(text)
        except TypeError:
            raise self.stream.error(f"there is no dtype {text!r:.40}") from None
        return _Dtype(text)

    def _from_buffer(self, args: Args) -> Array:
        if len(args) != 4 or args[3] not in ("C", "F"):
            raise self.stream.error("an array is not made as NumPy does it")
        return self._array(args[1], args[2], args[0], args[3] == "F")

    def _built(self, state: Any) -> Array:
        if type(state) is not tuple or len(state) != 5 or type(state[3]) is not bool:
            raise self.stream.error("an array is not made as NumPy does it")
        return self._array(state[2], state[1], state[4], state[3])

    def _array(self, dtype: Any, shape: Any, data: Any, fortran: bool) -> Array:
        if type(dtype) is not _Dtype or type(shape) is not tuple or len(shape) > 32:
            raise self.stream.error("an array has no dtype, or no shape")
        if not all(type(length) is int and 0 <= length < 1 << 62 for length in shape):
            raise self.stream.error(f"an array has the shape {shape!r:.60}")
        kind = dtype.numpy()
        found = Array(kind, shape, 0, fortran)
        if kind.hasobject:
            if type(data) is not list or len(data) != found.size:
                raise self.stream.error("an array of objects has more, or fewer, than its shape says")
            return Array(kind, shape, 0, fortran, data)
        if type(data) is not Payload or data.stop - data.start != found.size * kind.itemsize:
            raise self.stream.error(f"an array of {kind} and shape {shape} has not so many bytes")
        return Array(kind, shape, data.start, fortran)

    def _scalar(self, args: Args) -> Any:
        if len(args) != 2 or type(args[0]) is not _Dtype or type(args[1]) is not Payload:
            raise self.stream.error("a number of NumPy is not made as NumPy does it")
        dtype, payload = args[0].numpy(), args[1]
        if dtype.hasobject or payload.stop - payload.start != dtype.itemsize or dtype.itemsize > 4096:
            raise self.stream.error("a number of NumPy has not as many bytes as its dtype")
        found = np.frombuffer(read_all(self.stream.descriptor, payload.start, dtype.itemsize), dtype)[0]
        return str(found) if dtype.kind == "U" else found

    def run(self) -> Any:
        return _settled(super().run(), self.stream)


_ORDERED = Name("collections", "OrderedDict")


def _settled(value: Any, stream: Stream) -> Any:
    """What a pickle holds, with arrays in place of what they were while they came."""
    if type(value) is _Coming:
        value = _arrived(value, stream)
    seen, waiting = set[int](), [value]
    while waiting:
        at = waiting.pop()
        if id(at) in seen:
            continue
        seen.add(id(at))
        if type(at) is Thing:
            at.args, at.state = (_replaced(part, stream) for part in (at.args, at.state))
            waiting += [at.args, at.state]
        elif type(at) is dict:
            for key in at:
                at[key] = _replaced(at[key], stream)
            waiting += [part for part in at.values() if type(part) in _HOLDERS and part]
        elif type(at) is list:
            at[:] = [_replaced(part, stream) for part in at]
            waiting += [part for part in at if type(part) in _HOLDERS and part]
        elif type(at) is tuple:
            waiting += [part for part in at if type(part) in _HOLDERS and part]
        elif type(at) is Array and at.items is not None:
            at.items[:] = [_replaced(part, stream) for part in at.items]
            waiting += [part for part in at.items if type(part) in _HOLDERS and part]
    return value


_HOLDERS = (Thing, dict, list, tuple, Array)


def _replaced(value: Any, stream: Stream) -> Any:
    if type(value) is _Coming:
        return _arrived(value, stream)
    return value.numpy() if type(value) is _Dtype else value


def _arrived(value: _Coming, stream: Stream) -> Array:
    if value.array is None:
        raise stream.error("an array was begun, and never came")
    return value.array


def _kind(value: Any) -> str:
    return type(value).__name__.strip("_").lower()
