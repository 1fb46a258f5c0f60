"""Rows become trajectories, in the same way however they are cut into runs."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

import replaystore as rs
from replaystore.schema.fields import Field, Schema

SCHEMA = Schema(
    {
        "observation": Field(np.dtype(np.float32), (2,), "observation"),
        "action": Field(np.dtype(np.int64), (), "action"),
        "reward": Field(np.dtype(np.float32), (), "reward"),
        "terminated": Field(np.dtype(np.bool_), (), "terminated"),
        "truncated": Field(np.dtype(np.bool_), (), "truncated"),
    }
)
ENVS = 3
_names = iter(range(10**9))


def play(
    script: list[tuple[int, int, int]], commits: set[int]
) -> list[tuple[dict[str, object], dict[str, bytes], bytes | None]]:
    """Record a script of (end flags by environment) and commit after the steps in `commits`; return all that
    can be seen."""
    name = "memory:played"
    with rs.create(name, SCHEMA, durability="none", overwrite=True) as buffer:
        writer = buffer.writer(ENVS)
        count = 0

        def observation() -> np.ndarray:
            nonlocal count
            count += 1
            return np.arange(count, count + 2 * ENVS, dtype=np.float32).reshape(ENVS, 2)

        writer.reset(observation(), seed=[5, None, 7])
        for time, flags in enumerate(script):
            terminated = np.array([flag & 1 == 1 for flag in flags])
            truncated = np.array([flag & 2 == 2 for flag in flags])
            cut = np.array([flag == 4 for flag in flags])
            skipped = np.array([flag == 5 for flag in flags])
            reward = np.array([1e8, 0.1, -3.7], np.float32) * (time + 1)
            writer.step(
                np.zeros(ENVS, np.int64),
                reward,
                terminated,
                truncated,
                observation(),
                mask=None if not skipped.any() else ~skipped,
            )
            if time in commits:
                buffer.commit()
            begins = ((terminated | truncated) & ~skipped) | cut
            if begins.any():
                writer.reset(observation(), mask=begins)
            if -time in commits:
                buffer.commit()
        if len(script) % 2:
            writer.close()
    with rs.open(name) as buffer:
        assert not rs.verify(name).problems
        return [
            (
                {key: str(value) for key, value in trajectory.info.items()},
                {key: column.tobytes() for key, column in trajectory.columns.items()},
                None if trajectory.final_observation is None else trajectory.final_observation.tobytes(),
            )
            for trajectory in map(buffer.trajectory, range(buffer.num_trajectories))
        ]


flags = st.tuples(*[st.sampled_from([0, 0, 0, 1, 2, 3, 4, 5])] * ENVS)


@given(script=st.lists(flags, max_size=12), commits=st.sets(st.integers(-12, 12)))
def test_how_often_one_commits_changes_nothing(script: list[tuple[int, int, int]], commits: set[int]) -> None:
    assert play(script, commits) == play(script, set())


def test_a_single_environment_has_one_part_per_trajectory() -> None:
    name = f"memory:{next(_names)}"
    with rs.create(name, SCHEMA) as buffer:
        for step in range(20):
            end = np.array([step % 7 == 6])
            buffer.append(
                {
                    "observation": np.full((1, 2), step, np.float32),
                    "action": np.zeros(1, np.int64),
                    "reward": np.ones(1, np.float32),
                    "terminated": end,
                    "truncated": end,
                },
                final_observation=np.full(2, step + 1, np.float32),
            )
            buffer.commit()
        assert len(buffer.parts) == 3
        assert buffer.trajectories.length.tolist() == [7, 7, 6]
        assert buffer.trajectories.open.tolist() == [False, False, True]


def test_an_observation_that_is_not_the_one_announced_is_kept_beside_it() -> None:
    name = f"memory:{next(_names)}"
    row = {
        "action": np.zeros(1, np.int64),
        "reward": np.ones(1, np.float32),
        "terminated": np.zeros(1, bool),
        "truncated": np.zeros(1, bool),
    }
    with rs.create(name, SCHEMA) as buffer:
        buffer.append(
            {"observation": np.zeros((1, 2), np.float32), **row}, final_observation=np.full(2, 5, np.float32)
        )
        buffer.append(
            {"observation": np.ones((1, 2), np.float32), **row}, final_observation=np.full(2, 6, np.float32)
        )
        buffer.commit()
        following, final = buffer.parts.next_observation(np.array([0, 1]))
        assert following.tolist() == [-1, -1]
        assert final.tolist() == [0, -1]
        assert buffer.final_rows("observation", final[:1]).tolist() == [[5, 5]]
        assert buffer.trajectory(0).final_observation is not None
        assert len(buffer.trajectory(0)) == 2
