"""A format that keeps everything a format can keep, and liars that are made of it: what the matrix must let
pass, and what it must catch."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np

from replaystore.errors import FormatError, NotFoundError
from replaystore.formats.blocks import beside_fields, blocks_of, chosen_fields
from replaystore.formats.format import Format
from replaystore.formats.options import Options
from replaystore.formats.report import KEPT, Report, lost, refuse_losses
from replaystore.formats.shared.new_files import NewFiles
from replaystore.formats.source import Block, Source
from replaystore.trajectories.columns import TRAJECTORIES
from replaystore.views.reader import BufferReader

__all__ = ["LIARS", "Held"]

_HELD: dict[str, tuple[Source, list[Block]]] = {}
_HOLDS = ("env", "seed", "split", "final_observation", "metadata", "environment", "terminated", "truncated")


class Held(Format):
    """Blocks that are held in this process; the file says which."""

    example, ragged = "file.held", True

    @contextmanager
    def read(self, path: str) -> Iterator[Source]:
        """What was written there."""
        try:
            with open(path, encoding="utf-8") as file:
                source, blocks = _HELD[file.read(64)]
        except FileNotFoundError:
            raise NotFoundError(f"{path} does not exist: check the path") from None
        except (KeyError, UnicodeDecodeError, IsADirectoryError):
            raise FormatError(f"{path} is not held") from None
        yield replace(source, blocks=lambda _: iter([self.told(block) for block in blocks]))

    def write(self, buffer: BufferReader, path: str, options: Options) -> Report:
        """Hold all blocks."""
        chosen = chosen_fields(buffer, options)
        user = {
            name: column.dtype
            for name, column in buffer.trajectories.columns.items()
            if name not in TRAJECTORIES and name != "open"
        }
        fields = dict.fromkeys(chosen, KEPT)
        rest = beside_fields(buffer, options, holds={*_HOLDS, *user}, fields=chosen)
        refuse_losses(fields, rest, path, strict=options.strict)
        if bool(np.any(buffer.trajectories.open)):  # they come last in the table, and are read as cut off
            rest["open"] = lost("they are cut off")
        blocks = [replace(block, columns=dict(block.columns)) for block in blocks_of(buffer, options)]
        key = uuid.uuid4().hex
        _HELD[key] = self.held(buffer, chosen, user), blocks
        with NewFiles([path], overwrite=options.overwrite) as new:
            new.files[0].write(key.encode())
        return Report(sum(map(len, blocks)), sum(b.ends for b in blocks), fields, rest)

    @staticmethod
    def held(buffer: BufferReader, chosen: list[str], user: Mapping[str, Any]) -> Source:
        """What is said of the whole."""
        return Source(
            buffer.schema.select(chosen),
            lambda _: iter(()),
            environment=buffer.environment,
            metadata=buffer.document.user,
            columns=user,
        )

    def told(self, block: Block) -> Block:
        """A block as it is read."""
        return block


class _OneValue(Held):
    """Changes the last bit of an action, of each trajectory that is not the first of its environment."""

    def told(self, block: Block) -> Block:
        name = next(name for name in block.columns if name.startswith("action"))
        values = np.array(block.columns[name])
        values[-1:].view(np.uint8)[..., :1] ^= block.seed >= 0
        return replace(block, columns={**block.columns, name: values})


class _Seeds(Held):
    """Forgets seeds."""

    def told(self, block: Block) -> Block:
        return replace(block, seed=-1)


class _Finals(Held):
    """Forgets what was observed last."""

    def told(self, block: Block) -> Block:
        return replace(block, final=None)


class _Ends(Held):
    """Has trajectories that were both terminated and truncated end in one way."""

    def told(self, block: Block) -> Block:
        if not (block.ends and block.terminated and block.truncated):
            return block
        columns = dict(block.columns)
        for name in columns.keys() & {"truncated"}:
            columns[name] = np.append(columns[name][:-1], False)
        return replace(block, columns=columns, truncated=False)


class _Misses(Held):
    """Says that it loses splits, and keeps them."""

    def write(self, buffer: BufferReader, path: str, options: Options) -> Report:
        report = super().write(buffer, path, options)
        return replace(report, rest={**report.rest, "split": lost("says it")})


class _Silent(Held):
    """Keeps no columns of the user's, and says nothing of it."""

    @staticmethod
    def held(buffer: BufferReader, chosen: list[str], user: Mapping[str, Any]) -> Source:
        return replace(Held.held(buffer, chosen, user), columns={})

    def told(self, block: Block) -> Block:
        return replace(block, row={})


class _Narrow(Held):
    """Reads rewards as float16, and says nothing of it."""

    @staticmethod
    def held(buffer: BufferReader, chosen: list[str], user: Mapping[str, Any]) -> Source:
        source, reward = Held.held(buffer, chosen, user), buffer.schema.fields["reward"]
        fields = {**source.schema.fields, "reward": replace(reward, dtype=np.dtype(np.float16))}
        return replace(source, schema=replace_fields(source, fields))

    def told(self, block: Block) -> Block:
        with np.errstate(all="ignore"):
            reward = np.asarray(block.columns["reward"]).astype(np.float16)
        return replace(block, columns={**block.columns, "reward": reward})


def replace_fields(source: Source, fields: Mapping[str, Any]) -> Any:
    """Its schema with other fields."""
    schema = source.schema
    return type(schema)(fields, schema.tuples, schema.graphs)


LIARS: dict[str, Callable[[], Held]] = {
    "one value is another": _OneValue,
    "seeds are forgotten": _Seeds,
    "final observations are forgotten": _Finals,
    "both ends become one": _Ends,
    "what is kept is said to be lost": _Misses,
    "columns of the user's are forgotten": _Silent,
    "rewards are narrowed": _Narrow,
}
