"""How long a training loop waits for its buffer: the drop-in for velora, in memory and in stores, beside
velora's own.

Rings that have wrapped, of the dimensions of HalfCheetah and a network of 20 neurons; whatever is drawn is
what velora's buffer draws.
"""

from __future__ import annotations

import importlib
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from measuring import Context, Result, check, interleaved, ratio, skipped

from replaystore.compat.velora import ReplayBuffer

__all__ = ["speed"]

CAPACITY, ENVS, BATCH, STEPS = 10_000, 8, 128, 1000
DIMENSIONS = {"state_dim": 17, "action_dim": 6, "hidden_dim": 20}
WHAT = "velora's loop"


def speed(context: Context, checkout: str | None) -> list[Result]:
    """Add a transition, add those of several environments, draw a batch; and all a step does."""
    context.say(f"{WHAT}: {STEPS} steps in each round, {BATCH} rows in a batch")
    try:
        original = _original(checkout)
    except ImportError as error:
        return [
            skipped(
                WHAT,
                "all of it",
                (
                    f"velora's own buffer cannot be imported ({error}); name a "
                    "checkout of it: --velora DIRECTORY"
                ),
            )
        ]
    loops = {
        "velora": _Loop(original(CAPACITY, **DIMENSIONS)),
        "memory": _Loop(ReplayBuffer(CAPACITY, **DIMENSIONS)),
    }
    loops |= {
        kind: _Loop(_stored(context.folder / f"ring.{suffix}"))
        for kind, suffix in (("Zarr", "zarr"), ("HDF5", "h5"))
    }
    results = []
    for what, step, targets in (
        ("add", _Loop.add, {"memory": 1.5}),
        (f"add_multi, {ENVS} environments", _Loop.add_multi, {"memory": 1.5}),
        ("sample", _Loop.sample, {"memory": 1.0}),
        ("add and sample", _Loop.step, {"memory": 1.5, "Zarr": 2.0, "HDF5": 2.0}),
    ):
        variants: dict[str, Callable[[], float]] = {
            name: lambda loop=loop, step=step: loop.run(step) for name, loop in loops.items()
        }
        seconds = interleaved(variants, 15)
        for name, values in seconds.items():
            detail = f"{statistics.median(values) / STEPS * 1e6:.1f} us" + (
                "; the reference" if name == "velora" else ""
            )
            results.append(
                Result(
                    f"{WHAT}: {what}",
                    name,
                    ratio(seconds, name, "velora"),
                    "x",
                    targets.get(name),
                    detail=detail,
                )
            )
    wanted = loops["velora"].buffer.state_dict()
    for name, loop in loops.items():
        for field, tensor in loop.buffer.state_dict().items():
            check(torch.equal(tensor, wanted[field]), f"the buffer in {name}", field)
        check(torch.equal(loop.drawn, loops["velora"].drawn), f"the buffer in {name}", "a batch")
        if name not in ("velora", "memory"):
            loop.buffer.close()
    return results


def _original(checkout: str | None) -> Any:
    if checkout is not None:
        sys.path.append(str(Path(checkout).resolve()))
    importlib.import_module("velora.models")  # its buffers cannot be imported first
    return importlib.import_module("velora.buffer").ReplayBuffer


def _stored(place: Path) -> Any:
    return ReplayBuffer.adopt(ReplayBuffer(CAPACITY, **DIMENSIONS), place)


class _Loop:
    """A buffer, and steps to add; each loop adds the same."""

    def __init__(self, buffer: Any) -> None:
        self.buffer, self.drawn = buffer, torch.zeros(0)
        generator = torch.Generator().manual_seed(0)
        states = torch.rand(STEPS + 1, ENVS, DIMENSIONS["state_dim"], generator=generator)
        actions = torch.rand(STEPS, ENVS, DIMENSIONS["action_dim"], generator=generator)
        hidden = torch.rand(STEPS, ENVS, DIMENSIONS["hidden_dim"], generator=generator)
        rewards, dones = (
            torch.rand(STEPS, ENVS, generator=generator),
            torch.rand(STEPS, ENVS, generator=generator) < 1e-3,
        )
        self.many = list(zip(states[:-1], actions, rewards, states[1:], dones, hidden, strict=True))
        self.one = [
            (state[:1], action[:1], float(reward[0]), following[:1], bool(done[0]), kept[:1])
            for state, action, reward, following, done, kept in self.many
        ]
        for step in self.many * (2 * CAPACITY // (STEPS * ENVS)):
            buffer.add_multi(*step)

    def run(self, step: Callable[[_Loop, int], None]) -> float:
        torch.manual_seed(0)
        begin = time.perf_counter()
        for number in range(STEPS):
            step(self, number)
        return time.perf_counter() - begin

    def add(self, number: int) -> None:
        self.buffer.add(*self.one[number])

    def add_multi(self, number: int) -> None:
        self.buffer.add_multi(*self.many[number])

    def sample(self, _: int) -> None:
        self.drawn = self.buffer.sample(BATCH).states

    def step(self, number: int) -> None:
        self.add(number)
        self.sample(number)
