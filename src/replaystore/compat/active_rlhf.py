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

Longer than 400 lines because the original's class is taken over whole, with what a store adds to it. More
than 25 methods because those of that class are all here.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray

from replaystore.buffers.buffer import Buffer
from replaystore.compat import scoring
from replaystore.compat.active_layout import ACTIVE, ActiveState
from replaystore.compat.checks import (
    check_environment,
    check_spaces,
    checked_device,
    checked_rows,
    length_of,
    positive,
    spaces_of,
    width_of,
    zeros,
)
from replaystore.compat.memory_ring import TensorRing, field_attribute
from replaystore.compat.pairs import PreferenceBuffer, PreferenceBufferBatch, TrajectoryPairBatch
from replaystore.compat.resizing import resized
from replaystore.compat.rollouts import RolloutBuffer, RolloutBufferBatch
from replaystore.compat.saving import Saved, Subject, commit_in_place, open_ring, store_of
from replaystore.compat.stored import StoredRing
from replaystore.errors import ArgumentError, FormatError, SchemaError
from replaystore.formats.active_rlhf.pickles import environment_of_folder
from replaystore.formats.finding import find
from replaystore.formats.source import RingSource
from replaystore.schema.environment import environment_of

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

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
FRAGMENT_LENGTH = 50
NAMES = ("obs", "acts", "rews", "dones")


@dataclass
class TrajectoryInfo:
    """A trajectory of a buffer: rows `start_pos` to `start_pos + length`, which may reach round the end."""

    start_pos: int
    length: int
    split: str
    on_policiness_score: float
    last_updated_step: int


@dataclass
class ReplayBufferBatch:
    """Rows (n, …), or fragments (batch, length, …): observations, actions, rewards (…, 1), dones (…, 1)."""

    obs: torch.Tensor
    acts: torch.Tensor
    rews: torch.Tensor
    dones: torch.Tensor


class ReplayBuffer:
    """A ring of `capacity` rows: of tensors on `device`, or, after `load` from a store, of rows on the disk.

    Args:
        envs: a vector environment with observations and actions of one dimension.
        capacity: how many newest rows are kept.
        fragment_length: the length of what is sampled.
        device: where tensors and batches are.

    Raises:
        SchemaError: spaces of other shapes, numbers that are not positive. UnsupportedError: no such device.
    """

    obs = field_attribute("obs")
    acts = field_attribute("acts")
    rews = field_attribute("rews")
    dones = field_attribute("dones")

    _ring: TensorRing | StoredRing

    def __init__(
        self,
        envs: Any,
        capacity: int = 500000,
        fragment_length: int = FRAGMENT_LENGTH,
        device: torch.device | str = DEVICE,
    ) -> None:
        where = checked_device(device)
        widths = (width_of(envs, "observation"), width_of(envs, "action"))
        capacity = positive("capacity", capacity)
        tensors = zeros(capacity, dict(zip(NAMES, (*widths, 1), strict=False)), where)
        tensors["dones"] = torch.zeros((capacity, 1), dtype=torch.bool, device=where)
        self._set_up(TensorRing(tensors, capacity), ActiveState(fragment_length, 0, ()), device, envs)

    def _set_up(
        self, ring: TensorRing | StoredRing, state: ActiveState, device: torch.device | str, envs: Any
    ) -> None:
        self._ring = ring
        self._saved = Saved()
        self.capacity = ring.capacity
        self.fragment_length = positive("fragment_length", state.fragment_length)
        self.device = device
        self.global_step = state.global_step
        self.trajectories = [TrajectoryInfo(*info) for info in state.infos]
        self.env_obs_shape = (int(ring.tensor("obs").shape[1]),)
        self.env_act_shape = (int(ring.tensor("acts").shape[1]),)
        self.envs = envs
        """The environments that it was made or loaded with; None: it was loaded without."""
        recorded, spaces = ring.recorded if isinstance(ring, StoredRing) else (None, {})
        self._spaces = spaces_of(envs) | spaces
        self.environment = recorded or environment_of(envs)
        """What a store says of the environment: its id, and its spec as far as that can be written down."""

    @property
    def pos(self) -> int:
        """The row that is written next."""
        return self._ring.position

    @pos.setter
    def pos(self, value: int) -> None:
        self._memory("pos").position = value

    @property
    def size(self) -> int:
        """How many rows are in use."""
        return self._ring.size

    @size.setter
    def size(self, value: int) -> None:
        self._memory("size").size = value

    def _memory(self, what: str) -> TensorRing:
        if isinstance(self._ring, StoredRing):
            raise SchemaError(
                f"{what} of a buffer in a store follows from its rows: add rows, or save a "
                "pickle and load that"
            )
        return self._ring

    # --- adding

    def add(self, obs: Any, act: Any, rew: Any, done: Any, split: str = "train") -> None:
        """Add a trajectory of n rows: obs (n, O), act (n, A), rew and done (n,) or (n, 1). Trajectories whose
        rows are overwritten go.

        SchemaError: shapes that do not fit, or more rows than the ring can hold at once; nothing is changed
        then. Of a buffer in a store: ConflictError if it was loaded for reading, UnsupportedError for no
        rows."""
        if not isinstance(split, str):
            raise ArgumentError(f"split is a string such as 'train', not {split!r}")
        count = length_of("obs", obs)
        rows = {}
        for name, values in zip(NAMES, (obs, act, rew, done), strict=True):
            tensor = self._ring.tensor(name)
            rows[name] = checked_rows(name, values, count, int(tensor.shape[1]), tensor.dtype)
        start, step = self.pos, self.global_step
        if start + count > 2 * self.capacity:
            most = 2 * self.capacity - start
            raise SchemaError(
                f"{count} rows at once do not fit into a ring of capacity {self.capacity} at position "
                f"{start}: add at most {most}"
            )
        kept = [known for known in self.trajectories if not self._overwritten(known, start, start + count)]
        if isinstance(self._ring, StoredRing):
            self._ring.append(rows, split)
        else:
            self._ring.append(rows)
        self.trajectories[:] = kept
        self.trajectories.append(TrajectoryInfo(start, count, split, 0.0, step))
        self.global_step = step + count
        if count > self.capacity:
            # a store lists a trajectory that is longer than the ring only where it is written anew.
            self.commit()

    def _overwritten(self, known: TrajectoryInfo, start: int, end: int) -> bool:
        """Whether writing [start, end) touches a trajectory, whose own end may lie behind that of the
        ring."""
        begin, stop = known.start_pos, known.start_pos + known.length
        if end <= self.capacity:
            return begin < end and stop > start
        return stop > start or begin < end - self.capacity

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

    # --- saving and loading

    def save(self, filepath: str | os.PathLike[str]) -> None:
        """Write a pickle, which opens in the original, or a store (`.zarr`, `.h5`), which is loaded without
        being read.

        What was there stays until the new file is complete. StorageError; AlreadyExistsError: something else
        than a store is there; ConflictError: the store is open for writing elsewhere, or this buffer was
        loaded from it for reading. SchemaError: a path of a file that this class does not write."""
        place = store_of(filepath)
        if place is None:
            if os.fspath(filepath).lower().endswith(".safetensors"):
                raise SchemaError(
                    f"{filepath}: that is a file of velora; save a store (.zarr, .h5), and make one of it "
                    "with `replaystore convert`"
                )
            ACTIVE.write_file(self._ring, self._state(), os.fspath(filepath))
        else:
            self._saved.save(place, self._subject())

    @classmethod
    def load(
        cls,
        filepath: str | os.PathLike[str],
        envs: Any = None,
        fragment_length: int | None = None,
        device: torch.device | str = DEVICE,
        *,
        mode: Literal["r", "r+"] = "r",
        capacity: int | None = None,
    ) -> Self:
        """Load a pickle into memory, or open a store.

        Args:
            filepath: what was saved, by this class or by the original; any store that was recorded can be
            read, too.
            envs: what the rows were recorded in, as far as the file says; None: that is not compared.
            fragment_length: None: that of the file.
            device: where batches are, and of a pickle the tensors.
            mode: of a store, "r+" to add to it.
            capacity: None: that of the file. A larger one has room for more rows; a smaller one keeps the
                newest, and the trajectories that have all their rows, and a ReplayStoreWarning says what is
                left out. What is loaded is not changed.

        Raises:
            NotFoundError, FormatError, StorageError: no such file, or it is something else, or damaged.
            UnsupportedError: a store of something else, or one that cannot be added to, or not with another
            capacity; or no such device. SchemaError: another environment. ConflictError: another writer.
        """
        where, place = checked_device(device), store_of(filepath)
        capacity = None if capacity is None else positive("capacity", capacity)
        if place is None:
            if mode != "r":
                raise ArgumentError(
                    f"{filepath} is read into memory, so mode={mode!r} has no sense: save it "
                    "to a .zarr store and load that"
                )
            found = find(filepath)
            if found is not None and found != ACTIVE.project and os.path.lexists(filepath):
                raise FormatError(
                    f"{filepath} is a buffer of {found}: load it with replaystore.compat.{found}, or "
                    "make a store of it with "
                    f"`replaystore convert` and load that"
                )
            memory, state = ACTIVE.read_file(os.fspath(filepath), where)
            ring: TensorRing | StoredRing = memory
        else:
            ring = stored = open_ring(place, ACTIVE, mode, where)
            numbers = stored.view.numbers
            state = ActiveState(numbers["fragment_length"], numbers["global_step"], stored.view.infos)
        try:
            check_spaces(
                envs, (int(ring.tensor("obs").shape[1]), int(ring.tensor("acts").shape[1])), filepath
            )
            if isinstance(ring, StoredRing):
                check_environment(envs, *ring.recorded, filepath)
            else:
                check_environment(
                    envs, environment_of_folder(os.fspath(filepath)), {}, filepath, guessed=True
                )
            if fragment_length is not None:
                state.fragment_length = fragment_length
            ring, state.infos = resized(ring, capacity, filepath, state.infos)
            buffer = cls.__new__(cls)
            cls._set_up(buffer, ring, state, device, envs)
        except BaseException:
            ring.close()
            raise
        weakref.finalize(buffer, ring.close)
        return buffer

    def commit(self) -> None:
        """Make everything safe in the store that the buffer was loaded from; of a buffer in memory there is
        nothing to do."""
        if isinstance(self._ring, StoredRing):
            commit_in_place(self._ring, self._subject())

    def close(self) -> None:
        """Commit, if the buffer was loaded for writing, and release its store."""
        if isinstance(self._ring, StoredRing) and self._ring.writable:
            commit_in_place(self._ring, self._subject())
        self._ring.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _state(self) -> ActiveState:
        return ActiveState(
            self.fragment_length, self.global_step, [_info(known) for known in self.trajectories]
        )

    def _subject(self) -> Subject:
        return Subject(self._ring, self._source, self._append_since, self._reconcile)

    def _source(self) -> RingSource:
        source = ACTIVE.source(self._ring, self._state(), self._spaces)
        source.environment = self.environment
        return source

    def _append_since(self, buffer: Buffer, count: int) -> bool:
        """Append the newest trajectories, if they are just the last `count` rows."""
        rest, start, newest = count, self.pos, 0
        while rest > 0 and newest < len(self.trajectories):
            known = self.trajectories[-1 - newest]
            rest, start, newest = rest - known.length, (start - known.length) % self.capacity, newest + 1
            if known.length < 1 or known.start_pos != start:
                return False
        if rest:
            return False
        for known in self.trajectories[len(self.trajectories) - newest :]:
            ACTIVE.append_trajectory(buffer, self._ring, known.start_pos, known.length, known.split)
        return True

    def _reconcile(self, buffer: Buffer) -> bool:
        return ACTIVE.reconcile(buffer, self._state())


def _info(known: TrajectoryInfo) -> tuple[int, int, str, float, int]:
    return (
        int(known.start_pos),
        int(known.length),
        known.split,
        float(known.on_policiness_score),
        int(known.last_updated_step),
    )
