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
from typing import TYPE_CHECKING, Any

import gymnasium
import numpy as np
from gymnasium.vector import AsyncVectorEnv, SyncVectorEnv
from numpy.typing import NDArray

from replaystore.errors import ArgumentError, ReplayStoreWarning
from replaystore.gymnasium.fitting import refuse_shared_texts
from replaystore.gymnasium.infos import InfoColumns, batch_of_one
from replaystore.gymnasium.recording import EnvironmentRecorder

if TYPE_CHECKING:
    from replaystore.buffers.buffer import Buffer

    _VectorWrapper = gymnasium.vector.VectorWrapper[Any, Any, Any, Any, Any]
else:
    _VectorWrapper = gymnasium.vector.VectorWrapper  # generic in later versions of Gymnasium only

__all__ = ["Record", "RecordVector"]

_Mask = NDArray[np.bool_]
# The values of Gymnasium's AutoresetMode, which 1.0 lacks.
_NEXT_STEP, _SAME_STEP, _DISABLED = "NextStep", "SameStep", "Disabled"


class Record(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Records one environment into a buffer; steps and resets return what the environment returns.

        with rs.create("runs/a.zarr", env) as buffer:
            env = Record(env, buffer)

    `split`: the split of the trajectories. `info`: True records every numeric key of the step's info, a list
    only those keys ("x_position", "episode" or "episode/r"), False none; the info of a reset belongs to no
    step and is not recorded. `commit_every`: commit after so many calls of `step`; by default the caller
    commits (`buffer.commit()`), and what is not committed is lost in a crash.

    Fields of the agent's (role "extra", made by `add_field`, or `Schema.from_env(env, extra={"logprob": …})`)
    are given with each step: `env.step(action, extra={"logprob": …})`, nested or by field name.

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
        self._recorder = EnvironmentRecorder(
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

    def step(
        self, action: Any, *, extra: Mapping[str, Any] | None = None
    ) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Step the environment and record the transition; `extra`: the values of the agent's fields."""
        recorder = self._recorder
        given, stored = recorder.extras(extra), recorder.actions(action)
        with recorder:
            result = self.env.step(action)
            observation, reward, terminated, truncated, info = result
            infos = batch_of_one(info) if recorder.infos.wanted else {}
            recorder.step(stored, reward, terminated, truncated, observation, infos, given)
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
    whose `metadata["autoreset_mode"]` does not say it; NEXT_STEP is assumed then, with a warning. One that
    contradicts the metadata is an ArgumentError. All three modes give the same trajectories. In SAME_STEP the
    environment must give "final_obs" in its infos. Put wrappers that change observations or infos inside of
    this one wherever what they make shall be recorded, and those that turn arrays into tensors or infos into
    lists outside.

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
        refuse_shared_texts(env)
        reserved = ("final_obs", "final_info") if mode == _SAME_STEP else ()
        infos = InfoColumns(buffer, env.num_envs, info, masks=True, reserved=reserved)
        self._recorder = EnvironmentRecorder(
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

    def step(
        self, actions: Any, *, extra: Mapping[str, Any] | None = None
    ) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Step the environments and record their transitions; `extra`: the values of the agent's fields, of
        all environments."""
        recorder = self._recorder
        given, stored = recorder.extras(extra), recorder.actions(actions)
        with recorder:
            result = self.env.step(actions)
            observation, reward, terminated, truncated, infos = result
            recorder.step(stored, reward, terminated, truncated, observation, infos, given)
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


def _mode(env: gymnasium.vector.VectorEnv[Any, Any, Any], given: Any) -> str:
    known = env.metadata.get("autoreset_mode")
    known = getattr(known, "value", known)
    said = known if given is None else given
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
    if known not in (None, mode):
        raise ArgumentError(
            f"autoreset_mode says {mode!r}, and the metadata of {env} {known!r}: leave out autoreset_mode, "
            "or make an environment that resets so, whose metadata says it"
        )
    return str(mode)
