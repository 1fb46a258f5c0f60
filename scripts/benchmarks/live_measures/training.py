"""The wall time of a training: DQN on CartPole that learns at every step, from a buffer that is recorded and
sampled live, beside the same loop with arrays in memory."""

from __future__ import annotations

import copy
import importlib.util
import time
from collections.abc import Callable, Mapping
from typing import Any

import gymnasium
import numpy as np
from measuring import Context, Result, check, interleaved, remove, skipped
from measuring.timing import results

import replaystore as rs
from live_measures.floors import Written
from replaystore.gymnasium import Record

__all__ = ["MEASURES"]

BATCH, BEGIN, GAMMA, EXPLORED = 64, 500, 0.99, 1_000
"""Steps of a batch, those before the first is drawn; what the next reward is worth; how long is explored."""
ARRAYS, FLOOR, OURS = "arrays in memory", "arrays, written too", "replaystore, Zarr"
Batch = Mapping[str, Any]


class Ring:
    """Arrays that are written round and round, drawn from by `take`."""

    def __init__(self, capacity: int) -> None:
        import torch

        self._tensor = torch.from_numpy
        self._rng, self.count = np.random.default_rng(0), 0
        self._columns: dict[str, np.ndarray[Any, Any]] = {
            "observation": np.zeros((capacity, 4), np.float32),
            "next_observation": np.zeros((capacity, 4), np.float32),
            "action": np.zeros(capacity, np.int64),
            "reward": np.zeros(capacity, np.float64),
            "terminated": np.zeros(capacity, np.bool_),
        }

    def add(self, *values: Any) -> None:
        """One step, in the order of the columns."""
        place = self.count % len(self._columns["reward"])
        for column, value in zip(self._columns.values(), values, strict=True):
            column[place] = value
        self.count += 1

    def sample(self) -> Batch:
        """A batch of tensors."""
        rows = self._rng.integers(0, min(self.count, len(self._columns["reward"])), BATCH)
        return {name: self._tensor(column.take(rows, axis=0)) for name, column in self._columns.items()}


def train(env: Any, steps: int, add: Callable[..., object], sample: Callable[[], Batch]) -> float:
    """Seconds that so many steps take, with a step of Q-learning after each."""
    import torch
    from torch import nn

    torch.manual_seed(0)
    torch.set_num_threads(1)
    net = nn.Sequential(nn.Linear(4, 64), nn.ReLU(), nn.Linear(64, 2))
    target, optimizer = copy.deepcopy(net), torch.optim.Adam(net.parameters(), 1e-3)
    rng, begin = np.random.default_rng(0), time.perf_counter()
    observation, _ = env.reset(seed=0)
    for step in range(1, steps + 1):
        if rng.random() < max(0.05, 1 - step / EXPLORED):
            action = int(rng.integers(2))
        else:
            with torch.no_grad():
                action = int(net(torch.from_numpy(observation)).argmax())
        following, reward, terminated, truncated, _ = env.step(action)
        add(observation, following, action, reward, terminated)
        observation = env.reset()[0] if terminated or truncated else following
        if step < BEGIN:
            continue
        batch = sample()
        with torch.no_grad():
            best = target(batch["next_observation"]).max(1).values
            wanted = batch["reward"] + GAMMA * best * ~batch["terminated"]
        chosen = net(batch["observation"]).gather(1, batch["action"][:, None])[:, 0]
        optimizer.zero_grad()
        nn.functional.smooth_l1_loss(chosen, wanted.float()).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        if step % 200 == 0:
            target.load_state_dict(net.state_dict())
    return time.perf_counter() - begin


def dqn(context: Context) -> list[Result]:
    """In a ring that is not full at the end, and in one that has gone round by then."""
    if importlib.util.find_spec("torch") is None:
        return [skipped("DQN on CartPole", OURS, "torch is not installed")]
    steps, found = context.choose(6_000, 800), list[Result]()
    for capacity, how in ((10 * steps, "all steps kept"), (steps // 6, "a ring of a sixth")):
        what = f"DQN on CartPole, {steps} steps, {how}"
        context.say(what)

        def arrays(capacity: int = capacity) -> float:
            env, ring = gymnasium.make("CartPole-v1"), Ring(capacity)
            return train(env, steps, ring.add, ring.sample)

        def written(capacity: int = capacity) -> float:
            env, place = gymnasium.make("CartPole-v1"), context.folder / "written"
            ring = Written(capacity, BATCH, place)
            taken = train(env, steps, ring.add, ring.sample)
            ring.close()
            remove(place)
            return taken

        def ours(capacity: int = capacity) -> float:
            env, place = gymnasium.make("CartPole-v1"), context.folder / "dqn.zarr"
            with rs.create(place, env, capacity=capacity, durability="none") as buffer:
                sampler = buffer.sampler(BATCH, live=True, seed=0, device="cpu")
                taken = train(Record(env, buffer), steps, lambda *_: None, sampler.sample)
                begin = time.perf_counter()
                buffer.commit()
                taken += time.perf_counter() - begin
                check(len(buffer) == min(capacity, steps), str(place), "steps")
            remove(place)
            return taken

        seconds = interleaved({ARRAYS: arrays, FLOOR: written, OURS: ours}, context.choose(5, 1))
        found += results(what, seconds, ARRAYS, {OURS: 1.1})
    return found


MEASURES = {"training": dqn}
