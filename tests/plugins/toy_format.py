"""A format of a stranger: each block of steps as a line of JSON, and the bytes of its arrays behind it."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from replaystore import Ragged, errors, formats
from replaystore.registry import Entry
from replaystore.schema import Field, Schema

ENTRY = Entry("toy", "toy_format:Toy", "a file of the toy", suffixes=(".toy",), magic=(b'{"toy"',))
HELD = ("env", "seed", "split", "final_observation", "metadata", "terminated", "truncated")


class Toy(formats.Format):
    example, limits = "buffer.toy", ("rows of no trajectory", "the environment")
    ragged = True

    @contextmanager
    def read(self, path: str) -> Iterator[formats.Source]:
        try:
            with open(path, "rb") as file:
                head = json.loads(file.readline())
                schema = Schema.from_json(head["toy"])

                def blocks(max_bytes: int) -> Iterator[formats.Block]:
                    while line := file.readline():
                        said = json.loads(line)
                        count, final = said.pop("steps"), said.pop("final")
                        columns = {name: take(name, count) for name in schema.fields}
                        names = schema.names("observation") if final else ()
                        seen = {name: take(name, 1)[0] for name in names} or None
                        yield formats.Block(columns, final=seen, **said)

                def take(name: str, count: int) -> Any:
                    declared = schema.fields[name]
                    shape = (count, *declared.shape)
                    if declared.ragged:
                        offsets = np.append(0, np.cumsum(numbers(count, np.dtype("i8"), (count,))))
                        values = numbers(int(offsets[-1]), declared.dtype, (-1, *declared.inner))
                        return Ragged(values, offsets, text=declared.text)
                    return numbers(count, declared.dtype, shape)

                def numbers(count: int, dtype: np.dtype, shape: tuple[int, ...]) -> np.ndarray:
                    size = count * dtype.itemsize * math.prod(shape[1:])
                    if not 0 <= size < 1 << 30:
                        raise ValueError(f"{size} bytes")
                    return np.frombuffer(file.read(size), dtype).reshape(shape)

                yield formats.Source(schema, blocks, metadata=head["metadata"], steps=head["steps"])
        except FileNotFoundError:
            raise errors.NotFoundError(f"{path} does not exist") from None
        except (ValueError, KeyError, TypeError) as error:
            raise errors.FormatError(f"{path} is no file of the toy, or damaged: {error}") from error

    def plan(self, buffer: formats.BufferReader, path: str, options: formats.Options) -> formats.Report:
        names = formats.chosen_fields(buffer, options)
        rest = formats.beside_fields(buffer, options, holds=HELD, fields=names)
        counts = formats.planned_counts(buffer, options)
        return formats.Report(*counts, dict.fromkeys(names, formats.KEPT), rest)

    def write(self, buffer: formats.BufferReader, path: str, options: formats.Options) -> formats.Report:
        report = self.plan(buffer, path, options)
        formats.refuse_losses(report.fields, report.rest, path, strict=options.strict)
        names = formats.chosen_fields(buffer, options)
        schema = buffer.schema.select(names)
        width = sum(declared.row_bytes for declared in schema.fields.values())
        head = {"toy": schema.to_json(), "metadata": dict(buffer.metadata), "steps": len(buffer)}
        steps = 0
        with formats.NewFiles([path], overwrite=options.overwrite) as new:
            new.files[0].write(json.dumps(head).encode() + b"\n")
            for block in formats.blocks_of(buffer, options, 1 << 16):
                said = {name: getattr(block, name) for name in ("env", "begins", "ends", "seed", "split")}
                if "terminated" not in schema.fields:
                    said |= {"terminated": block.terminated, "truncated": block.truncated}
                said |= {"steps": len(block), "final": block.final is not None}
                arrays = [block.columns[name] for name in names]
                arrays += [one(schema.fields[name], value) for name, value in (block.final or {}).items()]
                data = b"".join(as_bytes(array) for array in arrays)
                new.files[0].write(json.dumps(said).encode() + b"\n" + data)
                steps += len(block)
                if options.progress is not None:
                    options.progress(steps * width, len(buffer) * width)
        return report


def one(declared: Field, value: Any) -> Any:
    """A final observation as rows of its field."""
    if declared.ragged:
        return Ragged(value, np.array([0, len(value)]), text=declared.text)
    return value


def as_bytes(rows: Any) -> bytes:
    """Of values of any length, their lengths before them."""
    if isinstance(rows, Ragged):
        return rows.lengths.tobytes() + rows.compact().values.tobytes()
    return np.ascontiguousarray(rows).tobytes()
