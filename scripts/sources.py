"""Replay buffers of every kind of file, as the scripts read them: verified, and with what is known of their
environment."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import gymnasium
import numpy as np

import replaystore as rs
from replaystore.compat.active_rlhf import ReplayBuffer
from replaystore.compat.saving import store_of
from replaystore.errors import CorruptError, NotFoundError, SchemaError


@dataclass(frozen=True)
class Source:
    """A replay buffer, and where it came from."""

    buffer: ReplayBuffer
    folder: Path
    """Where what is made of it goes."""
    environment: str
    """The id of its environment, or "unknown environment"."""
    path: str

    @property
    def title(self) -> str:
        """For pictures."""
        return f"{self.environment}, {self.buffer.size:,} rows"

    def verify(self) -> str:
        """Read all of a store once, and compare it with its checksums; of other files, which have none, look
        at the places of rows.

        What was found, in words. CorruptError: the file is damaged."""
        said = "the file has no checksums"
        if store_of(self.path) is not None:
            report = rs.verify(self.path)
            if report.problems:
                others = (
                    f" ({len(report.problems) - 1} more: `replaystore verify {self.path}`)"
                    if len(report.problems) > 1
                    else ""
                )
                raise CorruptError(f"{self.path} is damaged: {report.problems[0]}{others}")
            said = f"{report.checked_bytes:,} bytes are as they were written"
        return f"{said}; {self._places()}"

    def _places(self) -> str:
        """Every row of every trajectory lies in the ring and was written; no row belongs to two
        trajectories."""
        buffer = self.buffer
        starts = np.array([info.start_pos for info in buffer.trajectories], np.int64)
        lengths = np.minimum([info.length for info in buffer.trajectories], buffer.capacity).astype(np.int64)
        wrong = np.flatnonzero((starts < 0) | (starts >= buffer.capacity) | (lengths < 0))
        if len(wrong):
            raise self._damaged(
                f"trajectories {wrong[:5].tolist()} begin outside of the ring of {buffer.capacity} rows"
            )
        # What is left of a trajectory goes on at place 0.
        heads = np.minimum(lengths, buffer.capacity - starts)
        begins = np.concatenate([starts, np.zeros_like(starts)])
        ends = begins + np.concatenate([heads, lengths - heads])
        order = np.argsort(begins, kind="stable")
        order = order[ends[order] > begins[order]]
        if len(order) and int(ends[order].max()) > buffer.size:
            raise self._damaged(f"a trajectory has row {ends[order].max() - 1} of {buffer.size}")
        shared = np.flatnonzero(begins[order][1:] < ends[order][:-1])
        if len(shared):
            numbers = order[shared[:1]] % len(starts)
            raise self._damaged(f"trajectory {numbers.tolist()} has rows that belong to another one too")
        owned = int(lengths.sum())
        return f"{owned:,} rows of {len(starts):,} trajectories, {buffer.size - owned:,} rows of none"

    def _damaged(self, what: str) -> CorruptError:
        return CorruptError(
            f"{self.path} is damaged: {what}; pass the --replay_buffer_path of a copy, or record it anew"
        )


@contextmanager
def loaded(
    path: str, env_id: str | None, fragment_length: int | None = None, device: str = "cpu"
) -> Iterator[Source]:
    """Open a replay buffer: a store (.zarr, .h5), which is read as it is needed, a pickle, or a safetensors
    file or the folder with it.

    Its environment is `env_id`, whose spaces must be those of the file, or what the store says, or what the
    name of its folder says (`<env_id>__...`). NotFoundError, FormatError, SchemaError: no such file, or not
    such a file, or one of another environment."""
    place = Path(path)
    if not place.exists():
        raise NotFoundError(f"{path}: there is no such file or folder: check --replay_buffer_path")
    holds_files = place.is_dir() and store_of(place) is None
    folder = place.absolute() if holds_files else place.absolute().parent
    with tempfile.TemporaryDirectory(prefix="replay-buffer-") as between:
        store = place
        if holds_files or place.suffix.lower() == ".safetensors":
            rs.convert(place, store := Path(between) / "replay_buffer.zarr")
        buffer = ReplayBuffer.load(store, None, fragment_length, device)
        try:
            if env_id is not None:
                _check_environment(buffer, env_id, path)
            yield Source(buffer, folder, env_id or _environment(store, folder) or "unknown environment", path)
        finally:
            buffer.close()


def _environment(store: Path, folder: Path) -> str | None:
    """What a store says, or the name of a folder."""
    if store_of(store) is not None:
        with rs.open(store) as opened:
            known = (opened.environment or {}).get("id")
        if known:
            return str(known)
    name, separator, _ = folder.name.partition("__")
    return name if separator and name in gymnasium.registry else None


def _check_environment(buffer: ReplayBuffer, env_id: str, path: str) -> None:
    env = gymnasium.make(env_id)
    spaces = (env.observation_space, env.action_space)
    env.close()
    widths = [
        1 if isinstance(space, gymnasium.spaces.Discrete) else gymnasium.spaces.flatdim(space)
        for space in spaces
    ]
    held = [int(buffer.obs.shape[1]), int(buffer.acts.shape[1])]
    if widths != held:
        needed = f"{env_id} has {widths[0]} observations and {widths[1]} actions"
        raise SchemaError(
            f"{path} has {held[0]} observations and {held[1]} actions, but {needed}: pass the "
            "--env_id that it was made with"
        )
