"""Record any simulator with a writer, one step of several environments at a time.

A writer has to be told where trajectories begin. What that means depends on when the environments reset
themselves, Gymnasium's autoreset mode; this program records CartPole in each of the three. For environments
of Gymnasium, `replaystore.gymnasium.RecordVector` does all this by itself.

    python examples/any_simulator.py modes.zarr
"""

from __future__ import annotations

import sys

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode, SyncVectorEnv

import replaystore as rs

NUM_ENVS, STEPS = 4, 100


def schema() -> rs.Schema:
    """What one step holds: what CartPole gives, and a value that an agent may have estimated."""
    return rs.Schema(
        {
            "observation": rs.Field("float32", (4,), "observation"),
            "action": rs.Field("int64", (), "action"),
            "reward": rs.Field("float64", (), "reward"),
            "terminated": rs.Field("bool", (), "terminated"),
            "truncated": rs.Field("bool", (), "truncated"),
            "value": rs.Field("float32", (), "extra"),
        }
    )


def record(buffer: rs.Buffer, mode: AutoresetMode) -> None:
    """Record some steps at random, as a split of the mode's name."""
    simulators = SyncVectorEnv([lambda: gymnasium.make("CartPole-v1")] * NUM_ENVS, autoreset_mode=mode)
    writer = buffer.writer(num_envs=NUM_ENVS, split=mode.value)
    observation, _ = simulators.reset(seed=0)
    writer.reset(observation)
    ended = np.zeros(NUM_ENVS, bool)
    for _ in range(STEPS):
        action, extra = simulators.action_space.sample(), {"value": np.zeros(NUM_ENVS, np.float32)}
        observation, reward, terminated, truncated, info = simulators.step(action)
        if mode == AutoresetMode.NEXT_STEP:
            # Where a trajectory had ended, this call has reset: it was no step.
            writer.reset(observation, mask=ended)
            writer.step(action, reward, terminated, truncated, observation, extra, mask=~ended)
            ended = terminated | truncated
            continue
        ended, following = terminated | truncated, observation.copy()
        if mode == AutoresetMode.SAME_STEP:
            # Where one ended, `observation` is the first of the next one already.
            for env in np.flatnonzero(ended):
                following[env] = info["final_obs"][env]
        writer.step(action, reward, terminated, truncated, following, extra)
        if mode == AutoresetMode.DISABLED and ended.any():
            # The caller resets.
            observation, _ = simulators.reset(options={"reset_mask": ended})
        writer.reset(observation, mask=ended)
    writer.close()
    simulators.close()


def main() -> None:
    """Record in each mode, and say what there is."""
    with rs.create(sys.argv[1] if len(sys.argv) > 1 else "modes.zarr", schema(), overwrite=True) as buffer:
        for mode in AutoresetMode:
            record(buffer, mode)
        buffer.commit()
        print(f"{len(buffer)} steps of {buffer.num_trajectories} trajectories in {buffer.location}")


if __name__ == "__main__":
    main()
