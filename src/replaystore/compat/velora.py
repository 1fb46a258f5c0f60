"""A drop-in replacement for `velora.buffer`: change the import, and a buffer may lie in a store.

    from replaystore.compat.velora import ReplayBuffer

An agent of velora makes its own buffer; one line puts ours in its place: `agent.buffer =
ReplayBuffer.adopt(agent.buffer, "b.zarr")`.

Results, seeded batches and errors are those of velora 0.2.0, except that hidden states may be left out
(zeros), that an error leaves the buffer as it was, that `warm` refuses what it could never reach, and that
`load` checks what it loads.

`save` and `load` go by the suffix: a folder as velora does it (two files), or a store ("runs/x/buffer.zarr",
"buffer.h5"):

* A buffer loaded from a store is lazy: `states`, `actions`, … are `LazyTensor`s, of which only the rows asked
  for are read.
* `load(..., mode="r+")` opens the store for writing: `add` writes to it. Rows become safe, and visible to
  others, in blocks of `PENDING_ROWS`, and at `save` to the same place, `commit` and `close`.
* Saving again to the same store, from the same process, writes only what is new; see
  `replaystore.compat.saving`.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import gymnasium
import torch

from replaystore.compat.checks import checked_device
from replaystore.compat.memory_ring import TensorRing
from replaystore.compat.saving import store_of
from replaystore.compat.velora_ring import FIELDS, BufferBase
from replaystore.errors import ArgumentError, NotFoundError, SchemaError
from replaystore.formats.velora.pair import KEYS
from replaystore.location import Location

__all__ = ["BatchExperience", "BufferBase", "BufferConfig", "ReplayBuffer"]


@dataclass
class BatchExperience:
    """A batch of transitions; each tensor has the shape (batch_size, features) and is float32."""

    states: torch.Tensor
    actions: torch.Tensor
    rewards: torch.Tensor
    next_states: torch.Tensor
    dones: torch.Tensor
    hiddens: torch.Tensor


@dataclass(frozen=True)
class BufferConfig:
    """What `ReplayBuffer.config` gives where velora is not installed; otherwise it is velora's own model of
    the same fields."""

    type: str
    capacity: int
    state_dim: int
    action_dim: int
    hidden_dim: int


class ReplayBuffer(BufferBase):
    """A buffer that is sampled from uniformly. See `BufferBase` for its arguments."""

    @classmethod
    def adopt(cls, buffer: Any, path: str | os.PathLike[str] | None = None) -> Self:
        """One of ours in the place of the buffer that an agent of velora has made, with the transitions that
        are in it.

            agent.buffer = ReplayBuffer.adopt(agent.buffer, "runs/x/buffer.zarr")

        Args:
            buffer: any buffer with velora's `metadata()` and `state_dict()`.
            path: the store that it is to lie in. One that is there is gone on with, if `buffer` is empty.
            None: it stays in memory.

        Raises:
            SchemaError: the store is of other dimensions, or not for a buffer that has transitions. All that
            `save` and `load` raise.
        """
        known = dict(buffer.metadata())
        place = None if path is None else store_of(path)
        if path is not None and place is None:
            raise ArgumentError(f"{path} is not the name of a store: choose one that ends in .zarr or .h5")
        ours = cls._adopted(buffer, known, place)
        ours.device = getattr(buffer, "device", ours.device)  # None is kept: the agent's checkpoints say so
        return ours

    @classmethod
    def _adopted(cls, buffer: Any, known: Mapping[str, Any], place: Location | None) -> Self:
        if place is not None and (found := cls._found(place, known)) is not None:
            return found
        state = {name: tensor.detach().clone() for name, tensor in buffer.state_dict().items()}
        ring = TensorRing({name: state[name] for name in FIELDS}, known["capacity"])
        ring.size, ring.position = known["size"], known["position"]
        ours = cls._of(ring, {key: known[key] for key in KEYS[:4]}, checked_device(known["device"]))
        if place is None:
            return ours
        ours.save(str(place))
        return cls.load(str(place), mode="r+", device=known["device"])

    @classmethod
    def _found(cls, place: Location, known: Mapping[str, Any]) -> Self | None:
        """The buffer of a store that is to go on instead of an empty one; None: there is no store."""
        try:
            found = cls.load(str(place), mode="r+", device=known["device"])
        except NotFoundError:
            return None
        have = {key: getattr(found, key) for key in KEYS[:4]}
        differing = [key for key in KEYS[:4] if have[key] != known[key]]
        if differing or known["size"]:
            found.close()
        if differing:
            key = differing[0]
            raise SchemaError(
                f"{place} has {key}={have[key]}, and the agent's buffer {key}={known[key]}: "
                "choose another name"
            )
        if known["size"]:
            raise SchemaError(
                f"{place} is there, and the agent's buffer has {known['size']} transitions: "
                "choose another name"
            )
        return found

    def config(self) -> Any:
        """What the buffer is, as velora's `BufferConfig` (or, without velora, as ours of the same fields)."""
        try:
            model = importlib.import_module("velora.models.config").BufferConfig
        except ImportError:
            model = BufferConfig
        dimensions = {
            "state_dim": self.state_dim,
            "action_dim": self.action_dim,
            "hidden_dim": self.hidden_dim,
        }
        return model(type="ReplayBuffer", capacity=self.capacity, **dimensions)

    # --- sampling

    def warm(self, agent: Any, n_samples: int, num_envs: int = 8) -> None:
        """Let the agent act in `num_envs` copies of its environment until there are `n_samples` transitions,
        or a few more.

        ValueError: `num_envs` below 2. SchemaError: more samples than the capacity."""
        if num_envs < 2:
            raise ValueError(f"'{num_envs=}' cannot be smaller than 2.")
        if n_samples > self.capacity:
            raise ArgumentError(
                f"n_samples={n_samples} is more than the capacity of {self.capacity}: ask for "
                "at most that many"
            )
        envs = gymnasium.make_vec(agent.env.spec.id, num_envs=num_envs, vectorization_mode="sync")
        try:
            hidden = None
            states = self._seen(envs.reset()[0], agent.device)
            while len(self) < n_samples:
                actions, hidden = agent.predict(states, hidden, train_mode=True)
                after, *outcome, _ = envs.step(actions.detach().cpu().numpy())
                next_states, rewards, terminated, truncated = (
                    self._seen(values, agent.device) for values in (after, *outcome)
                )
                self.add_multi(states, actions, rewards, next_states, terminated | truncated, hidden)
                states = next_states
        finally:
            envs.close()

    @staticmethod
    def _seen(values: Any, device: torch.device | str | None) -> torch.Tensor:
        return torch.tensor(values, device=device)  # a copy: the environments use their arrays again

    def sample(self, batch_size: int) -> BatchExperience:
        """Transitions drawn with replacement by torch's global generator (that of `device`).

        ValueError: there are fewer than `batch_size`."""
        if len(self) < batch_size:
            raise ValueError(
                f"Buffer does not contain enough experiences. Available: {len(self)}, Requested: {batch_size}"
            )
        indices = torch.randint(0, self.size, (batch_size,), device=self.device)
        return BatchExperience(**self._ring.gather(FIELDS, indices))
