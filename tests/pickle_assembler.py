"""A small assembler of pickles as torch writes them, a whole buffer made with it, and what does harm."""

from __future__ import annotations

import io
import os
import struct
from typing import Any

from tensors import torch

KEYS = (
    "capacity",
    "fragment_length",
    "size",
    "pos",
    "global_step",
    "obs",
    "acts",
    "rews",
    "dones",
    "trajectories",
)


def text(value: str) -> bytes:
    data = value.encode("utf-8", "surrogatepass")
    return b"X" + struct.pack("<I", len(data)) + data


def number(value: int) -> bytes:
    return (
        b"J" + struct.pack("<i", value)
        if -(1 << 31) <= value < 1 << 31
        else b"\x8a\x09" + value.to_bytes(9, "little", signed=True)
    )


def name(module: str, attribute: str) -> bytes:
    return text(module) + text(attribute) + b"\x93"


def payload(data: bytes) -> bytes:
    return b"B" + struct.pack("<I", len(data)) + data


STREAM_HEAD = (
    b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.\x80\x02}X\x0d\x00\x00\x00little_endian\x88s."
)
LOAD = name("torch.storage", "_load_from_bytes")
REBUILD = name("torch._utils", "_rebuild_tensor_v2")
HOOKS = name("collections", "OrderedDict") + b")R"


def stored(
    count: int, kind: str = "FloatStorage", device: str = "cpu", view: bytes = b"N", tag: str = "storage"
) -> bytes:
    inner = (
        b"("
        + text(tag)
        + b"ctorch\n"
        + kind.encode()
        + b"\n"
        + text("0")
        + text(device)
        + number(count)
        + view
        + b"tQ."
    )
    return b"\x80\x02" + inner


def stream(
    count: int,
    data: bytes,
    head: bytes = STREAM_HEAD,
    ref: bytes | None = None,
    keys: bytes | None = None,
    said: int | None = None,
) -> bytes:
    keys = b"\x80\x02]" + text("0") + b"a." if keys is None else keys
    return (
        head
        + (stored(count) if ref is None else ref)
        + keys
        + struct.pack("<q", count if said is None else said)
        + data
    )


def ints(values: tuple[int, ...]) -> bytes:
    return b"(" + b"".join(map(number, values)) + b"t"


def tensor(
    shape: tuple[int, ...] = (4, 1),
    inner: bytes | None = None,
    offset: bytes = number(0),
    stride: tuple[int, ...] = (1, 1),
    gradient: bytes = b"\x89",
    hooks: bytes = HOOKS,
) -> bytes:
    count = max(shape[0] * shape[-1], 0) if shape else 0
    data = payload(stream(count, b"\0" * (4 * count)) if inner is None else inner)
    return (
        REBUILD
        + b"("
        + LOAD
        + data
        + b"\x85R"
        + offset
        + ints(shape)
        + ints(stride)
        + gradient
        + hooks
        + b"tR"
    )


DONES = tensor(inner=stream(4, b"\0" * 4, ref=stored(4, "BoolStorage")))
INFO_STATE = {
    "start_pos": number(0),
    "length": number(2),
    "split": text("train"),
    "on_policiness_score": b"G" + b"\0" * 8,
}
INFO_STATE["last_updated_step"] = number(0)


def info(
    cls: bytes = name("active_rlhf.data.buffers", "TrajectoryInfo"), args: bytes = b")", **state: bytes
) -> bytes:
    items = b"".join(text(key) + value for key, value in {**INFO_STATE, **state}.items())
    return cls + args + b"\x81}(" + items + b"ub"


VALUES = dict(zip(KEYS[:5], map(number, (4, 50, 2, 2, 2)), strict=True))


VALUES |= {
    "obs": tensor(),
    "acts": tensor(),
    "rews": tensor(),
    "dones": DONES,
    "trajectories": b"](" + info() + b"e",
}


def buffer(
    protocol: int = 4,
    before: bytes = b"",
    end: bytes = b".",
    more: bytes = b"",
    without: str = "",
    **values: bytes,
) -> bytes:
    items = b"".join(text(key) + value for key, value in {**VALUES, **values}.items() if key != without)
    return b"\x80" + bytes([protocol]) + before + b"}(" + items + more + b"u" + end


CANARY = "canary"
SYSTEM = name("os", "system") + text(f"touch {CANARY}") + b"\x85R"


class Evil:
    def __reduce__(self) -> Any:
        return os.system, (f"touch {CANARY}",)


def torch_stream(value: Any) -> bytes:
    file = io.BytesIO()
    torch.save(value, file, _use_new_zipfile_serialization=False)
    return file.getvalue()
