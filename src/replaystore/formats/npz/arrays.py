"""Flat arrays in an .npz file, as `numpy.savez` and `savez_compressed` make it: one row a step, under the
names that people give them (shared/flat/reading.py); trajectories end as in a file of D4RL.

What has no name of its own lies in members `replaystore/…`, which nobody looks at who does not look for
them. What is written is not compressed, so that its rows can be read in slices.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from replaystore import not_stores
from replaystore.errors import FormatError
from replaystore.formats.npz.members import Member, opened_npz
from replaystore.formats.report import Fate, lost
from replaystore.formats.shared.chosen import Chosen
from replaystore.formats.shared.flat.format import OneFile
from replaystore.formats.shared.flat.names import has_steps
from replaystore.formats.shared.flat.reading import as_json, flat_source
from replaystore.formats.shared.flat.writing import flat_arrays, flat_places
from replaystore.formats.shared.kept_arrays import arrays_of, kept_of
from replaystore.formats.source import Source

__all__ = ["Npz"]

KEPT_IN = "replaystore/"
LONG_AGO = (1980, 1, 1, 0, 0, 0)
"""The time of all members, so that equal content gives equal bytes."""
SMALL = 1024


class Npz(OneFile[dict[str, Member]]):
    """The format, as `replaystore.formats` knows it."""

    example = "data.npz"

    def opened(self, path: str) -> AbstractContextManager[dict[str, Member]]:
        return opened_npz(path)

    def is_one(self, held: dict[str, Member]) -> bool:
        return KEPT_IN + "about" in held or has_steps(list(held))

    def source(self, held: dict[str, Member], path: str) -> Source:
        return _source(held, path)

    def fill(self, file: IO[bytes], chosen: Chosen) -> None:
        _fill(file, chosen)


# --- reading


def _source(members: Mapping[str, Member], path: str) -> Source:
    columns = {
        name: member.column()
        for name, member in members.items()
        if member.numbers and member.shape and not name.startswith(KEPT_IN)
    }
    kept = kept_of(lambda name: _whole(members.get(KEPT_IN + name)), path)
    try:
        source, left = flat_source(columns, kept, path)
    except FormatError as error:
        raise FormatError(f"{error}{not_stores.addition(path)}") from error
    if left is None:
        return source
    fates: dict[str, Fate] = {}
    metadata: dict[str, Any] = {}
    for name, member in members.items():
        if name.startswith(KEPT_IN) or (name in columns and name not in left):
            continue
        value = _small(member)
        if value is not None:
            metadata[name] = value
        elif member.dtype.hasobject:
            fates[name] = lost("it is pickled, and nothing is unpickled here")
        else:
            fates[name] = lost("it has no row for each step")
    source.metadata, source.fields = metadata or None, fates
    return source


def _whole(member: Member | None) -> NDArray[Any] | None:
    if member is None or not member.numbers:
        return None
    values = member.whole()
    return values.astype(values.dtype.newbyteorder("<"), copy=False)


def _small(member: Member) -> Any:
    """A text, a number, or a few of them, as JSON; None: it is something else."""
    if member.dtype.hasobject or member.dtype.names is not None or np.prod(member.shape, dtype=float) > SMALL:
        return None
    if member.dtype.kind not in "biufU":
        return None
    try:
        return as_json(member.whole())
    except UnicodeDecodeError:
        return None


# --- writing


def _fill(file: IO[bytes], chosen: Chosen) -> None:
    places = flat_places(chosen)
    with zipfile.ZipFile(file, "w") as archive:
        for name, dtype, shape, blocks in flat_arrays(chosen, places):
            _put(archive, name, dtype, (chosen.steps, *shape), blocks)
        for name, values in arrays_of(chosen.kept(places)).items():
            _put(archive, KEPT_IN + name, values.dtype, values.shape, iter([values]))


def _put(
    archive: zipfile.ZipFile,
    name: str,
    dtype: np.dtype[Any],
    shape: tuple[int, ...],
    blocks: Iterator[NDArray[Any]],
) -> None:
    about = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    with archive.open(zipfile.ZipInfo(f"{name}.npy", LONG_AGO), "w", force_zip64=True) as member:
        np.lib.format.write_array_header_1_0(member, about)
        for rows in blocks:
            member.write(np.ascontiguousarray(rows).data)
