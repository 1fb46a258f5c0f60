"""A drop-in replacement for `active_rlhf.data.buffers`: change the import, and a replay buffer may lie in a
store.

    from replaystore.compat.active_rlhf import ReplayBuffer, PreferenceBuffer, PreferenceBufferBatch

All that the original's module has is here; what is never saved is in `replaystore.compat.pairs` and
`replaystore.compat.rollouts`.

What a trajectory is (the rows of one call of `add`, not an episode), which ones an `add` removes, which
batches a seed gives: all of that is as in the original, which draws from the global generators of torch
(`sample`) and NumPy (all else). What it does otherwise:

* `load` needs neither `fragment_length` nor environments. Environments are compared with those of the file:
  the numbers of components, and the id with its version; where an id is not known, the bounds of the spaces,
  of which it only warns.
* Rewards and dones may have the shape (n, 1) as well. What does not fit is refused before anything is
  written.
* `sample` takes a `split`; priority sampling without a long enough trajectory goes back to that.
* Statistics of an empty buffer can be logged; a bare file name can be saved to; files appear whole or not at
  all; nothing is printed.

`save` and `load` go by the suffix: `.zarr`, `.h5` and `.hdf5` are stores, all else is a pickle.

* A buffer loaded from a store is lazy: `obs`, `acts`, `rews`, `dones` are `LazyTensor`s, of which only the
  rows asked for are read.
* `load(..., mode="r+")` opens the store for writing: each `add` is safe when it returns; scores, splits and
  rows that were set when `save` to the same place, `commit` or `close` returns.
* Saving again to the same store, from the same process, writes only what is new; see
  `replaystore.compat.saving`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from replaystore.compat import scoring
from replaystore.compat.active_ring import NAMES, BufferBase, TrajectoryInfo
from replaystore.compat.pairs import PreferenceBuffer, PreferenceBufferBatch, TrajectoryPairBatch
from replaystore.compat.rollouts import RolloutBuffer, RolloutBufferBatch
from replaystore.errors import SchemaError

__all__ = [
    "PreferenceBuffer",
    "PreferenceBufferBatch",
    "ReplayBuffer",
    "ReplayBufferBatch",
    "RolloutBuffer",
    "RolloutBufferBatch",
    "TrajectoryInfo",
    "TrajectoryPairBatch",
]


@dataclass
class ReplayBufferBatch:
    """Rows (n, …), or fragments (batch, length, …): observations, actions, rewards (…, 1), dones (…, 1)."""

    obs: torch.Tensor
    acts: torch.Tensor
    rews: torch.Tensor
    dones: torch.Tensor


class ReplayBuffer(BufferBase):
    """A ring of `capacity` rows: of tensors on `device`, or, after `load` from a store, of rows on the disk.

    Args:
        envs: a vector environment with observations and actions of one dimension.
        capacity: how many newest rows are kept.
        fragment_length: the length of what is sampled.
        device: where tensors and batches are.

    Raises:
        SchemaError: spaces of other shapes, numbers that are not positive. UnsupportedError: no such device.
    """

    def add_rollout(self, rollout: Any, split: str = "train") -> None:
        """Add a rollout of shape (num_steps, num_envs, …) as one trajectory, in which the rows of the
        environments take turns.

        The rollout has obs, acts or actions, rews or rewards (or ground_truth_rewards, which then count), and
        dones."""
        found = []
        for names in (
            ("obs",),
            ("acts", "actions"),
            ("ground_truth_rews", "ground_truth_rewards", "rews", "rewards"),
            ("dones",),
        ):
            values = next(
                (getattr(rollout, name) for name in names if getattr(rollout, name, None) is not None), None
            )
            if values is None:
                raise SchemaError(
                    f"the rollout has none of the attributes {', '.join(names)}: pass what a "
                    "RolloutBuffer holds"
                )
            found.append(torch.as_tensor(values))
        obs, acts, rews, dones = found
        self.add(
            obs.reshape(-1, *obs.shape[2:]),
            acts.reshape(-1, *acts.shape[2:]),
            rews.reshape(-1),
            dones.reshape(-1),
            split,
        )

    # --- sampling

    def sample(self, batch_size: int, split: str | None = None) -> ReplayBufferBatch:
        """Fragments that begin at any row, and go on over ends of trajectories, splits and the write position
        (torch's generator).

        With a `split` only its rows count, one trajectory after another. RuntimeError: the buffer is empty;
        SchemaError: the split is."""
        steps = torch.arange(self.fragment_length)
        if split is None:
            if not self.size:
                raise RuntimeError(
                    "random_ expects 'from' to be less than 'to', but got from=0 >= to=0; the buffer is "
                    "empty: add rows first"
                )
            starts = torch.randint(0, self.size, (batch_size,))
            return self._batch((starts.unsqueeze(1) + steps) % self.size)
        listed = self._listed(split)
        ends = np.cumsum([known.length for known in listed], dtype=np.int64)
        if not listed or not ends[-1]:
            raise self._no_trajectories(split)
        rows = (torch.randint(0, int(ends[-1]), (batch_size,)).unsqueeze(1) + steps).numpy() % ends[-1]
        owner = np.searchsorted(ends, rows, side="right")
        first = np.array(
            [known.start_pos - end + known.length for known, end in zip(listed, ends.tolist(), strict=True)]
        )
        return self._batch(torch.from_numpy((first[owner] + rows) % self.capacity))

    def sample2(self, batch_size: int, split: str = "train") -> ReplayBufferBatch:
        """Fragments of trajectories of a split that are long enough, each of which is as likely as the others
        (NumPy's generator).

        SchemaError (a ValueError): there is none."""
        eligible = self._eligible(split)
        if not eligible and batch_size:
            longest = max((known.length for known in self._listed(split)), default=0)
            hint = (
                f"load it with fragment_length={longest} or less"
                if longest
                else (f"there are the splits {self._splits()}")
            )
            lacking = f"no trajectory of split {split!r} has {self.fragment_length} rows"
            raise SchemaError(f"a must be greater than 0 unless no samples are taken: {lacking}; {hint}")
        return self._fragments(eligible, np.random.choice(len(eligible), size=batch_size))

    def sample_by_on_policiness(self, batch_size: int, agent: Any, split: str = "train") -> ReplayBufferBatch:
        """As `sample2`, after scoring all trajectories anew; the more a score is above the mean, the
        likelier, below it never.

        Without a trajectory that is long enough: `sample` with the split."""
        self.update_on_policiness_scores(agent)
        eligible = self._eligible(split)
        if not eligible:
            return self.sample(batch_size, split=split)
        likely = scoring.likelihoods([known.on_policiness_score for known in eligible])
        return self._fragments(eligible, np.random.choice(len(eligible), size=batch_size, p=likely))

    def _listed(self, split: str | None) -> list[TrajectoryInfo]:
        return [known for known in self.trajectories if split is None or known.split == split]

    def _splits(self) -> str:
        return ", ".join(sorted({repr(known.split) for known in self.trajectories})) or "of no trajectory"

    def _no_trajectories(self, split: str | None) -> SchemaError:
        return SchemaError(f"No trajectories found for split: {split}; there are the splits {self._splits()}")

    def _eligible(self, split: str) -> list[TrajectoryInfo]:
        return [
            known
            for known in self.trajectories
            if known.split == split and known.length >= self.fragment_length
        ]

    def _fragments(self, eligible: Sequence[TrajectoryInfo], chosen: NDArray[np.int64]) -> ReplayBufferBatch:
        length = self.fragment_length
        drawn = [eligible[number] for number in chosen.tolist()]
        starts = [known.start_pos + np.random.randint(0, known.length - length + 1) for known in drawn]
        places = (np.array(starts, np.int64)[:, None] + np.arange(length)) % self.capacity
        return self._batch(torch.from_numpy(places))

    def _batch(self, places: torch.Tensor) -> ReplayBufferBatch:
        return ReplayBufferBatch(**self._ring.gather(NAMES, places))

    def _places(self, known: TrajectoryInfo) -> NDArray[np.int64]:
        """The rows of a trajectory; of one that is longer than the ring some are there twice."""
        return (known.start_pos + np.arange(known.length)) % self.capacity

    # --- trajectories

    def update_on_policiness_scores(self, agent: Any) -> None:
        """Score each trajectory by the sum of the log-probabilities that the agent gives its actions.

        The agent has `get_action_and_value(obs, acts)`, which gives a tuple with the log-probabilities in the
        second place."""
        with torch.no_grad():
            for known in self.trajectories:
                places = torch.from_numpy(self._places(known))
                logprobs = agent.get_action_and_value(self.obs[places], self.acts[places])[1]
                known.on_policiness_score = float(logprobs.sum().item())
                known.last_updated_step = self.global_step

    def get_all_trajectories(self, split: str | None = None) -> ReplayBufferBatch:
        """The rows of all trajectories (of a split), one after another, in memory. SchemaError (a
        ValueError): there is none."""
        listed = self._listed(split)
        if not listed:
            raise self._no_trajectories(split)
        return self._batch(torch.from_numpy(np.concatenate([self._places(known) for known in listed])))

    def get_trajectory_statistics(self) -> dict[str, Any]:
        """Numbers of trajectories, and of lengths and scores the mean, standard deviation, smallest and
        largest value."""
        return scoring.summary(self.trajectories)

    def log_trajectory_statistics(self, writer: Any, global_step: int) -> None:
        """Write the statistics to a TensorBoard `SummaryWriter`, under replay_buffer/."""
        scoring.log(self.trajectories, writer, global_step)
