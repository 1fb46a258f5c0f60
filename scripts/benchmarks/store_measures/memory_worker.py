"""Records or converts frames, and prints the peak of its anonymous memory as JSON.

memory_worker.py record PLACE BYTES | convert SOURCE TARGET
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import h5py  # noqa: F401  # memory that the imports take is not the store's
import numcodecs.zstd  # noqa: F401
import numpy as np
import zstandard  # noqa: F401

sys.path.insert(0, str(Path(__file__).parent.parent))

from measuring.data import frames
from measuring.peak import Peak

import replaystore as rs
import replaystore.containers.hdf5.container
import replaystore.converting.convert

NUM_ENVS = 8
EPISODE = 900
COMMIT_EVERY = 500


def record(place: str, size: int) -> int:
    """Record so many bytes of frames; the bytes recorded."""
    schema = rs.Schema(
        {
            "observation": rs.Field(np.uint8, (84, 84), "observation"),
            "action": rs.Field(np.int64, (), "action"),
            "reward": rs.Field(np.float64, (), "reward"),
            "terminated": rs.Field(np.bool_, (), "terminated"),
            "truncated": rs.Field(np.bool_, (), "truncated"),
            "info/time": rs.Field(np.int64, (), "info"),
        }
    )
    no, steps = np.zeros(NUM_ENVS, np.bool_), size // (84 * 84 * NUM_ENVS)
    with rs.create(place, schema) as buffer:
        writer = buffer.writer(NUM_ENVS)
        writer.reset(frames(0, NUM_ENVS))
        for step in range(steps):
            action = (np.arange(NUM_ENVS) + step) % 6
            ended = no if (step + 1) % EPISODE else ~no
            info = {"info/time": np.full(NUM_ENVS, step)}
            writer.step(action, np.float64(action == 3), ended, no, frames(step + 1, NUM_ENVS), info)
            if step % COMMIT_EVERY == COMMIT_EVERY - 1:
                buffer.commit()
    return steps * NUM_ENVS * 84 * 84


def verify(place: str) -> int:
    """Compare some trajectories with what was recorded; the bytes of frames."""
    with rs.open(place) as buffer:
        for number in range(0, buffer.num_trajectories, max(1, buffer.num_trajectories // 8)):
            trajectory = buffer.trajectory(number)
            env = trajectory.info["env"]
            for row in range(0, len(trajectory), 97):
                if not np.array_equal(
                    trajectory["observation"][row], frames(int(trajectory["info/time"][row]), NUM_ENVS)[env]
                ):
                    raise SystemExit(f"bench store: {place} gave back another frame than was written")
        return len(buffer) * 84 * 84


def main() -> None:
    command, first, second = sys.argv[1:]
    peak = Peak()
    begin = time.perf_counter()
    if command == "record":
        size = record(first, int(second))
    else:
        rs.convert(first, second)
        size = 0
    seconds, highest = time.perf_counter() - begin, peak.peak
    found = verify(first if command == "record" else second)
    print(
        json.dumps(
            {"peak": highest - peak.base, "base": peak.base, "seconds": seconds, "bytes": size or found}
        )
    )


if __name__ == "__main__":
    main()
