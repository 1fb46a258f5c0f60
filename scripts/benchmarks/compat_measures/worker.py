"""Does one thing with a large buffer as a user of active_rlhf would, and prints the peak of its anonymous
memory as JSON.

worker.py record PLACE BYTES | sample PLACE BATCHES | convert SOURCE TARGET
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent.parent))

from measuring.peak import Peak

import replaystore as rs
import replaystore.converting.convert
import replaystore.converting.imports
from replaystore.compat.active_rlhf import ReplayBuffer  # memory that the imports take is not the buffer's

OBSERVATION, ACTION = 1024, 6
EPISODE = 1000
BATCH, FRAGMENT = 32, 50
ROW_BYTES = 4 * (OBSERVATION + ACTION + 1) + 2


def record(place: str, size: int) -> int:
    """Record so many bytes of steps, whose observations and rewards begin with the number of the step; the
    bytes recorded."""
    fields = {
        "observation": rs.Field(np.float32, (OBSERVATION,), "observation"),
        "action": rs.Field(np.float32, (ACTION,), "action"),
        "reward": rs.Field(np.float32, (), "reward"),
        "terminated": rs.Field(np.bool_, (), "terminated"),
        "truncated": rs.Field(np.bool_, (), "truncated"),
    }
    rng, count = np.random.default_rng(0), size // ROW_BYTES // EPISODE
    columns = {
        name: rng.normal(size=(EPISODE, *field.shape)).astype(field.dtype) for name, field in fields.items()
    }
    columns["terminated"][:] = columns["truncated"][:] = False
    columns["truncated"][-1] = True
    with rs.create(place, rs.Schema(fields), durability="none") as buffer:
        for number in range(count):
            columns["reward"][:] = np.arange(number * EPISODE, (number + 1) * EPISODE)
            columns["observation"][:, 0] = columns["reward"]
            buffer.append(columns, split="val" if number % 10 == 9 else "train")
            if number % 64 == 63:
                buffer.commit()
    return count * EPISODE * ROW_BYTES


def sample(place: str, batches: int) -> int:
    """Draw fragments from a store, and check that they are fragments; the bytes drawn."""
    size = 0
    with ReplayBuffer.load(place, device="cpu", fragment_length=FRAGMENT) as buffer:
        for _ in range(batches):
            batch = buffer.sample2(BATCH)
            first = batch.obs[:, :, 0]
            if not torch.equal(first, batch.rews[:, :, 0]) or not bool((first.diff(dim=1) == 1).all()):
                raise SystemExit(f"bench compat: {place} gave back other rows than were written")
            size += batch.obs.nbytes + batch.acts.nbytes + batch.rews.nbytes + batch.dones.nbytes
    return size


def main() -> None:
    command, place, argument = sys.argv[1:]
    peak = Peak()
    begin = time.perf_counter()
    if command == "convert":
        report = rs.convert(place, argument)
        size = max(report.bytes_read, report.bytes_written)
    else:
        size = {"record": record, "sample": sample}[command](place, int(argument))
    seconds = time.perf_counter() - begin
    print(json.dumps({"peak": peak.peak - peak.base, "base": peak.base, "seconds": seconds, "bytes": size}))


if __name__ == "__main__":
    main()
