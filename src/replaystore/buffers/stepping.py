"""Steps of several environments, staged until there are enough of them: the part of a writer that takes them,
whatever becomes of them then.

A step is staged as the bytes of its arrays, which is the quickest copy there is. The observation after a step
is that of the next step. When a trajectory ends, `reset` puts the first observation of the next one in its
place; the one that was there is kept as the final observation of the trajectory that ended.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from replaystore.buffers.given import check_writer, checked_step, chosen_envs, seeds_of
from replaystore.buffers.staged import Reset
from replaystore.buffers.staging import PLAIN, Staging
from replaystore.errors import ConflictError, SchemaError
from replaystore.interrupts import Operations
from replaystore.schema.fields import Schema

__all__ = ["Stepping"]


class Stepping(ABC):
    """Takes the steps of `num_envs` environments, which take turns in one call.

    Call `reset` with the first observations, then `step` after each step of the environments. After a step in
    which a trajectory ended, call `reset` for it (`mask`); otherwise the observation passed with the step is
    also the first of the next trajectory. Without fields of flags in the schema, it is `reset` alone that
    ends a trajectory.

    What the schema has no fields of (actions, rewards, flags, observations) is left out, or None. Values are
    arrays, tensors or what NumPy makes an array of the field's dtype of, nested as Gymnasium does it or by
    field name (`{"reward/a0": …}` as well as `{"a0": …}`).
    """

    num_envs: int
    split: str

    def __init__(
        self,
        schema: Schema,
        num_envs: int,
        *,
        split: str = "",
        writable: Callable[[], None],
        operations: Operations,
        closed: Callable[[Any], None],
    ) -> None:
        """`writable` raises if nothing is to be written (any more); handing steps over is one of the
        `operations`; `closed` is called when the writer has been closed."""
        check_writer(num_envs, split)
        self.num_envs, self.split = num_envs, split
        self._all = np.arange(num_envs)
        self._writable, self._operations, self._on_closed = writable, operations, closed
        self._started = self._closed = False
        self._staging = Staging(schema, num_envs, {})
        self.take_schema(schema)

    @abstractmethod
    def _flush(self) -> None:
        """Hand over all that is staged."""

    @abstractmethod
    def _end(self) -> None:
        """Cut off the trajectories that are open; nothing is staged, and nothing comes any more."""

    @abstractmethod
    def _all_begin(self) -> None:
        """Get ready for trajectories that begin in all environments at once."""

    def take_schema(self, schema: Schema) -> None:
        """Be ready for steps of this schema; nothing is staged."""
        self._schema = schema
        self._staging = Staging(schema, self.num_envs, self._staging.starting)
        self._expected = {
            name: expected for name, expected in self._staging.expected.items() if name not in schema.ragged
        }
        """dtype and shape of what is staged as it comes."""
        self._observed = schema.select(observed) if (observed := schema.names("observation")) else None
        self._staging.open(self._started)

    def reset(
        self,
        observation: Any = None,
        *,
        seed: int | Sequence[int | None] | NDArray[np.integer] | None = None,
        mask: NDArray[np.bool_] | None = None,
    ) -> None:
        """Trajectories begin with these observations, in all environments or in those where `mask` (shape
        (num_envs,)) is True.

        Those that are open there are cut off: they end neither terminated nor truncated. Observations are
        batched as Gymnasium does (first dimension num_envs; dict or tuple of such arrays). `seed`: what the
        environments were reset with.

        After a reset of all in one call rows do not depend on what was before: a writer that goes on from a
        commit so, with the same steps, gets the rows of one that has never stopped."""
        self._check_open()
        if mask is None:
            envs = self._all
        elif self._staging.is_mask(mask):
            (envs,) = mask.nonzero()
        else:
            envs = chosen_envs(mask, self.num_envs)
        if type(observation) is np.ndarray and self._expected.get("observation") == (
            observation.dtype,
            observation.shape,
        ):
            values = {"observation": observation}
        else:
            values = self._checked(self._given("observation", observation), self._observed)
        seeds = None if seed is None else seeds_of(seed, envs, self.num_envs)
        if len(envs) == self.num_envs:
            self._all_begin()
        begins = {name: value[envs] for name, value in self._staging.pooled(values).items()}
        self._staging.resets.append(Reset(self._staging.time, envs, seeds, begins))
        self._staging.rewind()
        self._started = True
        self._staging.open()

    def step(
        self,
        action: Any = None,
        reward: Any = None,
        terminated: NDArray[np.bool_] | None = None,
        truncated: NDArray[np.bool_] | None = None,
        observation: Any = None,
        info: Mapping[str, NDArray[Any]] | None = None,
        *,
        mask: NDArray[np.bool_] | None = None,
    ) -> None:
        """One step of each environment, as arrays with first dimension num_envs.

        Args:
            reward: of several fields of rewards a dict of them.
            observation: the observation after the action; for a trajectory that ends here its final one, not
            that of the next.
            info: all further fields, by field name ("info/speed").
            mask: shape (num_envs,); environments where it is False record nothing.

        Raises:
            SchemaError: a wrong dtype or shape, a missing or unknown field; nothing is recorded then.
            StorageError: the disk refused; nothing is lost, and the step may be repeated.
        """
        if self.offer(action, reward, terminated, truncated, observation, info, mask):
            return
        columns: dict[str, Any] = {}
        for role, value in zip(PLAIN, (observation, action, reward, terminated, truncated), strict=True):
            if type(value) is np.ndarray:
                columns[role] = value
            else:
                columns |= self._given(role, value)
        self._stage({**columns, **info} if info else columns, mask)

    def offer(
        self,
        action: Any,
        reward: Any,
        terminated: Any,
        truncated: Any,
        observation: Any,
        info: Mapping[str, Any] | None = None,
        mask: NDArray[np.bool_] | None = None,
    ) -> bool:
        """As `step`, of what is just as it is stored, such as nearly every step: arrays of the fields' dtypes
        and shapes. Whether it is: else nothing is recorded, and nothing told."""
        staging = self._staging
        if staging.time >= staging.limit:
            self.flush()
        return staging.offer(action, reward, terminated, truncated, observation, info, mask)

    def _given(self, role: str, value: Any) -> dict[str, Any]:
        """{field name: value} of what is given for a role; nothing of None or an empty dict."""
        nothing = value is None or (isinstance(value, Mapping | tuple) and not value)
        return {} if nothing else self._schema.flatten(value, role)

    def _stage(self, columns: Mapping[str, Any], mask: NDArray[np.bool_] | None) -> None:
        """Check a step and stage it."""
        self._check_open()
        if not self._started:
            raise SchemaError("step before reset: call reset with the first observations")
        if mask is not None and not self._staging.is_mask(mask):
            raise SchemaError(
                f"mask is a bool array of shape ({self.num_envs},), True where a step is "
                f"recorded, not {mask!r:.80}"
            )
        staged = None if self._schema.ragged else self._staging.bytes_of(columns)
        if staged is None:
            checked = self._checked(columns, self._schema)
            staged = self._staging.bytes_of(self._staging.pooled(checked))
            assert staged is not None
        self._staging.stage(staged, mask)

    def _checked(self, columns: Mapping[str, Any], of: Schema | None) -> dict[str, Any]:
        return checked_step(self._schema, of, columns, self.num_envs)

    # --- what is staged

    @property
    def staged(self) -> int:
        """Steps that are staged."""
        return self._staging.steps

    def flush(self) -> None:
        """Hand the staged steps over as rows. They are safe after the next commit."""
        if self._staging:
            self._writable()
            self.hand_over()

    def hand_over(self) -> None:
        """As `flush`, in whatever operation this is a part of."""
        if self._staging:
            with self._operations("flush"):
                self._flush()

    def close(self) -> None:
        """Hand over what is staged, and cut off the open trajectories. The buffer stays open; commit it to
        make all of it safe."""
        if not self._closed:
            self._writable()
            self.finish()

    def finish(self) -> None:
        """As `close`, in whatever operation this is a part of."""
        with self._operations("close the writer"):
            self.hand_over()
            self._end()
            self._closed = True
            self._staging.open(False)
            self._on_closed(self)

    def _check_open(self) -> None:
        if self._closed:
            raise ConflictError("this writer is closed: make another with buffer.writer()")
