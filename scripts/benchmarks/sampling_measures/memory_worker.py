"""Samples from a store of generated frames, and prints the peak of its anonymous memory as JSON.

memory_worker.py PLACE SETTINGS BATCHES
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import numcodecs.zstd  # noqa: F401  # memory that the imports take is not the sampler's
import numpy as np
import zstandard  # noqa: F401

sys.path.insert(0, str(Path(__file__).parent.parent))

from measuring.peak import Peak

import replaystore as rs
import replaystore.containers.zarr.container
import replaystore.sampling.sampler


def main() -> None:
    place, settings, count = sys.argv[1], json.loads(sys.argv[2]), int(sys.argv[3])
    peak = Peak()
    with rs.open(place) as buffer:
        sampler = buffer.sampler(**settings)
        begin = time.perf_counter()
        for _ in range(count):
            batch = sampler.sample()
        seconds = time.perf_counter() - begin
        highest, size = peak.peak, count * sum(values.nbytes for values in batch.values())
        sampler.close()
        if not np.any(batch["observation"]):
            raise SystemExit(f"bench: {place} gave back frames without anything in them")
    print(json.dumps({"peak": highest - peak.base, "base": peak.base, "seconds": seconds, "bytes": size}))


if __name__ == "__main__":
    main()
