"""The replay buffers of TorchRL, as files: `ReplayBuffer.dumps` in all its layouts, and tensordicts in
folders, `.tdz`, consolidated files, HDF5 and Zarr. A checkpoint is written that `ReplayBuffer.loads` opens.

naming.py says which tensor becomes which field, grids.py where rows lie, ends.py where trajectories end.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from typing import Any

import numpy as np

from replaystore.errors import FormatError, ReplayStoreError, SchemaError
from replaystore.formats.format import Format
from replaystore.formats.options import Options
from replaystore.formats.report import Fate, Report, lost, made_up, refuse_losses
from replaystore.formats.shared.chosen import Chosen
from replaystore.formats.shared.kept import Kept
from replaystore.formats.shared.new_folder import NewFolder
from replaystore.formats.shared.zarr.kept import kept_beside
from replaystore.formats.source import Block, Source
from replaystore.formats.torchrl import export
from replaystore.formats.torchrl.ends import Looked, look
from replaystore.formats.torchrl.grids import Held
from replaystore.formats.torchrl.naming import Naming, Taken, named
from replaystore.formats.torchrl.opening import Opened, is_buffer, opened_buffer
from replaystore.formats.torchrl.steps import Steps
from replaystore.views.reader import BufferReader

__all__ = ["TorchRL"]


class TorchRL(Format):
    """Such buffers, as replaystore knows them."""

    example = "replay_buffer"
    limits = (
        "seeds, splits and the like: they lie beside it, where TorchRL does not look",
        "steps of no trajectory",
        "values of any length",
    )
    folder = True
    holds = ("*.json", "*.pkl", "*.t", "replaystore", "rng_state", "sampler", "storage", "writer")

    def recognizes(self, path: str) -> bool:
        """By what its metadata say."""
        try:
            return is_buffer(path)
        except (ReplayStoreError, OSError):
            return False

    def read(self, path: str) -> AbstractContextManager[Source]:
        """The transitions, trajectory by trajectory."""
        return _read(path)

    def plan(self, buffer: BufferReader, path: str, options: Options) -> Report:
        """All fields are kept; what TorchRL has no place for lies beside them."""
        chosen = Chosen(buffer, options)
        report, observed = chosen.report(), chosen.observations()
        if observed and (unknown := export.unknown_finals(buffer, options)):
            what = f"0 after {unknown} trajectories, of which nobody knows what was observed then"
            after = {f"next/{name}": made_up(what) for name in observed}
            report = replace(report, fields={**report.fields, **after})
        capacity = export.capacity_of(buffer, options)
        opens = f"ReplayBuffer(storage=LazyMemmapStorage({capacity})).loads(path) opens it"
        report.remarks.append(f"{opens}, with batches of {export.BATCH_SIZE}")
        return report

    def write(self, buffer: BufferReader, path: str, options: Options) -> Report:
        """The folder that `ReplayBuffer.dumps` makes."""
        report = self.plan(buffer, path, options)
        refuse_losses(report.fields, report.rest, path, strict=options.strict)
        with NewFolder(path, overwrite=options.overwrite) as new:
            export.fill(new.root, buffer, options)
        return report


@contextmanager
def _read(path: str) -> Iterator[Source]:
    with opened_buffer(path) as opened:
        try:
            yield _source(opened)
        except SchemaError as error:
            raise FormatError(f"{path}: {error}") from error


def _source(opened: Opened) -> Source:
    held = opened.held
    if not held.columns and not held.pairs:
        raise FormatError(f"{held.where}: there are no tensors of transitions in it")
    remarks, rest = held.remarks, dict(opened.rest)
    rest |= {name: lost(why) for name, why in held.lost.items()}
    found = _kept(opened)
    if found is not None:
        naming, looked, kept = found
        return kept.source(Steps(held, naming, looked, kept).blocks, remarks)
    naming = named(held)
    looked = look(held, naming)
    if looked.keep or not looked.shifted:
        naming = named(held, keep=looked.keep, shifted=looked.shifted)
    return _plain(opened, naming, looked, rest)


def _plain(opened: Opened, naming: Naming, looked: Looked, rest: dict[str, Fate]) -> Source:
    """What TorchRL wrote, or we wrote and it has gone on with."""
    held = opened.held
    steps = Steps(held, naming, looked, None)
    if looked.cut:
        rest["open"] = lost(f"{looked.cut} trajectories go on where the buffer does: they are cut off")
    if not looked.shifted:
        held.remarks.append(
            "what follows steps is not the observation of the next one, as where several steps are one: it "
            "is kept as further fields"
        )
    for name, taken in naming.taken.items():
        if name == "reward" and _width(held, taken) == (1,):
            held.remarks.append("reward is one number a step: its last axis, of one number, is left out")

    def blocks(most: int) -> Iterator[Block]:
        yield from steps.blocks(most)
        if steps.cuts:
            held.remarks.append(
                f"{steps.cuts} trajectories were cut where something else followed than the next row has"
            )

    keys = {
        name: "/".join(("next", *taken.key) if taken.after else taken.key)
        for name, taken in naming.taken.items()
    }
    return Source(
        naming.schema,
        blocks,
        columns={} if naming.ids is None else {"traj_ids": np.dtype("<i8")},
        steps=held.steps,
        trajectories=looked.trajectories,
        details={**opened.details, "keys": keys},
        rest=rest,
        remarks=held.remarks,
    )


def _width(held: Held, taken: Taken) -> tuple[int, ...]:
    rows = held.columns.get(taken.key) or held.pairs[taken.key][0]
    return rows.shape


def _kept(opened: Opened) -> tuple[Naming, Looked, Kept] | None:
    """What we wrote beside it, if it is there, and of these rows."""
    held, beside = opened.held, opened.beside
    if beside is None or held.compact or len(held.grids) != 1 or held.grids[0].lanes != 1:
        return None
    plain = named(held)
    if plain.ids is None:
        return None
    looked = look(held, plain, by_number=True)
    found = kept_beside(beside, looked.runs[0][0].lengths)
    if isinstance(found, str):
        held.remarks.append(found)
    if not isinstance(found, Kept):
        return None
    naming = _as_kept(held, plain, found)
    if naming is None:
        held.remarks.append("the tensors are not those that replaystore wrote: they are taken as they are")
        return None
    return naming, looked, found


def _as_kept(held: Held, plain: Naming, kept: Kept) -> Naming | None:
    """Where the fields come from that we wrote; None: the tensors are others."""
    keys: Any = kept.places
    if not isinstance(keys, dict) or keys.keys() != kept.schema.fields.keys():
        return None
    naming = replace(plain, fields=dict(kept.schema.fields), taken={}, observed={}, flags={})
    for name, declared in kept.schema.fields.items():
        told = keys[name]
        key = tuple(map(str, told)) if isinstance(told, list) else ()
        rows = held.pairs[key][0] if key in held.pairs else held.columns.get(key)
        if rows is None or rows.dtype != declared.dtype or rows.shape not in (declared.shape, (1,)):
            return None
        if rows.shape != declared.shape and declared.shape:
            return None
        if declared.role in ("terminated", "truncated"):
            naming.flags[name] = key
        else:
            naming.taken[name] = Taken(key)
        if key in held.pairs:
            naming.observed[name] = key
    return naming
