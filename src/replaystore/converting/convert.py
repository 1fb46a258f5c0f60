"""Convert a buffer: to another container or layout, a part of it, or to and from a file of other software.

1. The source is only read. The target appears under its name when it is complete and durable, or not at all.
   (A buffer of durability "none" makes one that is not synced either.)
2. What is not changed on purpose is the same bit for bit; what a file cannot hold is said.
3. A few blocks of rows are in memory at a time, however large the buffer is; tables are whole.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterable, Iterator
from typing import Literal

from replaystore import not_stores
from replaystore.buffers.buffer import Buffer
from replaystore.buffers.create_open import open as open_buffer
from replaystore.buffers.making import make
from replaystore.buffers.replacing import Replacement
from replaystore.containers.codecs import parse_codec
from replaystore.containers.located import same
from replaystore.converting.apart import check_apart
from replaystore.converting.exports import export
from replaystore.converting.foreign import Told
from replaystore.converting.imports import bring
from replaystore.converting.options import How, Selected
from replaystore.converting.placing import between, tidy
from replaystore.converting.stores import Conversion
from replaystore.errors import (
    ArgumentError,
    FormatError,
    ReplayStoreError,
    SchemaError,
    UnsupportedError,
)
from replaystore.formats import finding
from replaystore.formats.options import Progress
from replaystore.formats.report import Report, composed
from replaystore.interrupts import as_storage_errors
from replaystore.location import Location, expanded, parse
from replaystore.registry import broken, registered
from replaystore.registry.recognizing import recognizes

__all__ = ["Progress", "Report", "convert", "opened"]

Place = str | os.PathLike[str] | Location


def convert(
    source: Place | Buffer,
    target: Place,
    *,
    format: str | None = None,  # noqa: A002  # what everybody calls it
    source_format: str | None = None,
    target_format: str | None = None,
    fields: Iterable[str] | None = None,
    split: str | None = None,
    where: str | None = None,
    codec: str | None = None,
    layout: Literal["live", "archive"] | None = None,
    grouped: bool | None = None,
    overwrite: bool = False,
    strict: bool = False,
    progress: Progress | None = None,
    dry_run: bool = False,
    proof: bool = True,
) -> Report:
    """Write a buffer, or a part of it, to a new place; or a file of other software to a new store, or a store
    to such a file.

    Whose file it is, is told by `format`, else by its content, else by its suffix; `replaystore formats`
    lists what is known.

    Without `split` and `where` trajectories keep their order and numbers, and rows too unless they are
    `grouped`; all else is carried over: parts, splits, final observations, columns of the user's, open
    trajectories (which can be continued in the target), metadata, environment. A ring is written as its
    window.

    Args:
        source: a location, or an open buffer (its last commit is converted).
        target: a location; "a.zarr.zip" makes a zip file, which is read in place.
        format: the format of whichever is a file of other software: the source, or else the target.
        source_format, target_format: the same, where both are.
        fields: names, or beginnings of paths ("observation"); None for all.
        split, where: only these trajectories, as `trajectories.where` selects them: in the order of the
            table, each as one run of rows. They keep their numbers; those still open are cut off.
        codec: "raw", "zstd:LEVEL" or "gzip:LEVEL" for all fields that are coded. By default as they are;
            where a field has the default codec of its container, it gets that of the target's (Zarr zstd:1,
            HDF5 gzip:1, which all software reads; gzip:3 in an archive).
        layout: "live" or "archive" (all fields coded in large chunks, sealed, with a manifest): all fields
            are stored as that layout has it. None: as they are in the source.
        grouped: whether rows of environments that took turns are laid trajectory by trajectory, in windows of
            64 MB of the widest field: they get other numbers, and fragments and frames are read from fewer
            chunks, which take less room. By default for layout="archive", unless the store was a ring of
            other software, the places of whose rows are known.
        overwrite: replace a store that is there, or a file of the same format.
        strict: refuse what would not be exact. Without it, the report says what was changed, lost or made up.
        progress: called with (bytes done, bytes in all) after each block; an exception from it ends the
        conversion.
        dry_run: make nothing, and report what a conversion would do: what it would keep, derive, change, lose
            and make up. Errors of casts are not measured, and how many steps a file has is only known where
            it says so. From one file to another there is a store in a temporary folder meanwhile.
        proof: read both sides again in the end, and compare the digests of what is kept; the report has what
            was compared, and what could not be.

    Raises:
        NotFoundError, FormatError, CorruptError: the source cannot be read, or its rows have changed since
        they were committed. AlreadyExistsError, SchemaError, UnsupportedError, StorageError: the target
        cannot be made. There is none then.
    """
    source, target = expanded(source), expanded(target)
    with as_storage_errors(f"{source} cannot be converted to {target}"):
        if codec is not None and codec != "raw":
            codec = ":".join(map(str, parse_codec(codec)))
        named = _Named(format, source_format, target_format)
        from_, to = named.source_of(source), named.target_of(target)
        selected = Selected(fields, split, where)
        told = None if progress is None else Told(progress)
        how = How(
            codec,
            layout,
            overwrite=overwrite,
            strict=strict,
            progress=told,
            grouped=grouped,
            dry_run=dry_run,
            proof=proof,
        )
        if to is not None and (codec is not None or layout is not None):
            raise SchemaError(
                f"{target} is a file of {to}, which has neither codecs nor layouts: leave codec= (--codec) "
                "and layout= (--layout) out"
            )
        if grouped is not None and (
            from_ is not None or to is not None or split is not None or where is not None
        ):
            raise SchemaError(
                "grouped= (--grouped or --as-recorded) says how rows of whole stores lie; those of files of "
                "other software lie as they are given, and chosen trajectories side by side: leave it out"
            )
        check_apart(source, from_, target, overwrite=overwrite)
        if not dry_run:
            tidy(target)
        if from_ is not None and to is not None:
            return _through_a_store(_path(source), from_, _path(target), to, selected, how, named)
        if from_ is not None:
            if selected:
                raise UnsupportedError(
                    f"{source} can only be converted to a store as a whole: do that first, "
                    "and then select from the store"
                )
            return bring(_path(source), from_, parse(target), how)
        with _opened_known(source) as buffer:
            _check_hidden(buffer, selected)
            if to is not None:
                return export(buffer, _path(target), to, selected, how, named=named.target is not None)
            return _store_to_store(buffer, _place(target), selected, how)


def _check_hidden(buffer: Buffer, selected: Selected) -> None:
    """UnsupportedError: a field would be lost, since this version cannot show it."""
    name, word = next(iter(buffer.document.hidden.items()), (None, None))
    if name is not None and selected.fields is None:
        raise UnsupportedError(
            f"{buffer.where}: field {name!r} needs {word!r:.80}, which this replaystore does not know: "
            "upgrade it to convert all, or name the fields to convert"
        )


@contextlib.contextmanager
def _opened_known(source: Place | Buffer) -> Iterator[Buffer]:
    """As `opened`; the message for a file that nobody knows lists what is known."""
    if isinstance(source, str | os.PathLike) and os.path.isfile(source):
        try:
            parse(source)
        except (SchemaError, FormatError) as error:
            if not_stores.of_format(os.fspath(source)):
                raise  # it has been said what it is
            raise type(error)(
                f"{error}; or say with source_format= (--from) of which format it is: {_formats('reads')}"
            ) from None
    with opened(source) as buffer:
        yield buffer


def _place(target: Place) -> Location:
    """Where the new store is to be; the message for a name that says nothing lists the formats, too."""
    try:
        return parse(target)
    except ArgumentError as error:
        if not isinstance(target, str | os.PathLike) or not str(target).strip() or os.path.lexists(target):
            raise
        raise ArgumentError(
            f"{error}; or say with target_format= (--to) which format the file is to have: "
            f"{_formats('writes')}"
        ) from None


def _formats(way: finding.Way) -> str:
    return "; ".join([", ".join(finding.able(way)), *broken("formats").values()])


def _store_to_store(buffer: Buffer, place: Location, selected: Selected, how: How) -> Report:
    begin = time.perf_counter()
    if same(buffer.whereabouts, place):
        raise SchemaError(f"{place} is the source itself: choose another target")
    job = Conversion(buffer, place, selected, how)
    if how.dry_run:
        Replacement.check(place, overwrite=how.overwrite)
        return job.planned(time.perf_counter() - begin)
    make(place, job, overwrite=how.overwrite, prove=job.prove if how.proof else None)
    return job.report(time.perf_counter() - begin)


def _through_a_store(
    source: str, from_: str, target: str, to: str, selected: Selected, how: How, named: _Named
) -> Report:
    """A file becomes a store, which becomes the other file."""
    with between("" if how.dry_run else target) as folder:
        place = parse(os.path.join(folder, "buffer.zarr"))
        first = bring(source, from_, place, How(strict=how.strict, proof=how.proof))
        with opened(place) as buffer:
            second = export(buffer, target, to, selected, how, named=named.target is not None)
    return composed(first, second)


class _Named:
    """What the user says is a file of other software."""

    def __init__(self, either: str | None, source: str | None, target: str | None) -> None:
        if either is not None and (source is not None or target is not None):
            raise SchemaError(
                "format is that of one side, source_format and target_format of each: give either"
            )
        ways: tuple[finding.Way | None, ...] = (None, "reads", "writes")
        for name, way in zip((either, source, target), ways, strict=True):
            if name is not None:
                _check_name(name)
                finding.named(name, way)
        self.either, self.source, self.target = either, source, target

    def source_of(self, source: Place | Buffer) -> str | None:
        """The format of the source; None: it is a store."""
        if isinstance(source, Buffer | Location):
            return None
        if self.either is None:
            return self.source or finding.find(source)
        if recognizes(self.either, _path(source)) or not _is_store(source):
            self.source = self.either
            return self.source
        return None

    def target_of(self, target: Place) -> str | None:
        """The format of the target; None: it is to be a store."""
        if isinstance(target, Location):
            return None
        if self.either is not None and self.source is None:
            self.target = self.either
        return self.target or finding.find_target(target)


def _check_name(name: object) -> None:
    """ArgumentError: it is no name, or that of a container: stores need no format, and have names that say
    what they are."""
    if not isinstance(name, str):
        raise ArgumentError(f"a format is given by its name, not as {type(name).__name__} {name!r:.80}")
    known = registered("containers").get(name)
    if known is not None and known.name not in registered("formats"):
        suffixes = " or ".join(known.suffixes)
        raise ArgumentError(
            f"{name!r} is no format of other software, but what stores lie in: leave it out, and give the "
            f"store a name that ends in {suffixes}"
        )


def _is_store(location: Place) -> bool:
    try:
        with opened(location):
            return True
    except ReplayStoreError:
        return False


def _path(location: object) -> str:
    """A path. SchemaError: it is none."""
    try:
        path = os.fspath(location)  # type: ignore[call-overload]  # it says so itself
    except TypeError:
        path = None
    if not isinstance(path, str):
        raise SchemaError(f"a file of other software is named by a path, not by {location!r:.80}")
    return path


@contextlib.contextmanager
def opened(source: Place | Buffer) -> Iterator[Buffer]:
    """The buffer at a location, closed in the end; an open one is left open."""
    if isinstance(source, Buffer):
        yield source
        return
    buffer = open_buffer(source)
    try:
        yield buffer
    finally:
        buffer.close()
