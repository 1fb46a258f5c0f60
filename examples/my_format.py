"""A format of one's own: HDF5 files with `x`, `u`, `r`, `end` and `cut`, as people of control call them.

A package that brings it says in its pyproject.toml

    [project.entry-points."replaystore.formats"]
    flat = "my_format:ENTRY"

and then `replaystore convert data.hdf5 data.zarr` and `rs.convert("a.zarr", "b.hdf5", format="flat")` work.
`replaystore.testing.FormatSuite` tells whether it does all that it should.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import h5py
import numpy as np

import replaystore as rs
from replaystore import errors, formats
from replaystore.registry import Entry

ENTRY = Entry("flat", "my_format:Flat", "a flat HDF5 file", suffixes=(".flat",), magic=(b"\x89HDF",))
NAMES = {"observation": "x", "action": "u", "reward": "r"}
FLAGS = {"terminated": "end", "truncated": "cut"}


class Flat(formats.Format):
    """Such files, as replaystore knows them."""

    example = "data.hdf5"
    limits = ("final observations", "seeds, splits, further fields", "trajectories that were just cut off")

    @contextmanager
    def read(self, path: str) -> Iterator[formats.Source]:
        """The trajectories of a file: they end where `end` or `cut` say so."""
        try:
            with open(path, "rb") as raw, h5py.File(raw, "r") as file:
                data = {mine: file[theirs] for mine, theirs in {**NAMES, **FLAGS}.items()}
                fields = {
                    name: rs.Field(values.dtype, values.shape[1:], name) for name, values in data.items()
                }
                steps = len(data["observation"])
                yield formats.Source(
                    rs.Schema(fields), lambda most: blocks(data, most // width(fields)), steps=steps
                )
        except FileNotFoundError:
            raise errors.NotFoundError(f"{path} does not exist: check the path") from None
        except (OSError, KeyError, ValueError, TypeError, RuntimeError, AttributeError) as error:
            raise errors.FormatError(f"{path} is no flat HDF5 file, or damaged: {error}") from error

    def plan(self, buffer: formats.BufferReader, path: str, options: formats.Options) -> formats.Report:
        """What would become of a buffer: `replaystore convert --dry-run` prints it."""
        chosen = formats.chosen_fields(buffer, options)
        if missing := {*NAMES, *FLAGS} - set(chosen):
            raise errors.UnsupportedError(f"{path}: a flat file needs {', '.join(sorted(missing))}")
        fields = {name: formats.KEPT if name in {**NAMES, **FLAGS} else formats.lost() for name in chosen}
        rest = formats.beside_fields(buffer, options, holds=(), fields=chosen)
        cut = ~(buffer.trajectories.terminated | buffer.trajectories.truncated)
        if cut.any():
            fields["truncated"] = formats.changed("so are those that were only cut off")
        steps, trajectories = formats.planned_counts(buffer, options)
        return formats.Report(steps, trajectories, fields, rest)

    def write(self, buffer: formats.BufferReader, path: str, options: formats.Options) -> formats.Report:
        """All trajectories, one behind the other."""
        report = self.plan(buffer, path, options)
        formats.refuse_losses(report.fields, report.rest, path, strict=options.strict)
        with (
            formats.NewFiles([path], overwrite=options.overwrite) as new,
            h5py.File(new.files[0], "w") as file,
        ):
            fill(file, buffer, options)
        return report


def fill(file: h5py.File, buffer: formats.BufferReader, options: formats.Options) -> None:
    """Write the datasets."""
    data = {}
    for mine, theirs in {**NAMES, **FLAGS}.items():
        declared = buffer.schema.fields[mine]
        shape = (0, *declared.shape)
        data[mine] = file.create_dataset(
            theirs, shape, declared.dtype, maxshape=(None, *shape[1:]), chunks=True
        )
    row_bytes, steps = width(buffer.schema.fields), 0
    for block in formats.blocks_of(buffer, options):
        columns = dict(block.columns)
        if block.ends and not (block.terminated or block.truncated):
            columns["truncated"] = np.append(columns["truncated"][:-1], True)
        for name, values in data.items():
            values.resize(steps + len(block), 0)
            values[steps:] = columns[name]
        steps += len(block)
        if options.progress is not None:
            options.progress(steps * row_bytes, len(buffer) * row_bytes)


def blocks(data: dict[str, h5py.Dataset], most: int) -> Iterator[formats.Block]:
    """The steps of a file, in blocks of at most so many."""
    ends = data["terminated"][:] | data["truncated"][:]
    ends[-1:] = True
    begin = 0
    for end in np.flatnonzero(ends) + 1:
        for start in range(begin, end, max(1, most)):
            stop = min(start + max(1, most), end)
            columns = {name: values[start:stop] for name, values in data.items()}
            yield formats.Block(columns, begins=start == begin, ends=stop == end)
        begin = end


def width(fields: Mapping[str, rs.Field]) -> int:
    """Bytes of a step."""
    return sum(declared.row_bytes for declared in fields.values())
