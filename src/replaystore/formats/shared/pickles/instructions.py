"""The instructions that all pickles of buffers are made of, and the limits within which they may be used.

`Machine` follows a pickle as Python's own unpickler would, but for what is harmful: it imports nothing, calls
nothing, and has only the instructions in its table, so that all others are refused. What it makes is plain
data. Its memory is bounded whatever the file says.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from replaystore.errors import CorruptError, FormatError
from replaystore.storage.local import read_all

__all__ = ["PLAIN", "Machine", "Name", "Payload", "Stream"]

MAX_INSTRUCTIONS = 1 << 25
MAX_MEMO = 1 << 22
MAX_STACK = 2048
MAX_MARKS = 16
MAX_TUPLE = 8
MAX_KEYS = 64
MAX_TEXT = 1024
MAX_TEXTS = 4096
_WINDOW = 1 << 18


class Stream:
    """Bytes [start, stop) of a file, taken in order."""

    def __init__(
        self, descriptor: int, start: int, stop: int, where: str, maker: str = "active_rlhf"
    ) -> None:
        """`maker`: who writes such files, for messages."""
        self.descriptor, self.at, self.stop, self.where = descriptor, start, stop, where
        self.maker = maker
        self._window, self._base = b"", start

    def take(self, count: int) -> bytes:
        begin = self.at - self._base
        if begin + count > len(self._window):
            if count > self.stop - self.at:
                raise self.cut()
            self._window = read_all(self.descriptor, self.at, min(max(count, _WINDOW), self.stop - self.at))
            self._base, begin = self.at, 0
            if len(self._window) < count:
                raise self.error("it became shorter while it was read")
        self.at += count
        return self._window[begin : begin + count]

    def number(self, count: int) -> int:
        return int.from_bytes(self.take(count), "little")

    def skip(self, count: int) -> None:
        if count > self.stop - self.at:
            raise self.cut()
        self.at += count

    def line(self) -> str:
        text = bytearray()
        while (byte := self.take(1)) != b"\n":
            text += byte
            if len(text) > MAX_TEXT:
                raise self.error("a name in it has no end")
        return self.text(bytes(text))

    def text(self, data: bytes) -> str:
        try:
            return data.decode()
        except UnicodeDecodeError:
            raise self.error("text in it is not valid Unicode") from None

    def cut(self) -> CorruptError:
        """It has fewer bytes than it says."""
        return CorruptError(str(self.error("it ends in the middle")))

    def error(self, what: str) -> FormatError:
        remedy = f"it is damaged, or was not written by {self.maker}; nothing in it was run"
        return FormatError(f"{self.where}: at byte {self.at}: {what}: {remedy}")


# --- values that are not Python's own


@dataclass(frozen=True)
class Name:
    """Something that the file refers to by its name; nothing is looked up."""

    module: str
    name: str


@dataclass(frozen=True)
class Payload:
    """Bytes that were not read."""

    start: int
    stop: int


class _Unshared:
    """Remembered, but not to be used a second time."""


UNSHARED = _Unshared()
PLAIN = (int, float, bool, str, type(None), Name, Payload)


# --- the machine


class Machine:
    """Follows one pickle."""

    protocols: range
    names: frozenset[Name]
    """What it may refer to."""
    flat: tuple[type, ...] = PLAIN
    """What may be in tuples and dicts."""

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []
        self.memo: list[Any] = []
        self.texts: dict[str, str] = {}
        self.table: dict[int, Callable[[], None]] = {
            0x4D: lambda: self.push(stream.number(2)),  # BININT2
            0x4B: lambda: self.push(stream.number(1)),  # BININT1
            0x4A: lambda: self.push(int.from_bytes(stream.take(4), "little", signed=True)),  # BININT
            0x8A: lambda: self.push(self.long()),  # LONG1
            0x4E: lambda: self.push(None),  # NONE
            0x88: lambda: self.push(True),  # NEWTRUE
            0x89: lambda: self.push(False),  # NEWFALSE
            0x7D: lambda: self.push({}),  # EMPTY_DICT
            0x29: lambda: self.push(()),  # EMPTY_TUPLE
            0x28: self.mark,
            0x8C: lambda: self.push(self.text(stream.number(1))),  # SHORT_BINUNICODE
            0x58: lambda: self.push(self.text(stream.number(4))),  # BINUNICODE
            0x74: lambda: self.tuple(self.marked()),  # TUPLE
            0x85: lambda: self.tuple(self.popped(1)),  # TUPLE1
            0x86: lambda: self.tuple(self.popped(2)),  # TUPLE2
            0x87: lambda: self.tuple(self.popped(3)),  # TUPLE3
            0x73: lambda: self.set_items(self.popped(2)),  # SETITEM
            0x75: lambda: self.set_items(self.marked()),  # SETITEMS
            0x71: lambda: self.remember(stream.number(1)),  # BINPUT
            0x72: lambda: self.remember(stream.number(4)),  # LONG_BINPUT
            0x68: lambda: self.recall(stream.number(1)),  # BINGET
            0x6A: lambda: self.recall(stream.number(4)),  # LONG_BINGET
            0x63: lambda: self.named(stream.line(), stream.line()),  # GLOBAL
        }

    def run(self) -> Any:
        """One pickle; what it holds."""
        stream, table = self.stream, self.table
        if stream.take(1) != b"\x80" or stream.number(1) not in self.protocols:
            raise stream.error("it does not begin as such a pickle does")
        for _ in range(MAX_INSTRUCTIONS):
            code = stream.take(1)[0]
            if code == 0x2E:  # STOP
                (result,) = self.popped(1)
                if self.stack or self.below:
                    raise stream.error("values are left over")
                return result
            instruction = table.get(code)
            if instruction is None:
                raise stream.error(f"the instruction {code:#04x} is not one of such a file")
            instruction()
        raise stream.error(f"it has more than {MAX_INSTRUCTIONS} instructions")

    # --- the stack

    def push(self, value: Any) -> None:
        self.stack.append(value)
        if len(self.stack) > MAX_STACK:
            raise self.stream.error("too much is on its stack")

    def popped(self, count: int) -> list[Any]:
        if len(self.stack) < count:
            raise self.stream.error("a value is missing")
        values = self.stack[-count:]
        del self.stack[-count:]
        return values

    def mark(self) -> None:
        if len(self.below) >= MAX_MARKS or sum(map(len, self.below)) + len(self.stack) > MAX_STACK:
            raise self.stream.error("it is nested too deeply")
        self.below.append(self.stack)
        self.stack = []

    def marked(self) -> list[Any]:
        if not self.below:
            raise self.stream.error("a mark is missing")
        values, self.stack = self.stack, self.below.pop()
        return values

    # --- values

    def frame(self) -> None:
        """Of protocol 4: so many bytes follow, at least."""
        size = self.stream.number(8)
        if size > self.stream.stop - self.stream.at:
            raise self.stream.cut()

    def long(self) -> int:
        count = self.stream.number(1)
        if count > 10:  # the magic number has ten bytes
            raise self.stream.error("a number in it is too large")
        return int.from_bytes(self.stream.take(count), "little", signed=True)

    def text(self, size: int) -> str:
        if size > MAX_TEXT:
            raise self.stream.error(f"text of {size} bytes is too long")
        text = self.stream.text(self.stream.take(size))
        if len(self.texts) >= MAX_TEXTS and text not in self.texts:
            raise self.stream.error(f"it has more than {MAX_TEXTS} different texts")
        return self.texts.setdefault(text, text)

    def tuple(self, values: list[Any]) -> None:
        nested = [item for value in values if type(value) is tuple for item in value]
        if (
            len(values) > MAX_TUPLE
            or not all(type(value) in (*self.flat, tuple) for value in values)
            or any(type(x) is tuple for x in nested)
        ):
            raise self.stream.error("a tuple in it is not one of such a file")
        self.push(tuple(values))

    def set_items(self, items: list[Any]) -> None:
        (target,) = self.popped(1)
        if type(target) is not dict or len(items) % 2 or len(target) + len(items) // 2 > MAX_KEYS:
            raise self.stream.error("keys are set of what is no small dict")
        for key, value in zip(items[::2], items[1::2], strict=True):
            if type(key) is not str or key in target:
                raise self.stream.error(f"the key {key!r:.60} is no text, or is there twice")
            if not self.may_hold(value):
                raise self.stream.error(f"{key!r:.60} is a {type(value).__name__.strip('_').lower()}")
            target[key] = value
        self.stack.append(target)

    def may_hold(self, value: Any) -> bool:
        """Whether a dict may have this value."""
        return type(value) in (*self.flat, tuple)

    def remember(self, place: int) -> None:
        if not self.stack or place > len(self.memo) or place >= MAX_MEMO:
            raise self.stream.error("it remembers too much, or nothing")
        value = self.stack[-1]
        kept = value if type(value) in (str, Name) else UNSHARED
        if place == len(self.memo):
            self.memo.append(kept)
        else:
            self.memo[place] = kept

    def recall(self, place: int) -> None:
        if place >= len(self.memo) or self.memo[place] is UNSHARED:
            raise self.stream.error("it uses something twice, or what it never had")
        self.push(self.memo[place])

    def named(self, module: Any, name: Any) -> None:
        known = Name(module, name) if type(module) is str and type(name) is str else None
        if known not in self.names:
            raise self.stream.error(f"it refers to {module!r:.60} {name!r:.60}")
        self.push(known)
