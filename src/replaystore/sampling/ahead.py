"""Batches that are made ahead, by a thread."""

from __future__ import annotations

import queue
import threading
import weakref
from typing import Protocol

from replaystore.sampling.gather import Batch

__all__ = ["Ahead", "Maker", "Place", "following"]

WAIT = 0.05
"""Seconds after which a waiting thread looks whether it is still wanted."""

Place = tuple[int, int]
"""An epoch, and the number of a batch in it."""


class Maker(Protocol):
    """What makes batches."""

    together: int
    """Batches whose raw rows are fetched at once, if they are far; at least."""

    @property
    def per_epoch(self) -> int | None: ...

    def make(self, epoch: int, number: int) -> Batch: ...


class Ahead:
    """Makes batches ahead, by a thread that does not keep the sampler alive."""

    def __init__(self, owner: object, batches: Maker, place: Place, depth: int) -> None:
        """`owner`: once it is gone, nobody wants batches any more."""
        batches.together = depth  # far away, as many are asked for at once as there is room for
        self._ready: queue.Queue[Batch | BaseException] = queue.Queue(depth)
        self._unwanted = threading.Event()
        arguments = (batches, place, self._ready, self._unwanted)
        self._thread = threading.Thread(
            target=_make_ahead, args=arguments, name="replaystore-sampler", daemon=True
        )
        self._thread.start()
        weakref.finalize(owner, self._unwanted.set)

    def next(self) -> Batch:
        """The next batch, or the error that there was instead of it."""
        found = self._ready.get()
        if isinstance(found, BaseException):
            self._ready.put(found)  # and so for whoever asks again
            raise found
        return found

    def stop(self) -> None:
        """End the thread; returns when it has."""
        self._unwanted.set()
        self._thread.join()


def _make_ahead(
    batches: Maker, place: Place, ready: queue.Queue[Batch | BaseException], unwanted: threading.Event
) -> None:
    while not unwanted.is_set():
        try:
            made: Batch | BaseException = batches.make(*place)
        except BaseException as error:  # noqa: BLE001  # it is raised where the batch is asked for
            made = error
        while not unwanted.is_set():
            try:
                ready.put(made, timeout=WAIT)
                break
            except queue.Full:
                continue
        if isinstance(made, BaseException):
            return
        place = following(place, batches.per_epoch)


def following(place: Place, per_epoch: int | None) -> Place:
    """The place of the next batch."""
    epoch, number = place
    return (epoch + 1, 0) if number + 1 == per_epoch else (epoch, number + 1)
