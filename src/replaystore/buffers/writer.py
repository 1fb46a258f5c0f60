"""Steps of several environments, staged until there are enough of them (stepping.py), become rows in the
order of time: the steps of one environment lie a constant stride apart, whatever the rhythm of commits
(lanes.py). So the cost of a step is that of copying it, and a trajectory is one part.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from replaystore.buffers.handing_over import HandingOver
from replaystore.buffers.recorder import Recorder
from replaystore.buffers.stepping import Stepping
from replaystore.interrupts import Operations

__all__ = ["Writer"]


class Writer(HandingOver, Stepping):
    """Writes the steps of several environments, as `Stepping` says. Made by `buffer.writer`."""

    def __init__(
        self,
        recorder: Recorder,
        num_envs: int,
        *,
        split: str = "",
        writable: Callable[[], None],
        operations: Operations,
        closed: Callable[[Any], None],
    ) -> None:
        Stepping.__init__(
            self,
            recorder.schema,
            num_envs,
            split=split,
            writable=writable,
            operations=operations,
            closed=closed,
        )
        HandingOver.__init__(self, recorder, num_envs, split)

    def _all_begin(self) -> None:
        # Their order comes from steps that a writer which goes on from a commit has not seen.
        if self._order is not None or self._staging.masks:
            self.flush()
            self._next = -1

    def _end(self) -> None:
        self._recorder.cut(range(self.num_envs))
        self._recorder.assembler.going.let_go(self._slots)

    @property
    def going_on(self) -> int | None:
        """How many steps are staged, if all trajectories go on in all of them, behind the newest row."""
        staging = self._staging
        staging.rewind()
        goes_on = self._going and self._next == self._recorder.rows and staging.quiet
        return staging.time if goes_on else None
