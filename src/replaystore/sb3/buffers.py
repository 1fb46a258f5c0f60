"""Drop-in replay buffers for Stable-Baselines3: `replay_buffer_class=replaystore.sb3.ReplayBuffer`,
`replay_buffer_kwargs={"location": "runs/a.zarr"}`.

Batches are those of Stable-Baselines3's own buffers, bit for bit, after the same seed of `numpy.random`. What
is otherwise:

* Steps lie in the store, not in memory, observations once. What is there already is gone on with; a
  constructor empties nothing, so that `model.load()` destroys nothing. What does not fit is refused.
* A pickle of the buffer (`save_replay_buffer`) names the store and a commit of it. Loaded, it shows that
  commit; what was added after it is given up when something is added, and not before. Of a ring the rows of
  the newest save are kept; to load older ones, give `keep_all=True`.
* `optimize_memory_usage` is refused: observations are there once anyway, and time limits are told apart. So
  are hindsight (`HerReplayBuffer`) and `n_steps`: a sampler of the store has both, `relabel="future"` and
  `n_step=`.
* What ends by a time limit and otherwise at once is terminated, as Stable-Baselines3 tells it.
* `reset()` is refused, and there are no arrays `observations`, `dones`, …: open the store to read them.
"""

from __future__ import annotations

import os
import weakref
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common import buffers as theirs
from stable_baselines3.common.type_aliases import DictReplayBufferSamples, ReplayBufferSamples
from stable_baselines3.common.vec_env import VecNormalize

from replaystore.errors import ArgumentError, UnsupportedError
from replaystore.location import expanded, parse
from replaystore.registry import PLAIN
from replaystore.sb3.ring import Ring, Settings
from replaystore.schema.field import Field
from replaystore.schema.fields import Schema

__all__ = ["DictReplayBuffer", "ReplayBuffer"]

_LATE = "TimeLimit.truncated"


class ReplayBuffer(theirs.ReplayBuffer):  # type: ignore[misc]  # it is not known here
    """A replay buffer in a store.

    Args:
        buffer_size, observation_space, action_space, device, n_envs, handle_timeout_termination: as those of
            Stable-Baselines3's own.
        location: of the store, "runs/a.zarr". What is there is gone on with.
        keep_all: keep in the store what has left the ring, as data of the whole run.
        commit_seconds: what was added is safe after so many seconds, and with each save.
        durability: "none": safe from a kill of the process, not from a power cut; nothing waits for the disk.
    """

    def __init__(
        self,
        buffer_size: int,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        device: torch.device | str = "auto",
        n_envs: int = 1,
        optimize_memory_usage: bool = False,
        handle_timeout_termination: bool = True,
        *,
        location: str | os.PathLike[str] | None = None,
        keep_all: bool = False,
        commit_seconds: float = 5.0,
        durability: str = "commit",
        **others: Any,
    ) -> None:
        super(theirs.ReplayBuffer, self).__init__(
            buffer_size, observation_space, action_space, device, n_envs=n_envs
        )
        self._refuse(location, optimize_memory_usage, others)
        self.buffer_size = max(buffer_size // n_envs, 1)
        self.optimize_memory_usage = False
        self.handle_timeout_termination = handle_timeout_termination
        path = os.fspath(location)  # type: ignore[arg-type]
        self._settings = Settings(_absolute(path), keep_all, commit_seconds, durability)
        self._use(None)

    def _refuse(self, location: Any, optimize_memory_usage: bool, others: dict[str, Any]) -> None:
        if isinstance(self.observation_space, spaces.Dict) != isinstance(self, DictReplayBuffer):
            right = "ReplayBuffer" if isinstance(self, DictReplayBuffer) else "DictReplayBuffer"
            raise ArgumentError(
                f"observations of {type(self.observation_space).__name__} need replaystore.sb3.{right}"
            )
        if not isinstance(location, str | os.PathLike):
            raise ArgumentError(
                'the buffer needs a place: replay_buffer_kwargs={"location": "runs/a.zarr"}, '
                f"not {location!r:.60}"
            )
        if optimize_memory_usage:
            raise UnsupportedError(
                "optimize_memory_usage: observations are in a store once anyway: leave it out, and time "
                "limits are told apart, too"
            )
        if {"n_steps", "gamma"} & others.keys():
            raise UnsupportedError(
                "n_steps: a buffer in a store gives single steps to Stable-Baselines3: leave it out, or "
                "sample the store yourself, buffer.sampler(n_step=…)"
            )
        if others:
            raise TypeError(f"{type(self).__name__} has no argument {min(others)!r}")

    def _use(self, commit: int | None) -> None:
        """Show the store, as of a commit."""
        action: Any = self.action_space
        schema = Schema.from_spaces(self.observation_space, action, reward_dtype=np.float32)
        fields = dict(schema.fields)
        declared = fields.get("action")
        if declared is None or schema.ragged:
            raise UnsupportedError(
                f"{self._settings.location}: observations and actions are not both arrays of one shape"
            )
        if declared.dtype == np.float64:
            fields["action"] = Field(np.float32, declared.shape, "action", declared.space)
        self._schema = Schema(fields, schema.tuples, schema.graphs)
        self._ring = Ring(self._settings, self._schema, self.buffer_size, self.n_envs, commit)
        self._finish = weakref.finalize(self, self._ring.close)
        self.pos, self.full = self._ring.position, self._ring.full
        self._columns = {
            name: (declared.dtype, (self.n_envs, *declared.shape)) for name, declared in fields.items()
        }
        self._none = np.zeros(self.n_envs, np.bool_)
        self._flags = ("terminated",) if self.handle_timeout_termination else ("terminated", "truncated")
        self._names = (*schema.names("observation"), "action", "reward", *self._flags)

    @property
    def location(self) -> str:
        """Where the store is."""
        return self._settings.location

    # --- steps

    def _row(self, name: str, value: Any) -> NDArray[Any]:
        """As it is stored."""
        dtype, shape = self._columns[name]
        if type(value) is np.ndarray and value.dtype == dtype and value.shape == shape:
            return value
        return np.asarray(value).astype(dtype).reshape(shape)

    def _observed(self, value: Any) -> dict[str, NDArray[Any]]:
        return {"observation": self._row("observation", value)}

    def add(
        self,
        obs: Any,
        next_obs: Any,
        action: NDArray[Any],
        reward: NDArray[Any],
        done: NDArray[Any],
        infos: list[dict[str, Any]],
    ) -> None:
        """A step of each environment, as Stable-Baselines3 has it."""
        ended, late = self._row("terminated", done), [bool(info.get(_LATE, False)) for info in infos]
        columns = self._observed(obs)
        columns["action"], columns["reward"] = self._row("action", action), self._row("reward", reward)
        if True in late:
            columns["terminated"] = ended & ~np.array(late)
            columns["truncated"] = ended & np.array(late)
        else:
            columns["terminated"], columns["truncated"] = ended, self._none
        ring = self._ring
        ring.add(columns, self._observed(next_obs))
        self.pos, self.full = ring.position, ring.full

    def sample(self, batch_size: int, env: VecNormalize | None = None) -> Any:
        """A batch, as Stable-Baselines3 draws it."""
        return super(theirs.ReplayBuffer, self).sample(batch_size=batch_size, env=env)

    def _taken(self, batch_inds: NDArray[Any], env: VecNormalize | None) -> tuple[Any, Any, Any, Any, Any]:
        """Observations, actions, next observations, dones and rewards."""
        env_indices = np.random.randint(0, high=self.n_envs, size=(len(batch_inds),))
        found, after = self._ring.take(self._names, batch_inds, env_indices)
        dones = found["terminated"]
        if not self.handle_timeout_termination:
            dones = dones | found["truncated"]
        count = len(batch_inds)
        rewards = self._normalize_reward(found["reward"].reshape(-1, 1), env)
        return (
            self._nested(found, env),
            self._tensor(found["action"].reshape(count, self.action_dim)),
            self._nested(after, env),
            self._tensor(dones.astype(np.float32).reshape(-1, 1)),
            self._tensor(rewards),
        )

    def _nested(self, found: dict[str, NDArray[Any]], env: VecNormalize | None) -> Any:
        shape: Any = self.obs_shape
        rows = found["observation"]
        return self._tensor(self._normalize_obs(rows.reshape(len(rows), *shape), env))

    def _tensor(self, array: Any) -> torch.Tensor:
        found: torch.Tensor = self.to_torch(array, copy=False)
        return found

    def _get_samples(self, batch_inds: NDArray[Any], env: VecNormalize | None = None) -> Any:
        return ReplayBufferSamples(*self._taken(batch_inds, env))

    def reset(self) -> None:
        """Is refused: what is in a store stays there."""
        raise UnsupportedError(
            f"{self.location}: a buffer in a store is not emptied by reset: choose another location"
        )

    # --- keeping

    def commit(self, name: str | None = None) -> int | None:
        """Make all steps safe; the number of the commit."""
        return self._ring.commit(name)

    def close(self) -> None:
        """Make all steps safe, and give the store free."""
        self._finish()

    def __getstate__(self) -> dict[str, Any]:
        ring = self._ring
        commit = ring.commit(f"saved-{ring.steps * ring.envs}")
        gone = ("_ring", "_finish", "_columns", "_schema", "_flags", "_names", "_none")
        return {k: v for k, v in self.__dict__.items() if k not in gone} | {"_saved": commit}

    def __setstate__(self, state: dict[str, Any]) -> None:
        saved = state.pop("_saved")
        self.__dict__.update(state)
        self._use(saved)


class DictReplayBuffer(ReplayBuffer, theirs.DictReplayBuffer):  # type: ignore[misc]
    """A replay buffer in a store, of observations that are a Dict; arguments as those of `ReplayBuffer`."""

    def _observed(self, value: Any) -> dict[str, NDArray[Any]]:
        return {
            name: self._row(name, rows) for name, rows in self._schema.flatten(value, "observation").items()
        }

    def _nested(self, found: dict[str, NDArray[Any]], env: VecNormalize | None) -> Any:
        names = self._schema.names("observation")
        nested: Any = self._schema.unflatten({name: found[name] for name in names}, "observation")
        shapes: Any = self.obs_shape
        rows = {key: values.reshape(len(values), *shapes[key]) for key, values in nested.items()}
        return {key: self._tensor(values) for key, values in self._normalize_obs(rows, env).items()}

    def _get_samples(self, batch_inds: NDArray[Any], env: VecNormalize | None = None) -> Any:
        observations, actions, after, dones, rewards = self._taken(batch_inds, env)
        return DictReplayBufferSamples(
            observations=observations,
            actions=actions,
            next_observations=after,
            dones=dones,
            rewards=rewards,
        )


def _absolute(location: str) -> str:
    """The same place, by a name that means it from any folder."""
    plain = parse(location).storage == PLAIN
    return os.path.abspath(expanded(location)) if plain else location
