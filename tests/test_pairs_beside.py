"""Two files that belong together, loaded while somebody replaces them: at whatever calls of the system the
two meet, both files are of one save."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from tensors import torch

import replaystore as rs
from replaystore.storage import locks

pytestmark = pytest.mark.torch
if torch is not None:
    from replaced_dropins import of_velora, velora

NAMING = ("rename", "replace", "unlink")
LOOKING = ("open", "stat", "lstat", "listdir")
"""Calls of `os`: what a saver does to names, and what a loader asks of them."""


class Saver:
    """Saves again and again in a thread of its own, which waits at each call that changes a name."""

    def __init__(self, save: Callable[[], object]) -> None:
        self._go, self._waits = threading.Semaphore(0), threading.Semaphore(0)
        self._free, self.failures = False, list[BaseException]()
        self._thread = threading.Thread(target=self._run, args=[save], daemon=True)
        self.here = threading.local()

    def _run(self, save: Callable[[], object]) -> None:
        self.here.saving = True
        try:
            save()
        except BaseException as error:  # noqa: BLE001  # it is looked at in the end
            self.failures.append(error)
        self._free = True
        self._waits.release()

    def gate(self) -> None:
        """Called at each change of a name."""
        if getattr(self.here, "saving", False) and not self._free:
            self._waits.release()
            self._go.acquire(timeout=20)

    def begin(self) -> None:
        self._thread.start()
        self._waits.acquire(timeout=20)

    def step(self) -> None:
        if self._thread.is_alive() and not self._free:
            self._go.release()
            self._waits.acquire(timeout=20)

    def finish(self) -> None:
        """Let it go on to its end."""
        self._free = True
        self._go.release()
        if self._thread.ident is not None:
            self._thread.join(20)


@contextmanager
def meeting(saver: Saver, steps: int, begins: int, ends: int) -> Iterator[list[str]]:
    """Before a call of the loader the saver changes so many names, and before a later one it goes on to its
    end. Calls are noted."""
    seen: list[str] = []

    def changed(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **more: Any) -> Any:
            saver.gate()
            return real(*args, **more)

        return call

    def looked(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **more: Any) -> Any:
            if threading.current_thread() is threading.main_thread() and "buffer_" in str(args[0]):
                if len(seen) == begins:
                    for _ in range(steps):
                        saver.step()
                elif len(seen) == ends:
                    saver.finish()
                seen.append(name)
            return real(*args, **more)

        return call

    def take(*args: Any, **more: Any) -> None:
        if threading.current_thread() is threading.main_thread():
            saver.finish()  # which holds it
        real_take(*args, **more)

    real_take = locks.take
    with (
        patch.multiple(os, **{name: changed(getattr(os, name)) for name in NAMING}),
        patch.multiple(os, **{name: looked(name, getattr(os, name)) for name in LOOKING}),
        patch.object(locks, "take", take),
    ):
        saver.begin()
        yield seen


def of_folder(folder: Path) -> float:
    """As a store is made of them, by the name of the folder."""
    rs.convert(folder, "memory:pair", overwrite=True)
    with rs.open("memory:pair") as buffer:
        return float(buffer["observation"][0, 0])


def of_file(folder: Path) -> float:
    return of_velora(folder / "buffer_state")


STEPS = {7: "the metadata's", 8: "both", 9: "the metadata's still"}
"""Names that are away after so many changes of a save over another."""


@pytest.mark.parametrize(("load", "steps"), [*((of_file, steps) for steps in STEPS), (of_folder, 8)])
def test_a_loader_and_a_saver_meet(
    load: Callable[[Path], float], steps: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)  # nobody cuts the power
    values, calls = {1: velora(1), 2: velora(2)}, [100]

    def met(begins: int, ends: int) -> None:
        values[1].save(tmp_path)
        saver = Saver(lambda: values[2].save(tmp_path))
        with meeting(saver, steps, begins, ends) as seen:
            try:
                assert load(tmp_path) in values, (begins, ends)
            finally:
                saver.finish()
        assert saver.failures == []
        calls.append(len(seen))

    begins = 0
    while begins < min(calls[-1], 16):
        ends = begins + 1
        while ends < begins + 10:
            met(begins, ends)
            ends += 1
        begins += 1
    assert begins > 8
    assert load(tmp_path) in values
    assert sorted(os.listdir(tmp_path)) == ["buffer_metadata.json", "buffer_state.safetensors"]
