"""Recording wrappers: every real transition of a Gymnasium environment becomes one row of a buffer, and the
caller notices nothing.

Invariants:
1. The caller gets the very objects that the wrapped environment returns.
2. A row is a transition that happened. There is none for the step in which NEXT_STEP resets an environment;
   in SAME_STEP the last observation of a trajectory is the one before the reset; info is that of the step,
   never that of a reset.
3. What cannot be known is not recorded: a step from an observation that was not seen (before the first reset,
   after an error in the environment, after an end that no reset followed) adds no row, and the observation it
   returns begins a trajectory.
4. Values are stored as they are. They are converted where that is exact (and Python's own numbers, which have
   no dtype), else refused. Infos, which the user did not ask for one by one, are left out where they would
   have to be refused.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import gymnasium
import numpy as np
from gymnasium.vector import AsyncVectorEnv, SyncVectorEnv
from numpy.typing import NDArray

from replaystore.errors import ArgumentError, ReplayStoreWarning, SchemaError
from replaystore.gymnasium.infos import InfoColumns, batch_of_one
from replaystore.schema.fields import Field, Schema
from replaystore.schema.names import flatten
from replaystore.schema.spaces import DTYPES
from replaystore.schema.values import array_of, fitted

if TYPE_CHECKING:
    from replaystore.buffers.buffer import Buffer

    _VectorWrapper = gymnasium.vector.VectorWrapper[Any, Any, Any, Any, Any]
else:
    _VectorWrapper = gymnasium.vector.VectorWrapper  # generic in later versions of Gymnasium only

__all__ = ["Record", "RecordVector"]

_Mask = NDArray[np.bool_]
# The values of Gymnasium's AutoresetMode, which 1.0 lacks.
_NEXT_STEP, _SAME_STEP, _DISABLED = "NextStep", "SameStep", "Disabled"
_MAX_SEED = 2**63 - 1


class Record(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Records one environment into a buffer; steps and resets return what the environment returns.

        with rs.create("runs/a.zarr", env) as buffer:
            env = Record(env, buffer)

    `split`: the split of the trajectories. `info`: True records every numeric key of the step's info, a list
    only those keys ("x_position", "episode" or "episode/r"), False none; the info of a reset belongs to no
    step and is not recorded. `commit_every`: commit after so many calls of `step`; by default the caller
    commits (`buffer.commit()`), and what is not committed is lost in a crash.

    A reset in the middle of a trajectory cuts it off: it ends with neither flag set. Gymnasium's Autoreset
    wrapper may be inside. `close` cuts off what is open, commits, and leaves the buffer open.

    SchemaError: the buffer's fields are not those of the environment (a wider dtype is as good); an action,
    reward or observation would have to be changed to be stored. `left_out` counts the info values that were
    not recorded, by key ("*": those of too many keys).
    """

    def __init__(
        self,
        env: gymnasium.Env[Any, Any],
        buffer: Buffer,
        *,
        split: str = "",
        info: bool | Sequence[str] = True,
        commit_every: int | None = None,
    ) -> None:
        super().__init__(env)
        self._recorder = _Recorder(
            env, buffer, 1, split, InfoColumns(buffer, 1, info, masks=False), commit_every, single=True
        )

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Reset the environment; a trajectory begins, which keeps the seed."""
        with self._recorder:
            result = self.env.reset(seed=seed, options=options)
            self._recorder.begin(result[0], [seed])
        return result

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Step the environment and record the transition."""
        recorder = self._recorder
        stored = recorder.actions(action)
        with recorder:
            result = self.env.step(action)
            observation, reward, terminated, truncated, info = result
            infos = batch_of_one(info) if recorder.infos.wanted else {}
            recorder.step(stored, reward, terminated, truncated, observation, infos)
        recorder.count()
        return result

    def close(self) -> None:
        """Close the environment, cut off the open trajectory and commit. The buffer stays open."""
        try:
            super().close()
        finally:
            self._recorder.close()

    @property
    def left_out(self) -> dict[str, int]:
        """How many info values were not recorded, by key."""
        return dict(self._recorder.infos.left_out)


class RecordVector(_VectorWrapper):
    """Records the environments of a vector environment into a buffer, as `Record` does with one.

    `autoreset_mode`: "NextStep", "SameStep" or "Disabled" (or Gymnasium's AutoresetMode) of an environment
    whose `metadata["autoreset_mode"]` does not say it; NEXT_STEP is assumed then, with a warning. All three
    modes give the same trajectories. In SAME_STEP the environment must give "final_obs" in its infos. Put
    wrappers that change observations or infos inside of this one wherever what they make shall be recorded,
    and those that turn arrays into tensors or infos into lists outside.

    Seeds: of environments that are vectors of single ones (Sync, Async) each gets its own, seed + i for a
    single number, as Gymnasium does it; other vector environments have one seed, which all get. Trajectories
    that begin without one have none.
    """

    def __init__(
        self,
        env: gymnasium.vector.VectorEnv[Any, Any, Any],
        buffer: Buffer,
        *,
        split: str = "",
        info: bool | Sequence[str] = True,
        commit_every: int | None = None,
        autoreset_mode: Any = None,
    ) -> None:
        super().__init__(env)
        mode = _mode(env, autoreset_mode)
        reserved = ("final_obs", "final_info") if mode == _SAME_STEP else ()
        infos = InfoColumns(buffer, env.num_envs, info, masks=True, reserved=reserved)
        self._recorder = _Recorder(
            env, buffer, env.num_envs, split, infos, commit_every, same_step=mode == _SAME_STEP
        )
        base = env.unwrapped
        self._is_many = isinstance(base, SyncVectorEnv | AsyncVectorEnv)
        self._resets_some = hasattr(base, "autoreset_mode") or mode == _DISABLED  # not before Gymnasium 1.1
        # Without shared memory, a worker of Gymnasium 1.4 forgets on reset() that it reset, and does so again
        # in the next step.
        self._resets_twice = (
            mode == _NEXT_STEP and isinstance(base, AsyncVectorEnv) and not base.shared_memory
        )

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Reset the environments (those in `options["reset_mask"]`, if given); a trajectory begins in each,
        which keeps its seed."""
        recorder, mask = self._recorder, None
        if self._resets_some and options is not None and options.get("reset_mask") is not None:
            mask = np.array(options["reset_mask"])  # before the environment removes it from the dict
        with recorder:
            result = self.env.reset(seed=seed, options=options)
            ended = recorder.ended
            recorder.begin(result[0], self._seeds(seed), mask)
            if self._resets_twice:
                recorder.forget(ended if mask is None or ended is None else ended & mask)
        return result

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Step the environments and record their transitions."""
        recorder = self._recorder
        stored = recorder.actions(actions)
        with recorder:
            result = self.env.step(actions)
            observation, reward, terminated, truncated, infos = result
            recorder.step(stored, reward, terminated, truncated, observation, infos)
        recorder.count()
        return result

    def skip(self, mask: _Mask) -> None:
        """Record no row of the next step where `mask` (num_envs,) is True: trajectories are cut off there,
        and others begin after it."""
        self._recorder.forget(np.array(mask, dtype=bool))

    def close(self, **kwargs: Any) -> None:
        """Close the environments, cut off the open trajectories and commit. The buffer stays open."""
        try:
            super().close(**kwargs)
        finally:
            self._recorder.close()

    @property
    def left_out(self) -> dict[str, int]:
        """How many info values were not recorded, by key."""
        return dict(self._recorder.infos.left_out)

    def _seeds(self, seed: Any) -> list[int | None]:
        if seed is None:
            return [None] * self.num_envs
        if isinstance(seed, int | np.integer):
            return [int(seed) + place * self._is_many for place in range(self.num_envs)]
        return [None if one is None else int(one) for one in seed]


class _Recorder:
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
        self._nowhere = bytes(num_envs)
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
        if self._lost is not None and self._lost.all():
            return None  # no row will be made of them, and automatic resets take any
        return self._values("action", actions, copy=True)

    def step(
        self, actions: Any, reward: Any, terminated: Any, truncated: Any, observation: Any, infos: Any
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
        seen = stored = self._values("observation", observation)
        final = None
        if any_ended and self._same_step:
            stored, final = self._with_final(seen, infos, ended), infos.get("final_info")
            final = {} if final is None else final
        # Before the step: the last observation of what this cuts off is the one seen before it.
        if lost is not None:
            self._writer.reset(seen, mask=lost)
        mask = None if lost is None else ~lost
        if mask is None or mask.any():
            columns = self.infos.columns(infos, ended if final is not None else lost, final)
            self._writer.step(
                actions, self._value("reward", reward), terminated, truncated, stored, columns, mask=mask
            )
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
        if type(values) is bool and self._single:
            return np.array([values])
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
        declared = self._schema.fields[name]
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
        return f"nothing is rounded, so pass action.astype('{declared.dtype}') if that is meant"
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


def _mode(env: gymnasium.vector.VectorEnv[Any, Any, Any], given: Any) -> str:
    said = env.metadata.get("autoreset_mode") if given is None else given
    mode = getattr(said, "value", said)
    if mode is None:
        # Those of Gymnasium 1.0 have this mode and do not say it.
        if not isinstance(env.unwrapped, SyncVectorEnv | AsyncVectorEnv):
            message = (
                f"{env} has no metadata['autoreset_mode']: NEXT_STEP is assumed; pass autoreset_mode "
                "if it has another"
            )
            warnings.warn(message, ReplayStoreWarning, stacklevel=3)
        return _NEXT_STEP
    if mode not in (_NEXT_STEP, _SAME_STEP, _DISABLED):
        raise ArgumentError(
            f"there is no autoreset mode {said!r}: pass autoreset_mode '{_NEXT_STEP}', "
            f"'{_SAME_STEP}' or '{_DISABLED}'"
        )
    return str(mode)


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
        if name not in given.fields and not name.startswith("info/"):
            raise SchemaError(
                f"the buffer has a field {name!r}, which the environment does not give: "
                "record with buffer.writer instead"
            )
    if odd := given.tuples ^ schema.tuples:
        raise SchemaError(
            f"{min(odd)!r} is a tuple in only one of buffer and environment: create the "
            "buffer from this environment"
        )
