"""Agents of Stable-Baselines3 whose replay buffer lies in a store, beside the same agents with its own:
the wall time of a training, with the weights that come out compared; and steps and batches alone."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from measuring import Context, Result, check, interleaved, remove, skipped
from measuring.timing import results

from live_measures import peers

__all__ = ["MEASURES"]

OWN, OURS = "its own buffer", "replaystore.sb3"
ENVIRONMENTS = {"SAC": "Pendulum-v1", "DQN": "CartPole-v1"}
STEPS = {"SAC": (800, 120), "DQN": (6_000, 400)}


def training(context: Context) -> list[Result]:
    """SAC and DQN as they come, with one environment."""
    if reason := peers.reason("stable-baselines3"):
        return [skipped("agents of Stable-Baselines3", OURS, reason)]
    import stable_baselines3
    import torch

    from replaystore.sb3 import ReplayBuffer

    torch.set_num_threads(1)
    found = []
    for kind, name in ENVIRONMENTS.items():
        steps = context.choose(*STEPS[kind])
        what = f"{kind} on {name}, {steps} steps"
        context.say(what)
        weights: dict[str, list[Any]] = {}

        def learn(
            variant: str,
            kind: str = kind,
            name: str = name,
            steps: int = steps,
            weights: dict[str, list[Any]] = weights,
        ) -> float:
            place, more = context.folder / "agent.zarr", dict[str, Any]()
            if variant == OURS:
                more = {"replay_buffer_class": ReplayBuffer, "replay_buffer_kwargs": {"location": place}}
            maker = getattr(stable_baselines3, kind)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                agent = maker("MlpPolicy", name, seed=0, device="cpu", buffer_size=100_000, **more)
                begin = time.perf_counter()
                agent.learn(steps)
                taken = time.perf_counter() - begin
            weights[variant] = [value.numpy() for value in agent.policy.state_dict().values()]
            if variant == OURS:
                agent.replay_buffer.close()
                remove(place)
            return taken / steps

        variants = {variant: (lambda variant=variant: learn(variant)) for variant in (OWN, OURS)}
        seconds = interleaved(variants, context.choose(7, 1))
        for one, other in zip(weights[OWN], weights[OURS], strict=True):
            check(np.array_equal(one, other), what, "weights")
        found += results(what, seconds, OWN, {OURS: 1.05})
    return found


def steps(context: Context) -> list[Result]:
    """A step, and a batch of 256, when there are 50,000."""
    if reason := peers.reason("stable-baselines3"):
        return [skipped("steps of Stable-Baselines3", OURS, reason)]
    from gymnasium import spaces
    from stable_baselines3.common.buffers import ReplayBuffer as Own

    from replaystore.sb3 import ReplayBuffer

    box, action = spaces.Box(-np.inf, np.inf, (17,), np.float32), spaces.Box(-1, 1, (6,), np.float32)
    size, place = context.choose(50_000, 2_000), context.folder / "steps.zarr"
    buffers = {
        OWN: Own(size, box, action, device="cpu"),
        OURS: ReplayBuffer(size, box, action, device="cpu", location=place),
    }
    rows = np.random.default_rng(0).normal(size=(1000, 1, 17)).astype(np.float32)
    told = np.zeros(1, np.bool_), [{"TimeLimit.truncated": False}]

    def adding(buffer: Any, count: int) -> Callable[[], float]:
        def run() -> float:
            begin = time.perf_counter()
            for step in range(count):
                at = step % 999
                buffer.add(rows[at], rows[at + 1], rows[at, :, :6], rows[at, :, 0], *told)
            return (time.perf_counter() - begin) / count

        return run

    def drawing(buffer: Any) -> Callable[[], float]:
        def run() -> float:
            begin = time.perf_counter()
            for _ in range(100):
                buffer.sample(256)
            return (time.perf_counter() - begin) / 100

        return run

    for buffer in buffers.values():
        adding(buffer, size)()
    found = []
    for what, variant in (("add one step", lambda one: adding(one, 500)), ("sample 256", drawing)):
        context.say(what)
        variants = {name: variant(buffer) for name, buffer in buffers.items()}
        found += results(f"Stable-Baselines3, {what}", interleaved(variants, context.choose(31, 3)), OWN, {})
    batches = []
    for buffer in buffers.values():
        np.random.seed(0)  # noqa: NPY002  # what Stable-Baselines3 draws from
        batches.append(buffer.sample(256))
    for field in ("observations", "actions", "next_observations", "dones", "rewards"):
        check(bool((getattr(batches[0], field) == getattr(batches[1], field)).all()), OURS, field)
    buffers[OURS].close()
    remove(place)
    return found


MEASURES = {"sb3": training, "sb3-steps": steps}
