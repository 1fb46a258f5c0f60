#!/usr/bin/env python3
"""Draw five pictures of a replay buffer: lengths, scores, splits, rewards, observations.

    python scripts/analyze_replay_buffer.py --replay_buffer_path runs/x/replay_buffer.zarr

The pictures go to the folder analysis/ beside the replay buffer, which may be larger than memory. All of it
is verified first: a damaged one is not drawn.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import installed  # noqa: F401  # first, so that what is missing is said in one line
from commandline import argument, parse, run
from sources import loaded

from replaystore.analysis import figures, plots


@dataclass
class Arguments:
    replay_buffer_path: str = argument(
        text=("a .pkl, .zarr, .h5 or .safetensors file, or a folder with the latter")
    )
    env_id: str | None = argument(None, "the environment, if neither the file nor its folder says it")


def main(argv: Sequence[str] | None = None) -> int:
    args = parse(Arguments, argv, __doc__.splitlines()[0])
    figures.check_installed()
    with loaded(args.replay_buffer_path, args.env_id) as source:
        buffer = source.buffer
        print(f"{args.replay_buffer_path}: {buffer.size:,} rows of {source.environment}")
        print(source.verify())
        for name, value in buffer.get_trajectory_statistics().items():
            print(f"  {name}: {value:,.6g}")
        never = sum(info.on_policiness_score == plots.UNSCORED for info in buffer.trajectories)
        if never:
            print(
                f"  {never:,} of {len(buffer.trajectories):,} trajectories were never scored: the "
                "statistics take their scores for 0"
            )
        for path in plots.draw_all(buffer, source.folder / "analysis", source.title):
            print(f"saved {path}")
    return 0


if __name__ == "__main__":
    run(main)
