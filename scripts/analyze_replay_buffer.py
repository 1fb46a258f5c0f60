#!/usr/bin/env python3
"""Draw five pictures of a replay buffer: lengths, scores, splits, rewards, observations.

    python scripts/analyze_replay_buffer.py --replay_buffer_path runs/x/replay_buffer.zarr

The pictures go to the folder analysis/ beside the replay buffer, which may be larger than memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from commandline import argument, loaded, parse, run

from replaystore.analysis import plots


@dataclass
class Arguments:
    replay_buffer_path: str = argument(text="a .pkl, .zarr, .h5 or .safetensors file, or a folder with the latter")
    env_id: str | None = argument(None, "the environment, if neither the file nor its folder says it")


def main(argv: Sequence[str] | None = None) -> int:
    args = parse(Arguments, argv, __doc__.splitlines()[0])
    with loaded(args.replay_buffer_path, args.env_id) as source:
        buffer = source.buffer
        print(f"{args.replay_buffer_path}: {buffer.size:,} rows of {source.environment}")
        for name, value in buffer.get_trajectory_statistics().items():
            print(f"  {name}: {value:,.6g}")
        title = f"{source.environment}, {buffer.size:,} rows"
        for path in plots.draw_all(buffer, source.folder / "analysis", title):
            print(f"saved {path}")
    return 0


if __name__ == "__main__":
    run(main)
