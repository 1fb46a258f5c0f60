"""Pictures of a dataset, which are stored as PNG or JPEG: decoded by Pillow, an extra."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from numpy.typing import NDArray

from replaystore.errors import FormatError
from replaystore.extras import require
from replaystore.formats.rlds.features import Feature

__all__ = ["decoded", "needed", "size_of"]

MOST_PIXELS = 1 << 26
MODES = {1: "L", 3: "RGB", 4: "RGBA"}
FORMATS = ("PNG", "JPEG", "BMP", "GIF")


def needed() -> Any:
    """Pillow. MissingDependencyError: it is not installed."""
    return require("PIL.Image", "a dataset with pictures", "images")


def size_of(data: bytes, feature: Feature) -> tuple[int, int]:
    """Height and width of a picture. FormatError: it is none."""
    with _opened(data, feature) as picture:
        return picture.height, picture.width


def decoded(data: bytes, feature: Feature) -> NDArray[Any]:
    """The pixels of a picture, (height, width, channels). FormatError: it is none, or another than its
    feature says."""
    height, width, channels = feature.shape
    with _opened(data, feature) as picture:
        if (picture.height, picture.width) != (height, width):
            raise FormatError(
                f"{feature.key}: a picture is {picture.height} by {picture.width}, and others are {height} "
                f"by {width}: pictures of several sizes are not read"
            )
        wide = picture.mode.startswith("I")
        if wide != (feature.dtype == np.uint16):
            raise FormatError(
                f"{feature.key}: a picture has pixels of another kind ({picture.mode}) than {feature.dtype}"
            )
        try:
            known = picture if wide else picture.convert(MODES[channels or 3])
            pixels = np.asarray(known)
        except (OSError, ValueError, SyntaxError, EOFError, KeyError) as error:
            raise FormatError(f"{feature.key}: a picture cannot be decoded: {error}") from error
    shape: Any = feature.shape
    return pixels.astype(feature.dtype, casting="unsafe" if wide else "safe").reshape(shape)


def _opened(data: bytes, feature: Feature) -> Any:
    image = needed()
    try:
        picture = image.open(io.BytesIO(data), formats=FORMATS)
    except (OSError, ValueError, SyntaxError, image.DecompressionBombError) as error:
        raise FormatError(f"{feature.key}: a value is no picture: {error}") from error
    if picture.height * picture.width > MOST_PIXELS:
        raise FormatError(f"{feature.key}: a picture of {picture.height} by {picture.width} is too large")
    return picture
