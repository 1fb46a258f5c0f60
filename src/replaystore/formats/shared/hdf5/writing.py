"""New HDF5 files for other software.

    with NewFiles([path], overwrite=False) as new, new_hdf5(new.files[0]) as root:
        demo = root.group("data").group("demo_0")
        demo.attribute("num_samples", 100)
        rows = demo.rows("actions", np.dtype("<f4"), (7,), 100)       # and then rows.append(some), in order
        demo.values("rewards", array)                                  # small: all at once
        root.texts("columns", ["observations", "actions"])

Any HDF5 from 1.8 on reads them. Equal content gives equal bytes. What the library raises comes out as
StorageError.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import math
import os
import re
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import IO, Any

import h5py  # type: ignore[import-untyped]
import numpy as np
from numpy.typing import NDArray

from replaystore.containers.deflating import deflate
from replaystore.errors import StorageError
from replaystore.formats.shared.hdf5.values import called, from_library, standard_type
from replaystore.interrupts import signals_wait

__all__ = ["NewGroup", "NewRows", "new_hdf5"]

CHUNK_BYTES = 1 << 18
LEVEL = 1
"""Of gzip: ISA-L's first is as small as zlib's third or fourth."""
LIBVER = (h5py.h5f.LIBVER_V18, h5py.h5f.LIBVER_V110)

_ERRNO = re.compile(r"errno = ([1-9]\d*)")


@contextmanager
def new_hdf5(file: IO[bytes]) -> Iterator[NewGroup]:
    """The root of what becomes the content of an empty file. StorageError."""
    path = str(file.name)
    handle = called(path, lambda: h5py.File(_created(path)))
    root = NewGroup(path, handle.id, "", [])
    try:
        yield root
        root.finish()
        root.flush()
    except BaseException:
        _give_up(handle)
        raise
    try:
        with signals_wait():
            handle.close()
    except Exception as error:
        raise _storage(path, error) from error


def _give_up(handle: h5py.File) -> None:
    """Close a file that is given up. What the library could not write it writes when it closes the file, or
    the process dies: so the rest goes to memory, and is forgotten."""
    with contextlib.suppress(Exception):
        if memory := getattr(os, "memfd_create", None):  # of Linux
            elsewhere = memory("given up")
            try:
                os.dup2(elsewhere, handle.id.get_vfd_handle(), inheritable=False)
            finally:
                os.close(elsewhere)
    with contextlib.suppress(Exception):
        handle.close()


class NewGroup:
    """A group that is filled."""

    def __init__(self, path: str, handle: Any, name: str, open_rows: list[NewRows]) -> None:
        self._path, self.name, self._open = path, name, open_rows
        if isinstance(handle, h5py.h5f.FileID):
            handle = h5py.h5g.open(handle, b"/")
        self.handle = handle
        self._groups: dict[str, NewGroup] = {}

    def group(self, name: str) -> NewGroup:
        """A group in it, which is made when it is first asked for. A name may be a path."""
        first, _, rest = name.partition("/")
        if first not in self._groups:
            handle = self._made(lambda: h5py.h5g.create(self.handle, first.encode()))
            self._groups[first] = NewGroup(self._path, handle, f"{self.name}/{first}", self._open)
        return self._groups[first].group(rest) if rest else self._groups[first]

    def attribute(self, name: str, value: Any) -> None:
        """A text, a number, or an array of numbers."""
        attributes = h5py.AttributeManager(_Owner(self.handle))
        self._made(lambda: attributes.create(name, value))

    def values(self, name: str, values: NDArray[Any], **attributes: Any) -> None:
        """A dataset of numbers, or a single one (an array of no dimension), all at once."""
        values = np.asarray(values, order="C")
        made = self._dataset(name, standard_type(values.dtype), values.shape)
        if values.size:
            self._made(lambda: made.write(h5py.h5s.ALL, h5py.h5s.ALL, values, standard_type(values.dtype)))
        self._attributes(made, attributes)

    def text(self, name: str, value: str, **attributes: Any) -> None:
        """A single text."""
        self._objects(name, (), [value], h5py.string_dtype(), attributes)

    def texts(self, name: str, values: Sequence[str | bytes], **attributes: Any) -> None:
        """A list of texts."""
        self._objects(name, (len(values),), values, h5py.string_dtype(), attributes)

    def arrays(
        self, name: str, values: Sequence[NDArray[Any]], dtype: np.dtype[Any], **attributes: Any
    ) -> None:
        """A list of flat arrays of any length."""
        self._objects(name, (len(values),), values, h5py.vlen_dtype(dtype), attributes)

    def rows(
        self,
        name: str,
        dtype: np.dtype[Any],
        shape: tuple[int, ...],
        count: int | None,
        *,
        compressed: bool = False,
        about: int = 1 << 16,
        **attributes: Any,
    ) -> NewRows:
        """A dataset of rows of numbers, which are appended in order: `count` of them, or (None) as many
        as there will be, `about` so many.

        Of a known count, and not `compressed` (by gzip), they lie one behind the other."""
        kind = standard_type(dtype)
        if count is not None and not compressed:
            made, chunk = self._dataset(name, kind, (count, *shape)), 0
        else:
            row = max(1, dtype.itemsize * math.prod(shape))
            chunk = max(1, min(CHUNK_BYTES // row, max(1, about if count is None else count)))
            plist = _creation()
            plist.set_chunk((chunk, *(max(1, n) for n in shape)))
            if compressed:
                plist.set_deflate(LEVEL)
            most = (h5py.h5s.UNLIMITED if count is None else count, *shape)
            made = self._dataset(name, kind, (count or 0, *shape), plist, most)
        self._attributes(made, attributes)
        found = NewRows(f"{self._path}, {name!r}", made, dtype, shape, count, chunk, compressed)
        self._open.append(found)
        return found

    def finish(self, some: Collection[NewRows] | None = None) -> None:
        """Write what waits for more rows; of `some` alone, which are complete."""
        for rows in self._open if some is None else some:
            rows.finish()
        left = [] if some is None else [rows for rows in self._open if rows not in set(some)]
        self._open[:] = left

    def flush(self) -> None:
        """Have all of the file written, but for what only closing it writes."""
        with signals_wait():
            self._made(lambda: h5py.h5f.flush(self.handle))

    def _objects(
        self, name: str, shape: tuple[int, ...], values: Sequence[Any], dtype: Any, attributes: dict[str, Any]
    ) -> None:
        made = self._dataset(name, h5py.h5t.py_create(dtype, logical=True), shape)
        given = np.empty(len(values), dtype)
        for place, value in enumerate(values):
            given[place] = value
        if len(values):
            kind = h5py.h5t.py_create(dtype)
            self._made(lambda: made.write(h5py.h5s.ALL, h5py.h5s.ALL, given.reshape(shape), kind))
        self._attributes(made, attributes)

    def _dataset(
        self,
        name: str,
        kind: Any,
        shape: tuple[int, ...],
        plist: Any = None,
        most: tuple[int, ...] | None = None,
    ) -> Any:
        above, _, last = name.rpartition("/")
        owner = self.group(above) if above else self
        plist = _contiguous() if plist is None else plist

        def make() -> Any:
            space = h5py.h5s.create(h5py.h5s.SCALAR) if not shape else h5py.h5s.create_simple(shape, most)
            return h5py.h5d.create(owner.handle, last.encode(), kind, space, plist)

        return self._made(make)

    def _attributes(self, made: Any, attributes: dict[str, Any]) -> None:
        if attributes:
            manager = h5py.AttributeManager(_Owner(made))
            for name, value in attributes.items():
                self._made(lambda name=name, value=value: manager.create(name, value))

    def _made(self, action: Any) -> Any:
        try:
            return action()
        except Exception as error:
            raise _storage(self._path, error) from error


class NewRows:
    """A dataset that rows are appended to."""

    def __init__(
        self,
        where: str,
        handle: Any,
        dtype: np.dtype[Any],
        shape: tuple[int, ...],
        count: int | None,
        chunk: int,
        compressed: bool,
    ) -> None:
        self._where, self.handle, self.dtype, self.shape = where, handle, dtype, shape
        self._count, self._chunk, self._compressed = count, chunk, compressed
        self._waiting = np.zeros((chunk, *shape), dtype) if chunk else None
        self.written = 0
        """Rows so far."""

    def append(self, values: NDArray[Any]) -> None:
        """The next rows, of the dtype that was said. StorageError."""
        assert values.dtype == self.dtype, "values are cast by whoever knows why"
        assert values.shape[1:] == self.shape
        assert self._count is None or self.written + len(values) <= self._count
        try:
            if self._waiting is None:
                self._put(np.ascontiguousarray(values), self.written)
                self.written += len(values)
            else:
                self._collect(values)
        except Exception as error:
            raise _storage(self._where, error) from error

    def _collect(self, values: NDArray[Any]) -> None:
        assert self._waiting is not None
        taken = 0
        while taken < len(values):
            at = self.written % self._chunk
            some = min(self._chunk - at, len(values) - taken)
            self._waiting[at : at + some] = values[taken : taken + some]
            self.written, taken = self.written + some, taken + some
            if self.written % self._chunk == 0:
                self._put_chunk(self.written - self._chunk)

    def _put_chunk(self, start: int) -> None:
        assert self._waiting is not None
        if self._count is None:
            self.handle.set_extent((self.written, *self.shape))
        if not self._waiting.size:
            return
        data = self._waiting.reshape(-1).view(np.uint8)
        stored = deflate(data, LEVEL) if self._compressed else data.tobytes()
        self.handle.write_direct_chunk((start, *(0,) * len(self.shape)), stored)

    def _put(self, values: NDArray[Any], start: int) -> None:
        if not values.size:
            return
        if len(values) == self._count:
            self.handle.write(h5py.h5s.ALL, h5py.h5s.ALL, values, standard_type(self.dtype))
            return
        there, here = self.handle.get_space(), h5py.h5s.create_simple(values.shape)
        there.select_hyperslab((start, *(0,) * len(self.shape)), values.shape)
        self.handle.write(here, there, values, standard_type(self.dtype))

    def finish(self) -> None:
        """Write the last rows. StorageError."""
        if self._waiting is not None and self.written % self._chunk:
            start = self.written // self._chunk * self._chunk
            self._waiting[self.written - start :] = np.zeros((), self.dtype)
            try:
                self._put_chunk(start)
            except Exception as error:
                raise _storage(self._where, error) from error
        assert self._count is None or self.written == self._count, "there are fewer rows than were said"
        self._waiting = None


class _Owner:
    """What attributes are set on, as h5py wants it."""

    def __init__(self, handle: Any) -> None:
        self.id = handle


@functools.cache
def _contiguous() -> Any:
    return _creation()


def _created(path: str) -> Any:
    """A new file, whose rows are written when they are given: what the library puts off it writes when their
    dataset is closed, where nobody hears of a full disk."""
    access, creation = h5py.h5p.create(h5py.h5p.FILE_ACCESS), h5py.h5p.create(h5py.h5p.FILE_CREATE)
    access.set_libver_bounds(*LIBVER)
    access.set_fclose_degree(h5py.h5f.CLOSE_STRONG)
    access.set_file_locking(False, False)
    access.set_sieve_buf_size(0)
    creation.set_obj_track_times(False)
    return h5py.h5f.create(os.fsencode(path), h5py.h5f.ACC_TRUNC, creation, access)


def _creation() -> Any:
    plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plist.set_obj_track_times(False)
    return plist


def _storage(where: str, error: Exception) -> Exception:
    """What goes wrong in writing is the disk, or ours."""
    found = from_library(where, error)
    if isinstance(found, StorageError):
        return found
    told = _ERRNO.search(str(error))  # in the library's words, whatever the kind of the error is
    if code := int(told[1]) if told else getattr(error, "errno", None):
        full = code in (errno.ENOSPC, errno.EDQUOT)
        advice = "make room, or choose another disk" if full else "choose a place that can be written to"
        return StorageError(f"{where} cannot be written: {os.strerror(code)}; {advice}", code)
    if not isinstance(error, OSError):
        return error
    reason = (str(error).splitlines() or [""])[0]
    return StorageError(f"{where} cannot be written ({reason:.200})", error.errno)
