"""What is said of a thing that can be plugged in: enough to recognise it, and where its code is."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

__all__ = ["Entry", "Kind"]

Kind = Literal["storage", "containers", "formats"]


@dataclass(frozen=True)
class Entry:
    """One thing that can be plugged in."""

    name: str
    target: str
    """"module:object", or a module that is the thing itself; imported on use."""
    what: str = ""
    """What it is, with its article, for messages and lists: "an HDF5 file"."""
    suffixes: tuple[str, ...] = ()
    """Of names, with the dot; upper and lower case alike."""
    schemes: tuple[str, ...] = ()
    """Of storage: "memory" for what is written as `memory:name`."""
    magic: tuple[bytes, ...] = ()
    """What a file of it begins with: one of these."""
    magic_later: bool = False
    """It may begin at byte 512, 1024, 2048, … too, as HDF5 lets it."""
    members: tuple[str, ...] = ()
    """What a folder of it holds: one of these files or folders."""
    container: str = ""
    """Of storage: the container that lies in it, whatever its name and content are."""
    urls: bool = False
    """Of storage: its paths are addresses ("https://server/a.zarr"), with the scheme, and no names behind
    one."""
    packed: str = ""
    """Of storage with `urls`: the storage that the zip files there are."""
    extra: str = ""
    """The extra of the package that brings it, which installs what it needs."""
    package: str = field(default="replaystore", compare=False)
    """Who brings it; filled in for plug-ins."""

    def __post_init__(self) -> None:
        """TypeError: a part of it is of another type, such as a string where a tuple of them is meant, whose
        letters would be taken for suffixes."""
        for part, kind in _PARTS.items():
            given = getattr(self, part)
            if not isinstance(given, tuple) or any(not one or not isinstance(one, kind) for one in given):
                raise TypeError(
                    f"{part} of the entry {self.name!r} is a tuple of {kind.__name__}, none of them empty, "
                    f"not {given!r}"
                )


_PARTS = {"suffixes": str, "schemes": str, "magic": bytes, "members": str}
"""What is given as tuples, and of what."""
