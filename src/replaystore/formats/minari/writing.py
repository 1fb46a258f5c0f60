"""New datasets: the steps of a buffer, one trajectory after another, as episodes of whatever container."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
from numpy.typing import NDArray

from replaystore.errors import AlreadyExistsError
from replaystore.formats.blocks import blocks_of
from replaystore.formats.minari.arrow_writing import ArrowWriter
from replaystore.formats.minari.beside import Beside
from replaystore.formats.minari.hdf5_writing import hdf5_writer
from replaystore.formats.minari.metadata import FILE, VERSION, data_folder
from replaystore.formats.minari.plan import PLAIN, Placed, Plan, planned
from replaystore.formats.minari.spaces import to_minari
from replaystore.formats.minari.writer import Writer, joined
from replaystore.formats.options import Options
from replaystore.formats.report import Report, refuse_losses
from replaystore.formats.shared.new_folder import NewFolder
from replaystore.formats.source import Block
from replaystore.schema.ragged import Ragged
from replaystore.views.reader import BufferReader

__all__ = ["planned", "write"]

TOLD: dict[str, type | tuple[type, ...]] = {
    "algorithm_name": str,
    "author": list,
    "author_email": list,
    "code_permalink": str,
    "combined_datasets": list,
    "description": str,
    "eval_env_spec": str,
    "num_episodes_average_score": int,
    "ref_max_score": (int, float),
    "ref_min_score": (int, float),
    "requirements": list,
}
"""What Minari's metadata have of what authors say, and of which types."""


def write(buffer: BufferReader, path: str, options: Options, container: str) -> Report:
    """A new dataset at a path. The errors of `Format.write`."""
    plan = planned(buffer, path, options, container)
    refuse_losses(plan.report.fields, plan.report.rest, path, strict=options.strict)
    place = options.place or path
    if os.path.lexists(place) and data_folder(place) == place:
        raise AlreadyExistsError(f"{place} is the folder of data of a dataset: name the folder above it")
    with NewFolder(path, overwrite=options.overwrite) as new:
        folder = os.path.join(new.root, "data")
        os.mkdir(folder)
        with _writer(folder, container) as writer:
            _fill(writer, buffer, options, plan)
        _beside(buffer, plan).write(folder)
        _write_metadata(buffer, plan, folder, container)
    return plan.report


def _writer(folder: str, container: str) -> AbstractContextManager[Writer]:
    if container == "hdf5":
        return hdf5_writer(folder)
    return nullcontext(ArrowWriter(folder, container))


# --- steps


def _fill(writer: Writer, buffer: BufferReader, options: Options, plan: Plan) -> None:
    width = sum(field.row_bytes for field in plan.schema.fields.values())
    total, done, episode = int(plan.lengths.sum()) * width, 0, -1
    for block in blocks_of(buffer, options):
        if block.begins:
            episode += 1
            writer.begin(episode, int(plan.lengths[episode]), block.seed)
        _put(writer, block, plan, int(plan.lengths[episode]))
        if block.ends:
            writer.end()
        done += len(block) * width
        if options.progress is not None:
            options.progress(done, total)


def _put(writer: Writer, block: Block, plan: Plan, steps: int) -> None:
    whole = block.begins and block.ends
    for one in plan.placed:
        values, count = block.columns[one.name], steps
        if one.shifted:
            count += 1
            if block.begins:
                values = joined([_reset(one, block), values])
        elif one.final:
            count += 1
            if block.ends:
                values = joined([values, _final(one, block)])
        writer.rows(one, values, count, whole=whole)
    for name in plan.missing:
        made: NDArray[Any] = np.zeros(len(block), np.float64 if name == "reward" else np.bool_)
        if name != "reward" and block.ends:
            made[-1:] = bool(getattr(block, name))
        writer.plain(PLAIN[name], made, steps, whole=whole)


def _reset(one: Placed, block: Block) -> Any:
    """The row of infos before that of the first step."""
    known, field = block.row.get(f"reset_{one.name}"), one.field
    if field.ragged:
        return Ragged.empty(1, field.dtype, field.inner, text=field.text)
    row = np.zeros((1, *field.shape), field.dtype)
    if known is not None and not field.shape and np.asarray(known).dtype == field.dtype:
        row[0] = known
    return row


def _final(one: Placed, block: Block) -> Any:
    """The row of an observation after the last step: the last one again, if nobody knows it."""
    values, field = block.columns[one.name], one.field
    if block.final is None or one.name not in block.final:
        return values[len(block) - 1 :]
    final = block.final[one.name]
    if not field.ragged:
        return np.asarray(final)[None]
    if isinstance(final, str):
        return Ragged.of([final], text=True)
    return Ragged(np.asarray(final), np.array([0, len(final)]), text=field.text)


# --- what is told of them


def _beside(buffer: BufferReader, plan: Plan) -> Beside:
    names, splits = plan.table["split"].tolist(), [""]
    splits += [name for name in dict.fromkeys(names) if name not in splits]
    codes = {name: place for place, name in enumerate(splits)}
    columns: dict[str, NDArray[Any]] = {
        "env": plan.table["env"].astype(np.int64),
        "split": np.array([codes[name] for name in names], np.int32),
        "known": plan.known,
    }
    columns |= {f"user/{name}": values for name, values in plan.user_columns().items()}
    return Beside(
        plan.schema,
        {one.name: one.place for one in plan.placed},
        plan.lengths.astype(np.int64),
        splits,
        columns,
        list(plan.resets),
        dict(buffer.document.user),
        buffer.environment,
    )


def _write_metadata(buffer: BufferReader, plan: Plan, folder: str, container: str) -> None:
    told: dict[str, Any] = {
        "total_episodes": len(plan.lengths),
        "total_steps": int(plan.lengths.sum()),
        "data_format": container,
        "jpeg_encoding": False,
        "observation_space": json.dumps(to_minari(plan.spaces["observation"])),
        "action_space": json.dumps(to_minari(plan.spaces["action"])),
    }
    spec = (buffer.environment or {}).get("spec")
    if spec is not None and _is_spec(json.dumps(spec)):
        told["env_spec"] = json.dumps(spec)
    told["dataset_size"] = round(sum(_sizes(folder)) / 1e6, 1)
    told |= _authors(buffer.document.user.get("minari"))
    told |= {"dataset_id": plan.id, "minari_version": VERSION}
    with open(os.path.join(folder, FILE), "w", encoding="utf-8") as file:
        json.dump(told, file)


def _authors(known: Any) -> dict[str, Any]:
    """What authors have said of a dataset that the buffer was made of."""
    if not isinstance(known, Mapping):
        return {}
    found = {key: known[key] for key, kind in TOLD.items() if key in known and isinstance(known[key], kind)}
    if "eval_env_spec" in found and not _is_spec(found["eval_env_spec"]):
        del found["eval_env_spec"]
    return found


def _is_spec(text: str) -> bool:
    """Whether Gymnasium reads it as the spec of an environment."""
    from gymnasium.envs.registration import EnvSpec

    try:
        EnvSpec.from_json(text)
    except Exception:  # noqa: BLE001  # it raises whatever the classes that it makes raise
        return False
    return True


def _sizes(folder: str) -> Iterator[int]:
    for above, _, names in os.walk(folder):
        yield from (os.path.getsize(os.path.join(above, name)) for name in names)
