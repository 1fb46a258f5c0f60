"""What a training keeps, whatever ends it, and never where an earlier run has saved."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from types import TracebackType
from typing import Self

import torch
from commandline import check_folder, check_target, said
from ppo import Agent

import replaystore as rs
from replaystore.compat.active_rlhf import ReplayBuffer
from replaystore.errors import AlreadyExistsError, ReplayStoreError, StorageError
from replaystore.formats.shared.new_files import NewFiles
from replaystore.interrupts import signals_wait
from replaystore.storage.locks import FileLock

STORES = (".zarr", ".h5", ".hdf5")
PICKLES = (".pkl", ".pickle")


class Keeper:
    """Saves the replay buffer, a store after every rollout, which writes only what is new, another file at
    the end; and the agent.

    The end is that of `with`, whatever ends it. AlreadyExistsError: an earlier run has saved there;
    ConflictError: another one does; StorageError."""

    def __init__(self, buffer: ReplayBuffer, agent: Agent, path: Path | None, model: Path | None) -> None:
        """`path`, `model`: what they are saved to; None: they are not."""
        self._buffer, self._agent, self._path, self._model = buffer, agent, path, model
        self._claim = None
        if self._path is not None:
            (check_folder if self._path.suffix in STORES else check_target)(self._path)
            self._claim = _claimed(self._path)
            _check_unused(self._path)

    def __enter__(self) -> Self:
        self.after_rollout()  # so that a place that is of no use is known at once
        return self

    def after_rollout(self) -> None:
        """Make a store hold all that was added."""
        if self._path is not None and self._path.suffix in STORES:
            with signals_wait():
                self._buffer.save(self._path)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        failed = []
        for save in (self._save_buffer, self._save_agent):
            try:
                save()
            except (ReplayStoreError, OSError) as problem:
                failed.append(problem)
        if self._claim is not None:
            self._claim.release()
        for other in failed[error is None :]:  # what ended the training is told last
            print(f"not saved: {said(other)}", file=sys.stderr)
        if failed and error is None:
            raise failed[0]

    def _save_buffer(self) -> None:
        if self._path is None or not self._buffer.size:
            return
        path, number = self._path, 1
        while path.suffix in PICKLES and path.exists():  # somebody else has written it meanwhile
            path, number = self._path.with_stem(f"{self._path.stem}-{number}"), number + 1
        self._buffer.save(path)
        print(f"replay buffer: {path}")

    def _save_agent(self) -> None:
        if self._model is not None:
            content = io.BytesIO()
            torch.save(self._agent.state_dict(), content)
            with NewFiles([str(self._model)], overwrite=True) as new:
                new.files[0].write(content.getbuffer())


def _claimed(path: Path) -> FileLock | None:
    """Nobody else can have it until it is released. None: the file system has no locks. ConflictError:
    somebody has it."""
    busy = f"another training saves its replay buffer to {path}: name another --replay_buffer_save_path"
    try:
        advice = "choose another --replay_buffer_save_path"
        return FileLock(
            path,
            f"{path}.training",
            own=True,
            busy=busy,
            what="saved to",
            advice=advice,
        )
    except StorageError:
        return None


def _check_unused(path: Path) -> None:
    """AlreadyExistsError: there is something that could be lost; a store without a single row may go."""
    if not path.exists():
        return
    held = "is there already"
    if path.suffix in STORES:
        try:
            with rs.open(path) as store:
                if not len(store):
                    return
                held += f", with {len(store):,} rows of an earlier run"
        except ReplayStoreError as error:
            held += f", and cannot be opened ({said(error)})"
    raise AlreadyExistsError(f"{path} {held}: name another --replay_buffer_save_path, or move it away first")
