"""Out of a store: into a new file of other software.

What the file holds is decided before it is begun, and so is whether that is exact enough.
"""

from __future__ import annotations

import contextlib
import fnmatch
import os
import time
from collections.abc import Iterable
from dataclasses import replace

from replaystore.buffers.buffer import Buffer
from replaystore.converting.excerpt import chosen
from replaystore.converting.foreign import blamed
from replaystore.converting.options import How, Selected
from replaystore.converting.placing import made_beside
from replaystore.converting.proof import prove_file
from replaystore.errors import AlreadyExistsError, UnsupportedError
from replaystore.formats import finding
from replaystore.formats.format import Format
from replaystore.formats.options import Options
from replaystore.formats.report import Fate, Report, lost, refuse_losses, unseen
from replaystore.registry import entry
from replaystore.registry.recognizing import recognizes
from replaystore.schema.names import listed

__all__ = ["export"]


def export(
    buffer: Buffer,
    path: str,
    name: str,
    selected: Selected,
    how: How,
    *,
    named: bool,
) -> Report:
    """Write a buffer, or a part of it, to a file of the format of this name. `named`: whether the user chose
    it, and not only the suffix."""
    begin, kind, format_ = time.perf_counter(), entry("formats", name), finding.named(name)
    if not format_.writes():
        others = f", of {', '.join(finding.able('writes'))}" if named else ""
        raise UnsupportedError(f"{path}: {kind.what or name} can only be read: choose another target{others}")
    example = f", such as {os.path.join(path, format_.example)}" if format_.example else ""
    if os.path.isdir(path) and not format_.folder:
        raise AlreadyExistsError(f"{path} is a folder: name the file{example}")
    if how.overwrite and os.path.lexists(path):
        _check_replaced(path, name, format_)
    trajectories = None
    if selected.split is not None or selected.where is not None:
        trajectories = chosen(buffer, selected.where, selected.split)
    names, left_out = _fields_for(buffer, path, format_, kind.what or name, selected)
    refuse_losses(left_out, {}, path, strict=how.strict)
    options = Options(trajectories, names, strict=how.strict, overwrite=how.overwrite, progress=how.progress)
    if how.dry_run and not how.overwrite:
        refuse_what_is_there(format_.written(path))
    with contextlib.ExitStack() as stack:
        at = path
        if how.proof and not how.dry_run:
            at = stack.enter_context(made_beside(path, format_, overwrite=how.overwrite))
            options = replace(options, place=path)
        with blamed(name, path, how.progress):
            written = (format_.plan if how.dry_run else format_.write)(buffer, at, options)
            if not isinstance(written, Report):
                raise TypeError(f"what became of the buffer is a Report, not {written!r:.80}")
        if how.proof and not how.dry_run:
            written = replace(written, proof=prove_file(buffer, format_, name, at, options, written))
    remarks = list(written.remarks)
    if not named and os.path.basename(path) != format_.example:
        remarks.insert(0, f"written as {kind.what or name}, because of the suffix; name a store .zarr or .h5")
    waiting = buffer.rows_recorded - buffer.first_row - len(buffer) if buffer.mode == "r+" else 0
    if waiting:
        remarks.append(f"{waiting} steps that are not committed are not in it")
    report = replace(
        written,
        fields={**written.fields, **left_out, **unseen(buffer.document.hidden)},
        source=buffer.where,
        target=path,
        remarks=remarks,
        seconds=round(time.perf_counter() - begin, 3),
        dry_run=how.dry_run,
    )
    if how.dry_run:
        refuse_losses(report.fields, report.rest, path, strict=how.strict)
        return report
    return replace(
        report,
        bytes_read=sum(_bytes_of(buffer, name) for name in buffer.schema.fields if name not in left_out),
        bytes_written=sum(_size(file) for file in format_.written(path)),
        recoded=sorted(
            name for name in buffer.schema.fields if name not in left_out and _is_there(written, name)
        ),
    )


def _check_replaced(path: str, name: str, format_: Format) -> None:
    """AlreadyExistsError: what is to be replaced is no such file, or a folder in which more lies."""
    if not recognizes(name, path):
        raise AlreadyExistsError(
            f"{path} is something else than {entry('formats', name).what or f'a file of {name}'}, and is not "
            "replaced: move it away, or choose another name"
        )
    if not os.path.isdir(path) or not format_.holds:
        return
    others = sorted(
        name
        for name in os.listdir(path)
        if not any(fnmatch.fnmatchcase(name, pattern) for pattern in format_.holds)
    )
    if others:
        raise AlreadyExistsError(
            f"{path} is not replaced, because more than the data lies in it, and would be gone "
            f"({listed(others)}): move that away, or choose another name"
        )


def refuse_what_is_there(paths: Iterable[str]) -> None:
    """AlreadyExistsError: one of these is there."""
    for path in paths:
        if os.path.lexists(path):
            raise AlreadyExistsError(
                f"{path} exists: choose another name, or pass overwrite=True (--overwrite)"
            )


def _fields_for(
    buffer: Buffer, path: str, format_: Format, what: str, selected: Selected
) -> tuple[tuple[str, ...] | None, dict[str, Fate]]:
    """The fields that a format is asked to write, and what it cannot hold of those that were chosen.
    UnsupportedError: it can hold none of them, or nothing of the observations or actions."""
    fields = selected.fields
    names = None if fields is None else tuple([fields] if isinstance(fields, str) else fields)
    if format_.ragged or not buffer.schema.ragged:
        return names, {}
    schema = buffer.schema if names is None else buffer.schema.select(names)
    left_out = {name: lost("values of any length") for name in schema.ragged}
    names = tuple(name for name in schema.fields if name not in left_out) if left_out else names
    bare = [
        name
        for role in ("observation", "action")
        if (of_role := schema.names(role)) and left_out.keys() >= set(of_role)
        for name in of_role
    ]
    if bare or names == ():
        raise UnsupportedError(
            f"{path}: {what} cannot hold values of any length, as those of {listed(bare or left_out)} are: "
            "convert it to a store, name.zarr or name.h5"
        )
    return names, left_out


def _bytes_of(buffer: Buffer, name: str) -> int:
    """What the steps of a field take, and their values."""
    size = len(buffer) * buffer.schema.fields[name].row_bytes
    if name in buffer.schema.ragged:
        values = buffer.values_of(name)
        size += (values.column.stop - values.first) * values.column.row_bytes
    return size


def _size(path: str) -> int:
    """Bytes of a file, or of all files in a folder."""
    if not os.path.isdir(path):
        return os.path.getsize(path)
    return sum(
        os.path.getsize(os.path.join(folder, name)) for folder, _, names in os.walk(path) for name in names
    )


def _is_there(report: Report, name: str) -> bool:
    fate = report.fields.get(name)
    return fate is None or fate.kind in ("kept", "changed")
