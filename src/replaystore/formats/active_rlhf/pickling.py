"""A pickle of an active_rlhf buffer, written piece by piece: the instructions that Python's `pickle` writes
for one (protocol 4), without ever having the buffer in memory. Storages are named "0"; the original names
them by their address in memory, at random.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Mapping
from typing import IO

from replaystore.formats.shared.outgoing import Output
from replaystore.formats.shared.pickles.writing import PickleWriter, integer_code
from replaystore.views.foreign_ring import Placement

__all__ = ["Info", "write_pickle"]

Info = tuple[int, int, str, float, int]
"""start_pos, length, split, on_policiness_score, last_updated_step"""

_BATCH = 1000
_KEYS = ("start_pos", "length", "split", "on_policiness_score", "last_updated_step")
_STORAGES = {"<f4": b"FloatStorage", "<f8": b"DoubleStorage", "<f2": b"HalfStorage", "|b1": b"BoolStorage"}
_SYSTEM = (
    b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # the magic number
    b"\x80\x02M\xe9\x03."  # 1001, the version
    b"\x80\x02}q\x00(X\x10\x00\x00\x00protocol_versionq\x01M\xe9\x03X\r\x00\x00\x00little_endianq\x02\x88X\n\x00\x00\x00type_sizesq\x03}"
    b"q\x04(X\x05\x00\x00\x00shortq\x05K\x02X\x03\x00\x00\x00intq\x06K\x04X\x04\x00\x00\x00longq\x07K\x04uu."
)


def write_pickle(
    file: IO[bytes],
    numbers: Mapping[str, int],
    tensors: Mapping[str, Output],
    placement: Placement,
    infos: Iterable[Info],
    shapes: Mapping[str, tuple[int, ...]],
    done: Callable[[int], None],
) -> None:
    """Write a dict of `numbers`, `tensors`, `trajectories`, `shapes`, in this order."""
    out = _Writer(file)
    out.code(b"}")
    out.memoize()
    out.code(b"(")
    for key, number in numbers.items():
        out.text(key)
        out.integer(number)
    for key, tensor in tensors.items():
        out.text(key)
        out.tensor(tensor, placement, done)
    out.text("trajectories")
    out.infos(infos)
    for key, shape in shapes.items():
        out.text(key)
        out.shape(shape)
    out.code(b"u")
    out.end()


class _Writer(PickleWriter):
    def shape(self, shape: tuple[int, ...]) -> None:
        if len(shape) > 3:
            self.code(b"(")
        for length in shape:
            self.integer(length)
        self.code((b")", b"\x85", b"\x86", b"\x87")[len(shape)] if len(shape) <= 3 else b"t")
        if shape:
            self.memoize()

    def tensor(self, tensor: Output, placement: Placement, done: Callable[[int], None]) -> None:
        """_rebuild_tensor_v2(_load_from_bytes(bytes), 0, shape, stride, False, OrderedDict())"""
        count = placement.capacity * tensor.width
        header = _stream_header(_STORAGES[tensor.dtype.str], count)
        size = len(header) + count * tensor.dtype.itemsize
        self.name("torch._utils", "_rebuild_tensor_v2")
        self.code(b"(")
        self.name("torch.storage", "_load_from_bytes")
        self.end_frame()
        code, length = (b"C", 1) if size < 256 else (b"B", 4) if size < 1 << 32 else (b"\x8e", 8)
        self.file.write(code + size.to_bytes(length, "little"))
        self.file.write(header)
        tensor.write(self.file, placement, done)
        self.memoize()
        self.code(b"\x85")
        self.memoize()
        self.code(b"R")
        self.memoize()
        self.integer(0)
        self.shape((placement.capacity, tensor.width))
        self.shape((tensor.width, 1))
        self.code(b"\x89")
        self.name("collections", "OrderedDict")
        self.code(b")R")
        self.memoize()
        self.code(b"t")
        self.memoize()
        self.code(b"R")
        self.memoize()

    def infos(self, infos: Iterable[Info]) -> None:
        self.code(b"]")
        self.memoize()
        listed = list(infos)
        for start in range(0, len(listed), _BATCH):
            batch = listed[start : start + _BATCH]
            if len(listed) > 1:
                self.code(b"(")
            for info in batch:
                self._info(info)
            self.code(b"e" if len(listed) > 1 else b"a")

    def _info(self, info: Info) -> None:
        self.name("active_rlhf.data.buffers", "TrajectoryInfo")
        self.code(b")\x81")
        self.memoize()
        self.code(b"}")
        self.memoize()
        self.code(b"(")
        for key, value in zip(_KEYS, info, strict=True):
            self.text(key)
            if isinstance(value, str):
                self.text(value)
            elif isinstance(value, float):
                self.code(b"G" + struct.pack(">d", value))
            elif isinstance(value, int):
                self.integer(value)
        self.code(b"ub")
        self.end_long_frame()


def _stream_header(kind: bytes, count: int) -> bytes:
    """What torch writes before the elements of a storage."""
    stored = (
        b"(X\x07\x00\x00\x00storageq\x00ctorch\n"
        + kind
        + b"\nq\x01X\x01\x00\x00\x000q\x02X\x03\x00\x00\x00cpuq\x03"
        + integer_code(count)
    )
    return (
        _SYSTEM
        + b"\x80\x02"
        + stored
        + b"Ntq\x04Q.\x80\x02]q\x00X\x01\x00\x00\x000q\x01a."
        + count.to_bytes(8, "little")
    )
