"""What the recording wrappers share: values as a buffer stores them, and rows and trajectories of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from replaystore.errors import ArgumentError, SchemaError
from replaystore.gymnasium.fitting import check_fields, is_given, remedy, storable
from replaystore.gymnasium.infos import InfoColumns
from replaystore.schema.fields import Schema
from replaystore.schema.given_ragged import ragged_of
from replaystore.schema.names import flatten, listed
from replaystore.schema.ragged import Ragged
from replaystore.schema.values import BOOL, array_of, fitted

if TYPE_CHECKING:
    from replaystore.buffers.buffer import Buffer

__all__ = ["EnvironmentRecorder"]

_Mask = NDArray[np.bool_]
_NUMBERS = (float, int, np.generic)
_TRUE, _FALSE = np.array([True]), np.array([False])
_TRUE.flags.writeable = _FALSE.flags.writeable = False


class EnvironmentRecorder:
    """What both wrappers share. `with recorder:` around calls of the environment: an error there loses track
    of where it stands."""

    def __init__(
        self,
        env: Any,
        buffer: Buffer,
        num_envs: int,
        split: str,
        infos: InfoColumns,
        commit_every: int | None,
        *,
        single: bool = False,
        same_step: bool = False,
    ) -> None:
        if commit_every is not None and commit_every < 1:
            raise ArgumentError(
                f"commit_every must be at least 1, not {commit_every}: or None, to commit by hand"
            )
        check_fields(env, buffer.schema)
        self._buffer, self._schema = buffer, buffer.schema
        self._names = {role: frozenset(buffer.schema.names(role)) for role in ("observation", "action")}
        self._single = single  # values come without a first dimension for the environments
        self._lead: tuple[int, ...] = () if single else (num_envs,)
        self._same_step = same_step
        self._commit_every, self._calls = commit_every, 0
        self.infos = infos
        self.ended: _Mask | None = None  # in the last step; None: nowhere
        self._everywhere = np.ones(num_envs, dtype=bool)
        # Where the next step does not start from the observation seen last.
        self._lost: _Mask | None = self._everywhere
        self._nowhere, self._all = bytes(num_envs), self._everywhere.tobytes()
        self._schema_of_agent: Schema | None = None
        self._of_agent: frozenset[str] = frozenset()
        """The fields of `_schema_of_agent` that the agent gives."""
        self._writer = buffer.writer(num_envs, split=split)
        self._closed = False

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            self.forget(self._everywhere)

    def forget(self, mask: _Mask | None) -> None:
        """The next step of these environments does not start from the observation seen last."""
        if mask is not None:
            self._lost = mask if self._lost is None else self._lost | mask

    def begin(self, observation: Any, seeds: Sequence[int | None], mask: _Mask | None = None) -> None:
        """Trajectories begin."""
        self._writer.reset(
            self._values("observation", observation), seed=[storable(seed) for seed in seeds], mask=mask
        )
        if mask is None:
            self._lost = self.ended = None
        else:
            self._lost, self.ended = _without(self._lost, mask), _without(self.ended, mask)

    def actions(self, actions: Any) -> Any:
        """A copy of the actions as they are stored, made before the environment can change them."""
        if self._lost is not None and self._lost.tobytes() == self._all:
            return None  # no row will be made of them, and automatic resets take any
        return self._values("action", actions, copy=True)

    def extras(self, extra: Any) -> dict[str, Any]:
        """A copy of the agent's values as they are stored, made before the environment is stepped. Those of a
        mutable field may come later: they are zeros until they are set."""
        if self._buffer.schema is not self._schema_of_agent:
            self._schema_of_agent = self._buffer.schema
            self._of_agent = frozenset(
                name
                for name, field in self._schema_of_agent.fields.items()
                if is_given(field) and not name.startswith("info/") and name != "info"
            )
        names = self._of_agent
        if not names and not extra:
            return {}
        if extra is not None and not isinstance(extra, Mapping):
            raise ArgumentError(f"extra is a dict from the names of fields, not {type(extra).__name__}")
        leaves: dict[str, Any] = {}
        for name, value in (extra or {}).items():
            leaves |= flatten(value, name, names, self._schema_of_agent.graphs)
        # What is misspelt first: it tells more than what is missing for it.
        for name in sorted(leaves.keys() - names) + sorted(names - leaves.keys()):
            if name in leaves:
                known = (
                    f"its fields of an agent are {listed(sorted(names))}"
                    if names
                    else "it has none of an agent's"
                )
                raise SchemaError(f"extra gives {name!r}, and the buffer has no such field: {known}")
            declared = self._schema_of_agent.fields[name]
            if declared.mutable:  # its values come later
                leaves[name] = np.zeros((*self._lead, *declared.shape), declared.dtype)
                continue
            raise SchemaError(
                f"the buffer has a field {name!r} of the agent's: give its values with each step, "
                f"step(actions, extra={{{name!r}: …}})"
            )
        return {name: self._value(name, value, copy=True) for name, value in leaves.items()}

    def step(
        self,
        actions: Any,
        reward: Any,
        terminated: Any,
        truncated: Any,
        observation: Any,
        infos: Any,
        extra: Mapping[str, NDArray[Any]],
    ) -> None:
        """One step of each environment: rows where a transition happened, beginnings of trajectories where
        not."""
        if self._same_step and not isinstance(infos, Mapping):  # which have the final observations
            raise SchemaError(
                f"the infos came as a {type(infos).__name__}: put the recorder inside of the "
                "wrapper that makes it of a dict"
            )
        terminated, truncated = self._flags("terminated", terminated), self._flags("truncated", truncated)
        lost, ended = self._lost, terminated | truncated
        any_ended = ended.tobytes() != self._nowhere
        if self._single:
            reward = self._value("reward", reward)
        # The one quick way: what nearly every step gives, which the writer alone looks at.
        if lost is None and not (any_ended and self._same_step):
            columns = self.infos.usual(infos)
            if columns is not None:
                columns |= extra
                row = self._single and type(observation) is np.ndarray
                rows = observation[None] if row else observation
                if self._writer.offer(actions, reward, terminated, truncated, rows, columns):
                    if not self._same_step:
                        self._lost = self.ended = ended if any_ended else None
                    return
        seen = stored = self._values("observation", observation)
        final = None
        if any_ended and self._same_step:
            stored, final = self._with_final(seen, infos, ended), infos.get("final_info")
            final = {} if final is None else final
        # Before the step: the last observation of what this cuts off is the one seen before it.
        if lost is not None:
            self._writer.reset(seen, mask=lost)
        mask = None if lost is None else ~lost
        if mask is None or mask.tobytes() != self._nowhere:
            columns = self.infos.columns(infos, ended if final is not None else lost, final)
            columns |= extra
            reward = reward if self._single else self._value("reward", reward)
            self._writer.step(actions, reward, terminated, truncated, stored, columns, mask=mask)
        if not self._same_step:
            self._lost = self.ended = ended if any_ended else None
            return
        self._lost = None
        if any_ended:
            self._writer.reset(seen, mask=ended)

    def count(self) -> None:
        """Commit when it is time."""
        self._calls += 1
        if self._commit_every is not None and self._calls % self._commit_every == 0:
            self._buffer.commit()

    def close(self) -> None:
        """Cut off what is open and commit, once."""
        if not self._closed:
            self._closed = True
            if not self._buffer.closed:  # closing a buffer has done all this
                self._writer.close()
                self._buffer.commit()

    # --- values as they are stored

    def _values(self, role: str, value: Any, copy: bool = False) -> Any:
        """A nested value for the writer: rows first, each leaf in the dtype of its field."""
        if role in self._names[role]:
            return self._value(role, value, copy)
        return self._schema.unflatten(
            {name: self._value(name, leaf, copy) for name, leaf in self._leaves(role, value).items()}, role
        )

    def _leaves(self, role: str, value: Any) -> dict[str, Any]:
        """The leaves of a nested value by field name."""
        schema, names = self._schema, self._names[role]
        leaves = flatten(value, role, schema.ragged, schema.graphs)
        if leaves.keys() != names:
            one = min(leaves.keys() ^ names)
            problem = "not in the schema" if one in leaves else "missing"
            raise SchemaError(f"{role}: {one!r} is {problem}: give what the environment's space says")
        return leaves

    def _flags(self, name: str, values: Any) -> _Mask:
        """Flags as they are stored; what is true in Python is true here."""
        if self._single:
            if type(values) is bool:
                return _TRUE if values else _FALSE
        elif type(values) is np.ndarray and values.dtype == BOOL and values.shape == self._lead:
            return values
        given = array_of(name, values)
        flags = given.reshape(1) if self._single and given.size == 1 else given
        if flags.shape != self._everywhere.shape or flags.dtype.kind not in "biufcO":
            shape = self._everywhere.shape if not self._single else ()
            raise SchemaError(
                f"{name}: expected bool of shape {shape}, came {given.dtype} of shape "
                f"{given.shape}: give one for each step"
            )
        return flags.astype(bool, copy=False)

    def _value(self, name: str, value: Any, copy: bool = False) -> NDArray[Any] | Ragged:
        declared = (self._schema_of_agent or self._schema).fields[name]
        if self._single and isinstance(value, _NUMBERS):
            one = np.array([value])
            if one.dtype == declared.dtype and not declared.shape:
                return one
        if (
            type(value) is np.ndarray
            and value.dtype == declared.dtype
            and value.shape == self._lead + declared.shape
        ):
            stored = value.copy() if copy else value
        elif declared.ragged:
            several = [value] if self._single else value
            ragged = ragged_of(name, declared, several, len(self._everywhere))
            return ragged.map(np.copy) if copy else ragged
        else:
            stored = fitted(
                name, value, declared.dtype, self._lead + declared.shape, partial(remedy, name, declared)
            )
            stored = stored.copy() if copy else stored
        return stored[None] if self._single else stored

    def _with_final(self, observation: Any, infos: Mapping[str, Any], ended: _Mask) -> Any:
        """The observation, with the final one of each environment that ended."""
        finals, there = infos.get("final_obs"), infos.get("_final_obs", ended)
        leaves = {
            name: list(leaf) if isinstance(leaf, Ragged) else leaf.copy()
            for name, leaf in self._leaves("observation", observation).items()
        }
        one_by_one = isinstance(finals, list) or (isinstance(finals, np.ndarray) and finals.dtype == object)
        whole = None if one_by_one or finals is None else self._leaves_of(finals)
        for place in np.flatnonzero(ended).tolist():
            final = None if finals is None or not there[place] else finals[place] if one_by_one else finals
            if final is None:
                raise SchemaError(
                    f"environment {place} ended, but infos['final_obs'] does not have its final "
                    "observation: SAME_STEP needs it; "
                    "give it in the environment, or keep RecordVector inside of the wrapper that removes it"
                )
            for name, leaf in (self._leaves("observation", final) if whole is None else whole).items():
                leaves[name][place] = self._final(name, leaf if whole is None else leaf[place])
        stored = {
            name: ragged_of(name, self._schema.fields[name], leaf, None) if isinstance(leaf, list) else leaf
            for name, leaf in leaves.items()
        }
        return (
            stored["observation"]
            if "observation" in stored
            else self._schema.unflatten(stored, "observation")
        )

    def _final(self, name: str, value: Any) -> Any:
        """One final observation of a field, as it is stored."""
        declared = self._schema.fields[name]
        if declared.ragged:
            return ragged_of(f"final {name}", declared, [value], 1)[0]
        return fitted(f"final {name}", value, declared.dtype, declared.shape, partial(remedy, name, declared))

    def _leaves_of(self, finals: Any) -> dict[str, Any]:
        """The final observations of all environments, by field name."""
        arrays = {
            name: ragged_of(f"final {name}", self._schema.fields[name], leaf, None)
            if name in self._schema.ragged
            else array_of(f"final {name}", leaf)
            for name, leaf in self._leaves("observation", finals).items()
        }
        for name, array in arrays.items():
            if array.shape[:1] != self._lead:
                raise SchemaError(
                    f"final {name}: its shape {array.shape} does not begin with the number of "
                    f"environments, {self._lead[0]}"
                )
        return arrays


def _without(mask: _Mask | None, other: _Mask) -> _Mask | None:
    rest = None if mask is None else mask & ~other
    return None if rest is None or not rest.any() else rest
