"""Environments whose spaces, final observations or modes do not fit are refused, or told what they are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AutoresetMode
from scripted import (
    Model,
    buffer_for,
    trails_of,
)

from replaystore.errors import ArgumentError, ReplayStoreWarning, SchemaError
from replaystore.gymnasium import Record, RecordVector
from replaystore.schema.fields import Field

if TYPE_CHECKING:
    from replaystore.buffers.buffer import Buffer
from given_values import BOX, Batch, Given, objects


def test_the_buffer_must_have_the_fields_of_the_environment() -> None:
    env = gymnasium.make("CartPole-v1")
    extra = {"value": Field(np.dtype(bool), (), "mask")}

    with pytest.raises(
        SchemaError,
        match=(
            r"field 'observation' has the shape \(3,\) in the buffer and "
            r"\(4,\) in the environment"
        ),
    ):
        Record(env, buffer_for(gymnasium.make("Pendulum-v1")))
    with pytest.raises(SchemaError, match=r"field 'action' has the space .*'n': 5"):
        Record(Given(spaces.Discrete(4)), buffer_for(Given(spaces.Discrete(5))))
    with pytest.raises(SchemaError, match="no field 'action/go'"):
        Record(Given(spaces.Dict(go=BOX)), buffer_for(Given(BOX)))
    with pytest.raises(SchemaError, match="has a field 'value', which the environment does not give"):
        Record(env, cast("Buffer", Model(env, extra)))
    with pytest.raises(SchemaError, match="'action' is a tuple in only one"):
        Record(Given(spaces.Tuple([BOX])), buffer_for(Given(spaces.Dict({"0": BOX}))))


@pytest.mark.parametrize(
    "final", [lambda final, _: final, objects, lambda final, ended: list(objects(final, ended))]
)
@pytest.mark.parametrize("mode", [AutoresetMode.SAME_STEP, "SameStep"])
def test_final_observations_may_be_given_for_all_or_one_by_one(final: Any, mode: Any) -> None:
    env = Batch(mode, final)
    recorded = RecordVector(env, buffer := buffer_for(env))
    recorded.reset()
    for _ in range(4):
        recorded.step([0, 1])
    recorded.close()

    for trails in trails_of(buffer).values():
        assert all(trail.final == {"observation": [trail.rows[-1]["observation"][0] + 1]} for trail in trails)
    assert [len(trail.rows) for trail in trails_of(buffer)[0]] == [2, 2]
    assert [len(trail.rows) for trail in trails_of(buffer)[1]] == [1, 2, 1]


@pytest.mark.parametrize("final", [None, lambda final, ended: objects(final, ~ended)])
def test_same_step_without_final_observations_is_refused(final: Any) -> None:
    env = Batch("SameStep", final)
    recorded = RecordVector(env, buffer_for(env))
    recorded.reset()

    with pytest.raises(
        SchemaError,
        match=(
            r"environment 1 ended, but infos\['final_obs'\] does not have its "
            r"final observation"
        ),
    ):
        recorded.step(np.zeros(2, np.int64))


def test_an_environment_that_does_not_say_its_mode_may_be_told_it() -> None:
    env = Batch(None, objects)

    with pytest.warns(ReplayStoreWarning, match="NEXT_STEP is assumed"):
        RecordVector(env, buffer_for(env))
    RecordVector(env, buffer_for(env), autoreset_mode=AutoresetMode.SAME_STEP)
    with pytest.raises(SchemaError, match="no autoreset mode 'Never'"):
        RecordVector(env, buffer_for(env), autoreset_mode="Never")


@pytest.mark.parametrize("said", list(AutoresetMode))
@pytest.mark.parametrize("given", list(AutoresetMode))
@pytest.mark.parametrize("plain", [False, True])
def test_a_mode_that_contradicts_the_metadata_is_refused(
    said: AutoresetMode, given: AutoresetMode, plain: bool
) -> None:
    env = Batch(said.value if plain else said, objects)
    buffer = buffer_for(env)
    if given is said:
        RecordVector(env, buffer, autoreset_mode=given.value)
        return
    with pytest.raises(ArgumentError, match=f"says '{given.value}', and the metadata .* '{said.value}'"):
        RecordVector(env, buffer, autoreset_mode=given.value if plain else given)
    RecordVector(env, buffer)  # as the error says
