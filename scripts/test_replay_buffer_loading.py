#!/usr/bin/env python3
"""Check that a replay buffer is not damaged, loads, that every way of sampling works, and that every index is
a row that is there.

    python scripts/test_replay_buffer_loading.py --replay_buffer_path runs/x/replay_buffer.zarr

It prints statistics and one line for each check; the exit code is 0 if all of them hold, and 1 if not. This
is a program and not a test of the package. The replay buffer may be larger than memory: all rows are read,
but never more than a block at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import installed  # noqa: F401  # first, so that what is missing is said in one line
import numpy as np
import torch
from commandline import argument, check, parse, run, said
from ppo import Agent
from sources import Source, loaded

from replaystore.analysis.fragments import blocks, statistics, unowned
from replaystore.compat.active_rlhf import ReplayBuffer, ReplayBufferBatch
from replaystore.errors import ReplayStoreError

NAMES = ("obs", "acts", "rews", "dones")
BATCH = 32
BATCHES = 20
MAX_BYTES = 256 << 20
"""All trajectories are read together, as `get_all_trajectories` does it, only up to so many bytes."""

__test__ = False


@dataclass
class Arguments:
    replay_buffer_path: str = argument(
        text=("a .pkl, .zarr, .h5 or .safetensors file, or a folder with the latter")
    )
    env_id: str | None = argument(None, "the environment, if neither the file nor its folder says it")
    fragment_length: int | None = argument(None, "steps of a fragment (default: what the file says)", least=1)
    seed: int = argument(0, "of what is sampled")


class CheckError(Exception):
    """What a check found."""


def require(holds: bool, problem: str) -> None:
    """CheckError, unless it holds."""
    if not holds:
        raise CheckError(problem)


def check_rows(buffer: ReplayBuffer) -> str:
    """All rows can be read and are numbers."""
    for name in NAMES:
        for block in blocks(buffer, name, [*buffer.trajectories, *unowned(buffer)]):
            require(
                block.dtype == bool or bool(np.isfinite(block).all()),
                f"{name} has values that are not finite",
            )
    return "all fields of all rows were read; all values are finite"


def check_batch(buffer: ReplayBuffer, batch: ReplayBufferBatch) -> None:
    """A batch has the shapes and types that are promised."""
    for name in NAMES:
        values = getattr(batch, name)
        shape = (BATCH, buffer.fragment_length, int(getattr(buffer, name).shape[1]))
        require(tuple(values.shape) == shape, f"{name} has shape {tuple(values.shape)}, not {shape}")
        dtype = getattr(buffer, name).dtype
        require(values.dtype == dtype, f"{name} is {values.dtype}, not {dtype}")
        require(bool(values.isfinite().all()), f"{name} has values that are not finite")


def sampling(buffer: ReplayBuffer) -> Iterator[tuple[str, Callable[[], str]]]:
    """The ways of sampling that this buffer has data for."""
    agent = Agent(int(buffer.obs.shape[1]), int(buffer.acts.shape[1]))

    def drawn(draw: Callable[[], ReplayBufferBatch], times: int) -> Callable[[], str]:
        def check() -> str:
            for _ in range(times):
                check_batch(buffer, draw())
            return f"{times} x {BATCH} fragments of {buffer.fragment_length} steps"

        return check

    def scored() -> str:
        buffer.update_on_policiness_scores(agent)
        scores = [info.on_policiness_score for info in buffer.trajectories]
        require(bool(np.isfinite(scores).all()), "a score is not finite")
        return f"{len(scores):,} trajectories, scores from {min(scores):.1f} to {max(scores):.1f}"

    if buffer.size:
        yield "sample", drawn(lambda: buffer.sample(BATCH), BATCHES)
    if not buffer.trajectories:
        return
    yield "update_on_policiness_scores", scored
    for split in dict.fromkeys(
        info.split for info in buffer.trajectories if info.length >= buffer.fragment_length
    ):
        yield f"sample2, split {split!r}", drawn(lambda split=split: buffer.sample2(BATCH, split), BATCHES)  # type: ignore[misc]
        priority = drawn(lambda split=split: buffer.sample_by_on_policiness(BATCH, agent, split), 1)  # type: ignore[misc]
        yield f"sample_by_on_policiness, split {split!r}", priority
    for chosen in (None, *dict.fromkeys(info.split for info in buffer.trajectories)):
        yield f"get_all_trajectories, split {chosen!r}", lambda chosen=chosen: check_all(buffer, chosen)  # type: ignore[misc]


def check_all(buffer: ReplayBuffer, split: str | None) -> str:
    """All rows of a split, together."""
    infos = [info for info in buffer.trajectories if split is None or info.split == split]
    rows = sum(info.length for info in infos)
    size = rows * sum(int(getattr(buffer, name).shape[1]) * 4 for name in NAMES)
    if size > MAX_BYTES:
        return (
            f"left out: {rows:,} rows would take {size / 1e9:.1f} GB of memory (they were read in blocks "
            "above)"
        )
    batch = buffer.get_all_trajectories(split)
    require(
        all(len(getattr(batch, name)) == rows for name in NAMES), (f"{len(batch.obs)} rows came, not {rows}")
    )
    means = statistics(buffer, "obs", infos).mean
    found = batch.obs.double().mean(dim=0).cpu().numpy()
    require(
        bool(np.allclose(found, means, rtol=1e-5, atol=1e-6)),
        "the rows are not those that are read one by one",
    )
    return f"{rows:,} rows"


def checks_of(source: Source) -> Iterator[tuple[str, Callable[[], str]]]:
    """All checks, by name."""
    yield "verify", source.verify
    yield "rows", lambda: check_rows(source.buffer)
    yield from sampling(source.buffer)


def failures(source: Source) -> int:
    """Make all checks, and say what came of each; how many failed."""
    buffer, failed = source.buffer, 0
    for name, check_one in checks_of(source):
        try:
            print(f"ok      {name}: {check_one()}", flush=True)
        except (
            CheckError,
            ReplayStoreError,
            OSError,
            ValueError,
            RuntimeError,
            IndexError,
            ArithmeticError,
        ) as error:
            failed += 1
            hint = ""
            if isinstance(error, IndexError):
                hint = (
                    ": a row that is not there; pass a --fragment_length below "
                    f"{buffer.fragment_length}, or the file is damaged"
                )
            print(f"FAILED  {name}: {said(error)}{hint}", flush=True)
    longest = max((info.length for info in buffer.trajectories), default=0)
    if buffer.size and not buffer.trajectories:
        print(
            "note    the rows belong to no trajectory, so they have no splits and no fragments of one episode"
        )
    elif longest < buffer.fragment_length:
        failed += 1
        hint = f"pass --fragment_length {longest} or less" if longest else "record more"
        print(f"FAILED  fragments: no trajectory has one of {buffer.fragment_length} steps: {hint}")
    return failed


def main(argv: Sequence[str] | None = None) -> int:
    args = parse(Arguments, argv, __doc__.splitlines()[0])
    check(args)
    np.random.seed(args.seed)  # noqa: NPY002  # what the buffers sample with
    torch.manual_seed(args.seed)
    with loaded(args.replay_buffer_path, args.env_id, args.fragment_length) as source:
        buffer = source.buffer
        print(
            f"loaded {args.replay_buffer_path}: {buffer.size:,} of {buffer.capacity:,} rows, "
            f"{source.environment}"
        )
        for name, value in buffer.get_trajectory_statistics().items():
            print(f"  {name}: {value:,.6g}")
        failed = failures(source)
    print("all checks hold" if not failed else f"{failed} checks failed")
    return 1 if failed else 0


if __name__ == "__main__":
    run(main)
