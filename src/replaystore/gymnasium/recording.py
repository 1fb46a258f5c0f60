"""What the recording wrappers share: values as a buffer stores them, and rows and trajectories of them."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from replaystore.errors import ArgumentError, ReplayStoreWarning, SchemaError
from replaystore.gymnasium.infos import InfoColumns
from replaystore.schema.fields import Field, Schema
from replaystore.schema.names import flatten, listed
from replaystore.schema.spaces import DTYPES
from replaystore.schema.values import BOOL, array_of, fitted

if TYPE_CHECKING:
    from replaystore.buffers.buffer import Buffer

__all__ = ["EnvironmentRecorder"]

_Mask = NDArray[np.bool_]
_MAX_SEED = 2**63 - 1
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
        _check_fields(env, buffer.schema)
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
            self._values("observation", observation), seed=[_storable(seed) for seed in seeds], mask=mask
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

    def extras(self, extra: Any) -> dict[str, NDArray[Any]]:
        """A copy of the agent's values as they are stored, made before the environment is stepped. Those of a
        mutable field may come later: they are zeros until they are set."""
        if self._buffer.schema is not self._schema_of_agent:
            self._schema_of_agent = self._buffer.schema
            self._of_agent = frozenset(
                name
                for name, field in self._schema_of_agent.fields.items()
                if _is_given(field) and not name.startswith("info/") and name != "info"
            )
        names = self._of_agent
        if not names and not extra:
            return {}
        if extra is not None and not isinstance(extra, Mapping):
            raise ArgumentError(f"extra is a dict from the names of fields, not {type(extra).__name__}")
        leaves: dict[str, Any] = {}
        for name, value in (extra or {}).items():
            leaves |= {name: value} if name in names else flatten(value, name)
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
        leaves, names = flatten(value, role), self._names[role]
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

    def _value(self, name: str, value: Any, copy: bool = False) -> NDArray[Any]:
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
        else:
            stored = fitted(
                name, value, declared.dtype, self._lead + declared.shape, partial(_remedy, name, declared)
            )
            stored = stored.copy() if copy else stored
        return stored[None] if self._single else stored

    def _with_final(self, observation: Any, infos: Mapping[str, Any], ended: _Mask) -> Any:
        """The observation, with the final one of each environment that ended."""
        finals, there = infos.get("final_obs"), infos.get("_final_obs", ended)
        leaves = {name: leaf.copy() for name, leaf in flatten(observation, "observation").items()}
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
                declared = self._schema.fields[name]
                value = leaf if whole is None else leaf[place]
                leaves[name][place] = fitted(
                    f"final {name}", value, declared.dtype, declared.shape, partial(_remedy, name, declared)
                )
        return (
            leaves["observation"]
            if "observation" in leaves
            else self._schema.unflatten(leaves, "observation")
        )

    def _leaves_of(self, finals: Any) -> dict[str, NDArray[Any]]:
        """The final observations of all environments, by field name."""
        arrays = {
            name: array_of(f"final {name}", leaf)
            for name, leaf in self._leaves("observation", finals).items()
        }
        for name, array in arrays.items():
            if array.shape[:1] != self._lead:
                raise SchemaError(
                    f"final {name}: its shape {array.shape} does not begin with the number of "
                    f"environments, {self._lead[0]}"
                )
        return arrays


def _remedy(name: str, declared: Field, given: np.dtype[Any]) -> str:
    """What to do about a value that the dtype of its field does not hold exactly."""
    if declared.role == "action":
        return f"nothing is rounded, so pass numpy.asarray(action, '{declared.dtype.name}') if that is meant"
    if declared.role == "extra":
        return f"nothing is rounded, so give its values as '{declared.dtype}' if that is meant"
    text = "nothing is rounded, so convert it in a wrapper inside of this one"
    if declared.role == "reward":
        return (
            f"{text}, or create the buffer from Schema.from_env(env, reward_dtype='{given}')"
            if given.name in DTYPES
            else text
        )
    wider = np.promote_types(declared.dtype, given)
    if wider.name not in DTYPES:
        return text
    fields = f"{{**schema.fields, {name!r}: Field('{wider}', {declared.shape}, 'observation')}}"
    return (
        f"{text}, or create the buffer from Schema({fields}, schema.tuples), where schema is "
        "Schema.from_env(env)"
    )


def _is_wider(dtype: Any, other: Any) -> bool:
    """Whether a field of this dtype holds all that an environment with the other one is to give."""
    return dtype is not None and other is not None and np.can_cast(other, dtype, "safe")


def _without(mask: _Mask | None, other: _Mask) -> _Mask | None:
    rest = None if mask is None else mask & ~other
    return None if rest is None or not rest.any() else rest


def _storable(seed: int | None) -> int | None:
    if seed is None or 0 <= seed <= _MAX_SEED:
        return seed
    warnings.warn(
        f"the seed {seed} does not fit 63 bits: it is recorded as unknown", ReplayStoreWarning, stacklevel=4
    )
    return None


def _is_given(field: Field) -> bool:
    """Whether an agent gives the values of a field, with the step or, as those of masks that are mutable,
    later."""
    return field.role == "extra" or (field.role == "mask" and field.mutable)


def _check_fields(env: Any, schema: Schema) -> None:
    """SchemaError at the first field in which the buffer differs from what the environment gives."""
    given = Schema.from_env(env)
    for name, wanted in given.fields.items():
        declared = schema.fields.get(name)
        if declared is None:
            raise SchemaError(
                f"the buffer has no field {name!r}, which the environment gives: create the "
                "buffer from this environment"
            )
        if wanted.role in ("observation", "action"):
            for what in ("dtype", "shape", "space"):
                here, there = getattr(declared, what), getattr(wanted, what)
                wider = what == "dtype" and _is_wider(here, there)
                if here != there and here is not None and not wider:
                    differs = f"has the {what} {here} in the buffer and {there} in the environment"
                    raise SchemaError(f"field {name!r} {differs}: use a buffer created from this environment")
    for name in schema.fields:
        if name not in given.fields and not name.startswith("info/") and not _is_given(schema.fields[name]):
            raise SchemaError(
                f"the buffer has a field {name!r}, which the environment does not give, and whose role is "
                "not 'extra', as that of an agent's (a mutable one may be a 'mask'): record with "
                "buffer.writer instead"
            )
    if odd := given.tuples ^ schema.tuples:
        raise SchemaError(
            f"{min(odd)!r} is a tuple in only one of buffer and environment: create the "
            "buffer from this environment"
        )
