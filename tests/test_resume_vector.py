"""A run of several environments that goes on from any of its checkpoints has the rows, the tables and the
batches of the one that was never stopped, if it resets all environments there, as that one does."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv

import replaystore as rs
from replaystore.gymnasium import RecordVector
from replaystore.testing.contents import Contents

ENVS, CHECKPOINTS, STEPS = 3, 4, 17
SCHEMA = rs.Schema(
    {
        "observation": rs.Field("float32", (2,), "observation"),
        "reward": rs.Field("float32", (), "reward"),
        "terminated": rs.Field("bool", (), "terminated"),
    }
)
PLACES: dict[str, tuple[str, dict[str, Any]]] = {
    "zarr": ("a.zarr", {}),
    "hdf5": ("a.h5", {}),
    "ring": ("a.zarr", {"capacity": 60, "keep_named": CHECKPOINTS}),
}
SAMPLERS: dict[str, dict[str, Any]] = {
    "uniform": {},
    "trajectory": {"order": "trajectory", "trajectory": True},
    "prioritized": {"order": "prioritized", "beta": 0.4},
    "fragments": {"fragment_length": 3, "pad": "end", "trajectory": True},
}
COMMITTED = ("epoch", "uniform", "trajectory", "prioritized")
"""Orders of samplers that are made at each checkpoint, and show it."""

Begin = Callable[[rs.Buffer], tuple[Callable[[int], None], Callable[[np.random.Generator], None]]]
"""What makes of a buffer (reset of all environments, with a seed; one step)."""


def by_writer(buffer: rs.Buffer) -> tuple[Any, Any]:
    """Trajectories end at random, are left out in the next step and begin behind it; others are left out, or
    reset, at random."""
    writer, ended = buffer.writer(ENVS), np.zeros(ENVS, np.bool_)

    def reset(seed: int) -> None:
        ended[:] = False
        writer.reset(np.random.default_rng(seed).normal(size=(ENVS, 2)).astype(np.float32), seed=seed)

    def step(rng: np.random.Generator) -> None:
        seen, mask = rng.normal(size=(ENVS, 2)).astype(np.float32), ~ended & (rng.random(ENVS) < 0.9)
        begins = ended | (rng.random(ENVS) < 0.03)
        if begins.any():
            writer.reset(seen, mask=begins, seed=int(rng.integers(100)))
        done = mask & (rng.random(ENVS) < 0.2)
        writer.step(reward=seen[:, 0], terminated=done, observation=seen + 1, mask=mask)
        ended[:] = done

    return reset, step


def by_recording(mode: AutoresetMode) -> Begin:
    def begin(buffer: rs.Buffer) -> tuple[Any, Any]:
        envs = RecordVector(environments(mode), buffer)

        def step(rng: np.random.Generator) -> None:
            envs.step(rng.integers(0, 2, ENVS))

        return lambda seed: envs.reset(seed=seed), step

    return begin


def environments(mode: AutoresetMode) -> Any:
    return SyncVectorEnv([lambda: gymnasium.make("CartPole-v1")] * ENVS, autoreset_mode=mode)


KINDS: dict[str, tuple[Any, Begin]] = {
    "random": (SCHEMA, by_writer),
    "next step": (None, by_recording(AutoresetMode.NEXT_STEP)),
    "same step": (None, by_recording(AutoresetMode.SAME_STEP)),
}


class Run:
    """Goes through a recording from one checkpoint to the last, and samples after each step."""

    def __init__(self, begin: Begin, seed: int, early: bool) -> None:
        """`early`: environments are reset before the commit of a checkpoint, else behind it."""
        self.begin, self.seed, self.early = begin, seed, early
        self.states: list[dict[str, Any]] = []
        self.batches: list[list[dict[str, Any]]] = []

    def go(self, buffer: rs.Buffer, first: int, states: dict[str, Any] | None) -> None:
        samplers = {
            name: buffer.sampler(8, live=True, seed=number, **options)
            for number, (name, options) in enumerate(SAMPLERS.items())
        }
        for name, state in (states or {}).items():
            samplers[name].load_state_dict(state)
        reset, step = self.begin(buffer)
        for number in range(first, CHECKPOINTS):
            rng = np.random.default_rng([self.seed, number])
            if number == first or not self.early:
                reset(100 * number)
            for at in range(STEPS):
                step(rng)
                if at:
                    self.batches.append([self.drawn(sampler) for sampler in samplers.values()])
                if rng.random() < 0.2:
                    buffer.commit()
            if self.early:
                reset(100 * (number + 1))
            self.states.append({name: sampler.state_dict() for name, sampler in samplers.items()})
            buffer.commit(f"ck-{number}")
            self.batches.append([self.drawn(buffer.sampler(8, seed=1, order=order)) for order in COMMITTED])

    @staticmethod
    def drawn(sampler: Any) -> dict[str, Any]:
        batch: dict[str, Any] = sampler.sample()
        if "weight" in batch:
            sampler.update_priorities(batch["index"], 1.0 + batch["index"] % 7)
        return {name: values.copy() for name, values in batch.items()}


def tables(buffer: rs.Buffer) -> dict[str, Any]:
    buffer.parts.check()
    names = ("start", "length", "stride", "trajectory", "offset", "final")
    found = {name: getattr(buffer.parts, name).tolist() for name in names}
    return found | {name: np.asarray(buffer.trajectories[name]).tolist() for name in ("trajectory", "env")}


def check(folder: Path, place: str, kind: str, seed: int, early: bool) -> None:
    """Go on from each checkpoint of a run that has ended."""
    (name, options), (schema, begin) = PLACES[place], KINDS[kind]
    schema = schema or rs.Schema.from_env(environments(AutoresetMode.NEXT_STEP))
    whole = Run(begin, seed, early)
    with rs.create(folder / "whole" / name, schema, durability="none", **options) as buffer:
        whole.go(buffer, 0, None)
        expected, expected_tables = Contents.of(buffer), tables(buffer)
    for number in range(CHECKPOINTS - 1):
        again, copied = Run(begin, seed, early), folder / str(number)
        shutil.copytree(folder / "whole", copied)
        with rs.open(copied / name, "r+") as buffer:
            buffer.rollback(f"ck-{number}")
            again.go(buffer, number + 1, whole.states[number])
            assert expected.difference(Contents.of(buffer)) == ""
            assert expected_tables == tables(buffer)
        since = (number + 1) * STEPS
        for one, other in zip(whole.batches[since:], again.batches, strict=True):
            for sampler, (batch, found) in enumerate(zip(one, other, strict=True)):
                assert batch.keys() == found.keys()
                for field, values in batch.items():
                    assert values.tobytes() == found[field].tobytes(), (number, sampler, field)


@pytest.mark.parametrize("early", [True, False])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("place", PLACES)
def test_a_run_goes_on_from_each_checkpoint_as_if_never_stopped(
    tmp_path: Path, place: str, kind: str, early: bool
) -> None:
    for seed in range(2):
        check(tmp_path / str(seed), place, kind, seed, early)
