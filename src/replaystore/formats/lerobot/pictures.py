"""Pictures in files of LeRobot: PNG (and what Pillow knows) in columns of Parquet, frames of videos.

Decoding pictures needs Pillow (the extra `images`), videos PyAV (`video`). PNG is written without either: all
rows compressed by zlib, lossless.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from replaystore.errors import FormatError, NotFoundError
from replaystore.extras import require

__all__ = ["Frames", "from_picture", "opened_video", "to_png"]

MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}
COLORS = {1: 0, 2: 4, 3: 2, 4: 6}
"""Of PNG, by the number of channels."""


def to_png(picture: NDArray[np.uint8]) -> bytes:
    """A picture, (height, width, channels), as PNG: each row is what differs from the row above."""
    height, width, channels = picture.shape
    rows = np.ascontiguousarray(picture).reshape(height, width * channels)
    lines = np.empty((height, 1 + width * channels), np.uint8)
    lines[:, 0] = 2
    lines[0, 1:] = rows[0]
    lines[1:, 1:] = rows[1:] - rows[:-1]
    head = struct.pack(">IIBBBBB", width, height, 8, COLORS[channels], 0, 0, 0)
    data = zlib.compress(lines.tobytes(), 1)
    return b"\x89PNG\r\n\x1a\n" + _part(b"IHDR", head) + _part(b"IDAT", data) + _part(b"IEND", b"")


def _part(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def from_picture(data: bytes, shape: tuple[int, ...], where: str) -> NDArray[np.uint8]:
    """A picture of this shape, (height, width, channels). FormatError: it is another, or none."""
    image = require("PIL.Image", "reading pictures of LeRobot", "images")
    try:
        with image.open(io.BytesIO(data)) as opened:
            size = opened.size
            if (size[1], size[0]) != shape[:2]:
                raise FormatError(f"{where}: a picture is {size[1]} by {size[0]}, and should be {shape[:2]}")
            mode = MODES.get(shape[2], "RGB")
            found = np.asarray(opened if opened.mode == mode else opened.convert(mode))
    except (OSError, ValueError, SyntaxError, image.DecompressionBombError) as error:
        raise FormatError(f"{where}: a picture cannot be read ({error}): the file is damaged") from None
    return found.reshape(shape)


@contextmanager
def opened_video(path: str, shape: tuple[int, ...]) -> Iterator[Frames]:
    """The frames of a video. NotFoundError; FormatError: it is none."""
    av = require("av", f"the video {path}", "video")
    try:
        container = av.open(path)
    except FileNotFoundError:
        raise NotFoundError(f"{path} is missing: copy it there") from None
    except (av.FFmpegError, OSError, ValueError) as error:
        raise FormatError(f"{path} is no video, or damaged: {error}") from None
    with container:
        if not container.streams.video:
            raise FormatError(f"{path} has no pictures: it is damaged")
        yield Frames(container, path, shape)


class Frames:
    """Frames of a video, in the order of time."""

    def __init__(self, container: Any, path: str, shape: tuple[int, ...]) -> None:
        self.path, self.shape = path, shape
        self._decoded = container.decode(video=0)
        self._now: Any = None
        self._next: Any = self._pull()

    def at(self, seconds: float, tolerance: float) -> NDArray[np.uint8]:
        """The frame nearest to a time, which is not before one that was asked for. FormatError: there is none
        that near."""
        while self._next is not None and (
            self._now is None or abs(self._next.time - seconds) <= abs(self._now.time - seconds)
        ):
            self._now, self._next = self._next, self._pull()
        if self._now is None or abs(self._now.time - seconds) > tolerance:
            raise FormatError(f"{self.path} has no frame at {seconds:.4f} s: it is cut off, or damaged")
        picture: NDArray[np.uint8] = self._now.to_ndarray(format="rgb24" if self.shape[2] == 3 else "gray")
        if picture.shape[:2] != self.shape[:2]:
            raise FormatError(
                f"{self.path}: a frame is of shape {picture.shape}, and should be {self.shape}: it is damaged"
            )
        return picture.reshape(self.shape)

    def _pull(self) -> Any:
        av = require("av", f"the video {self.path}", "video")
        try:
            return next(self._decoded, None)
        except (av.FFmpegError, OSError, ValueError) as error:
            raise FormatError(f"{self.path} is damaged: {error}") from None
