"""Recorders keep seeds, commit as often as wished, and close what they should."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, cast

import gymnasium
import numpy as np
import pytest
from gymnasium.vector import SyncVectorEnv
from scripted import (
    ENDINGS,
    Model,
    Scripted,
    buffer_for,
    trails_of,
)

import replaystore as rs
from replaystore.errors import ReplayStoreWarning, SchemaError
from replaystore.gymnasium import Record, RecordVector

if TYPE_CHECKING:
    from replaystore.buffers.buffer import Buffer


def seeds_of(buffer: Buffer) -> dict[int, list[int]]:
    return {env: [trail.seed for trail in trails] for env, trails in trails_of(buffer).items()}


def test_each_environment_keeps_the_seed_that_gymnasium_gave_it() -> None:
    env = SyncVectorEnv([partial(Scripted, place, [(2, "end")]) for place in range(2)])
    buffer = buffer_for(env)
    recorded = RecordVector(env, buffer)
    for seed in (7, [30, None], None, np.array([1, 2]).tolist()):
        recorded.reset(seed=seed)
        for _ in range(5):
            recorded.step(np.array([1, 1]))
    recorded.close()

    assert seeds_of(buffer) == {0: [7, -1, 30, -1, -1, -1, 1, -1], 1: [8, -1, -1, -1, -1, -1, 2, -1]}


def test_environments_that_share_one_seed_keep_that_seed() -> None:
    env = gymnasium.make_vec("CartPole-v1", num_envs=2, vectorization_mode="vector_entry_point")
    buffer = buffer_for(env)
    recorded = RecordVector(env, buffer)
    recorded.reset(seed=7)
    recorded.step(np.array([1, 1]))
    recorded.close()

    assert seeds_of(buffer) == {0: [7], 1: [7]}


def test_a_seed_of_more_than_63_bits_is_unknown() -> None:
    env = Scripted(0, ENDINGS[0])
    buffer = buffer_for(env)
    recorded = Record(env, buffer)
    with pytest.warns(ReplayStoreWarning, match="does not fit 63 bits"):
        recorded.reset(seed=2**63)
    recorded.step(0)
    recorded.close()

    assert seeds_of(buffer) == {0: [-1]}


def test_steps_are_committed_as_often_as_wished_and_when_the_environment_is_closed() -> None:
    env = Scripted(0, [(20, "end")])
    buffer = Model(env)
    recorded = Record(env, cast("Buffer", buffer), commit_every=3)
    recorded.reset()
    for _ in range(7):
        recorded.step(0)
    assert buffer.commits == [3, 6]

    recorded.close()
    recorded.close()
    assert buffer.commits == [3, 6, 7]
    with pytest.raises(SchemaError, match="commit_every must be at least 1, not 0"):
        Record(env, cast("Buffer", buffer), commit_every=0)


def test_the_buffer_may_be_closed_before_the_environment() -> None:
    env = gymnasium.make("CartPole-v1")
    with rs.create("memory:closed-first", env) as buffer:
        recorded = Record(env, buffer)
        recorded.reset(seed=1)
        recorded.step(0)
    recorded.close()

    with rs.open("memory:closed-first") as buffer:
        assert [len(trail.rows) for trail in trails_of(buffer)[0]] == [1]


def test_closing_the_environment_leaves_the_buffer_open_for_another() -> None:
    buffer = buffer_for(Scripted(0, ENDINGS[0]), "real")
    for split in ("train", "val"):
        recorded = Record(Scripted(0, ENDINGS[0]), buffer, split=split)
        recorded.reset()
        recorded.step(0)
        recorded.close()

    assert [trail.split for trail in trails_of(buffer)[0]] == ["train", "val"]
