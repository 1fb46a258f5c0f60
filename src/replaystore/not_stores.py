"""What a file is that is no store, and where to go with it: to `replaystore convert`, if a format reads it.
Asked only where opening has failed; nothing in a file is run or believed."""

from __future__ import annotations

import os
import re
import shlex
import stat
from collections.abc import Iterator
from itertools import islice

from replaystore.registry import Entry, recognizing

__all__ = ["addition", "line", "of_format", "what"]

HDF5 = b"\x89HDF\r\n\x1a\n"
OWN_HDF5 = b"REPLAYSTORE HDF5"
"""Begins the block that our HDF5 files have before HDF5's own signature."""
ZIP = (b"PK\x03\x04", b"PK\x05\x06")

_ROOT, _END_OF_DIRECTORY = re.compile(rb"PK\x01\x02.{42}zarr\.json", re.DOTALL), b"PK\x05\x06"
"""In the directory of a zip: of a member of that name at its root, and what follows the last member."""
_BEGIN, _END = 4096, 1 << 16
MOST = 100
"""So many of what is in a folder are looked at."""
_TORCH = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # the magic number of checkpoints before PyTorch 1.6

_SIGNATURES = (
    (b"\x93NUMPY", "an array of NumPy", "read it with numpy.load"),
    (_TORCH, "a checkpoint of PyTorch", "read it with torch.load"),
    (HDF5, "an HDF5 file of other software", "read it with h5py.File"),
    (b"PAR1", "a Parquet file", "read it with pandas.read_parquet"),
    (b"ARROW1", "an Arrow file", "read it with pyarrow.feather.read_table"),
    (b"SQLite format 3\x00", "an SQLite database", "read it with sqlite3"),
)
_COMPRESSED = (
    (b"\x1f\x8b", "gzip"),
    (b"BZh", "bzip2"),
    (b"\xfd7zXZ\x00", "xz"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
)
_IN_ZIP = (  # what the names of members end in
    (b".npy", "an .npz archive of NumPy", "read it with numpy.load"),
    (b"data.pkl", "a checkpoint of PyTorch", "read it with torch.load"),
    (
        b"_stable_baselines3_version",
        "a model of Stable-Baselines3",
        "save its replay buffer with save_replay_buffer, read that with pickle",
    ),
)
_TEXTS = {
    ".csv": ("a table in text", "read it with numpy.genfromtxt"),
    ".tsv": ("a table in text", "read it with numpy.genfromtxt"),
    ".json": ("a JSON file", "read it with json.load"),
    ".jsonl": ("a file of JSON lines", "read each with json.loads"),
}


def line(path: str) -> str:
    """What lies at a path, if it is something known that is no store of ours, and what to do with it; else
    "".

    One line, such as "a.npz is an .npz file of flat arrays, and no store of replaystore: `replaystore convert
    a.npz a.zarr` makes one"."""
    if told := of_format(path):
        return told
    found = what(path)
    return f"{path} is {found[0]}, and no store of replaystore: {found[1]}" if found else ""


def of_format(path: str) -> str:
    """The same of files of a format that is known, of those that are damaged, of parts of such a dataset, and
    of a folder with such files in it; else ""."""
    try:
        if not (os.path.isdir(path) or os.path.isfile(path)) or _is_ours(path):
            return ""
        if known := recognizing.readable(path):
            return f"{path} is {_shown(known)}, and no store of replaystore: {_convert(path)} makes one"
        if found := recognizing.around(path):
            return (
                f"{path} is only a part of {_shown(found[1])}: {_convert(found[0])} makes a "
                "store of the whole"
            )
        if not _is_zarr(path) and (error := recognizing.refusal(path)):
            return f"{path} is no store of replaystore, and cannot be converted to one: {error}"
        return _of_folder(path) if os.path.isdir(path) else ""
    except OSError:  # whoever opens it says so
        return ""


def _of_folder(path: str) -> str:
    """What makes a store of the first of what is in a folder, or in those in it."""
    for name in islice(_names(path), MOST):
        inside = os.path.join(path, name)
        if known := recognizing.readable(inside):
            return (
                f"{path} is a folder with {_shown(known)} in it, {name}, and no store of replaystore: "
                f"{_convert(inside)} makes one"
            )
    return ""


def _names(path: str) -> Iterator[str]:
    """Of what is in a folder; then of what is in the folders there."""
    names = sorted(os.listdir(path))
    yield from names
    for name in names:
        inside = os.path.join(path, name)
        if os.path.isdir(inside) and not _is_zarr(inside) and os.access(inside, os.R_OK | os.X_OK):
            yield from (os.path.join(name, below) for below in sorted(os.listdir(inside)))


def _shown(known: Entry) -> str:
    return known.what or f"a file of {known.name}"


def _convert(path: str) -> str:
    """The command that makes a store of it."""
    path = path.removeprefix("./")
    stem, suffix = os.path.splitext(path)
    stem = path if os.path.isdir(path) and suffix != ".zarr" else stem
    target = f"{stem}.zarr"
    if os.path.lexists(target):
        target = f"{stem}-store.zarr"
    return f"`replaystore convert {shlex.quote(path)} {shlex.quote(target)}`"


def addition(path: str) -> str:
    """What it is for the end of a message that says that it is no such file: "; it is an HDF5 file of other
    software: read it …"."""
    found = what(path)
    return f"; it is {found[0]}: {found[1]}" if found else ""


def what(path: str) -> tuple[str, str] | None:
    """What lies there by its first bytes, and how to get at it without any format; None if that is not known,
    or it may be a store of ours."""
    found = _found(path)
    if found is None or "read" not in found[1]:
        return found
    return found[0], (
        f"{found[1]}, and append its arrays to a new buffer with replaystore.create and buffer.append"
    )


def _is_ours(path: str) -> bool:
    """Whether it is a file of ours, however damaged."""
    if os.path.isdir(path):
        return False
    with open(path, "rb") as file:
        begin = file.read(_BEGIN)
        file.seek(max(0, os.fstat(file.fileno()).st_size - _END))
        end = file.read(_END) if begin.startswith(ZIP) else b""
    return begin.startswith(OWN_HDF5) or _ROOT.search(end) is not None


def _is_zarr(path: str) -> bool:
    """Whether it may be a store of ours, or is a hierarchy of Zarr at least."""
    return any(os.path.lexists(os.path.join(path, name)) for name in ("zarr.json", ".zgroup", ".zarray"))


def _found(path: str) -> tuple[str, str] | None:
    try:
        if os.path.isdir(path):
            return _folder(path)
        if not stat.S_ISREG(os.stat(path).st_mode):
            return None
        with open(path, "rb") as file:
            begin = file.read(_BEGIN)
            file.seek(max(0, os.fstat(file.fileno()).st_size - _END))
            end = file.read(_END)
    except OSError:
        return None
    return _file(path, begin, end)


def _file(path: str, begin: bytes, end: bytes) -> tuple[str, str] | None:
    if begin.startswith(OWN_HDF5):
        return None
    if begin.startswith(ZIP):
        return _zip(end)
    for signature, kind, advice in _SIGNATURES:
        if begin.startswith(signature):
            return kind, advice
    for signature, name in _COMPRESSED:
        if begin.startswith(signature):
            return f"a file compressed with {name}", "uncompress it, and look at what is in it"
    if begin[:1] == b"\x80" and begin[1:2] in b"\x02\x03\x04\x05":
        if b"capacity" in begin[:64]:  # as one of a format that we know begins: it is damaged, perhaps
            return None
        return "a pickle of other software", (
            "if you trust it, read it with pickle.load beside the project that wrote it"
        )
    return _TEXTS.get(os.path.splitext(path)[1].lower())


def _zip(end: bytes) -> tuple[str, str] | None:
    if b"zarr.json" in end:
        at = end.rfind(_END_OF_DIRECTORY)
        whole = 0 <= int.from_bytes(end[at + 12 : at + 16], "little") <= at
        if _ROOT.search(end) or not whole:
            return None
        return "a zip file of a folder with a store in it", "unpack it and convert the folder"
    for name, kind, advice in _IN_ZIP:
        if name in end:
            return kind, advice
    return "a zip file without a store in it", "check the path"


def _folder(path: str) -> tuple[str, str] | None:
    names = sorted(os.listdir(path))
    stores = [name for name in names if name.lower().endswith((".zarr", ".zarr.zip", ".h5", ".hdf5"))]
    if ".zgroup" in names or ".zarray" in names:
        return "a Zarr hierarchy of version 2 of other software", "read it with zarr.open"
    if "zarr.json" in names or "replaystore" in names:
        return None
    if stores:
        return "a folder", f"name what is in it, such as {os.path.join(path, stores[0])}"
    for name in names[:MOST]:
        inside = os.path.join(path, name)
        texts = os.path.splitext(name)[1].lower() in _TEXTS  # which lie in folders of all kinds
        found = _found(inside) if os.path.isfile(inside) and not texts else None
        if found:
            return f"a folder with {found[0]} ({name})", found[1]
    return None
