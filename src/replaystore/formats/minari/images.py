"""Images that Minari has stored as JPEG, decoded by Pillow or imagecodecs, whichever is there. Nothing is
decoded that is larger than its space says."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from replaystore.errors import FormatError, MissingDependencyError
from replaystore.extras import require

__all__ = ["decoded"]

Decode = Callable[[bytes, tuple[int, ...]], NDArray[Any]]


def decoded(rows: Any, shape: tuple[int, ...], where: str) -> NDArray[np.uint8]:
    """Images of a shape, of their bytes: a list of them of any lengths, or rows of one length. FormatError:
    they are damaged, or of another shape; MissingDependencyError."""
    decode = _decoder()
    some: Iterable[Any] = rows
    images = []
    for data in some:
        try:
            image = decode(np.asarray(data, np.uint8).tobytes(), shape)
        except FormatError as error:
            raise FormatError(f"{where}: {error}") from None
        if image.shape != shape or image.dtype != np.uint8:
            raise FormatError(f"{where}: an image is {image.dtype} of shape {image.shape}, not {shape}")
        images.append(image)
    return np.stack(images) if images else np.zeros((0, *shape), np.uint8)


def _decoder() -> Decode:
    try:
        require("PIL.Image", "reading images that are JPEG", "images")
        return _by_pillow
    except MissingDependencyError as missing:
        try:
            require("imagecodecs", "reading images that are JPEG", "images")
        except MissingDependencyError:
            raise missing from None
        return _by_imagecodecs


def _by_pillow(data: bytes, shape: tuple[int, ...]) -> NDArray[Any]:
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data), formats=["JPEG"]) as image:
            if image.size != (shape[1], shape[0]):
                raise FormatError(f"an image has {image.size} pixels, not {shape[1::-1]}")
            return np.asarray(image)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise FormatError(f"an image is no JPEG, or damaged ({error})") from error


def _by_imagecodecs(data: bytes, shape: tuple[int, ...]) -> NDArray[Any]:
    codecs = require("imagecodecs", "reading images that are JPEG", "images")
    size = _size_of_jpeg(data)
    if size != shape[:2]:
        raise FormatError(f"an image has {size} pixels, not {shape[:2]}")
    try:
        return np.asarray(codecs.jpeg_decode(data))
    except (RuntimeError, ValueError) as error:
        raise FormatError(f"an image is no JPEG, or damaged ({error})") from error


def _size_of_jpeg(data: bytes) -> tuple[int, int]:
    """(height, width) that the head of a JPEG says. FormatError: it is none."""
    place = 2
    while data[:2] == b"\xff\xd8" and place + 9 <= len(data) and data[place] == 0xFF:
        marker, length = data[place + 1], int.from_bytes(data[place + 2 : place + 4], "big")
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = (int.from_bytes(data[at : at + 2], "big") for at in (place + 5, place + 7))
            return height, width
        place += 2 + length
    raise FormatError("an image is no JPEG, or damaged")
