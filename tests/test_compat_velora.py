"""Our buffer does what velora's own does, in memory."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from velora_buffers import (
    SIZES,
    STORES,
    apply,
    assert_equal,
    filled,
    many,
    one,
    raised,
    real_class,
    rows,
    state,
)

from replaystore.compat.velora import BatchExperience, ReplayBuffer
from replaystore.errors import SchemaError

# --- the same as velora


@settings(max_examples=60)
@given(capacity=st.integers(1, 12), operations=st.lists(one | many, max_size=8))
def test_the_same_operations_give_the_same_state_as_veloras_own(
    capacity: int, operations: list[tuple[str, int, int]]
) -> None:
    ours, real = ReplayBuffer(capacity, **SIZES), real_class()(capacity, *SIZES.values())
    for operation in operations:
        apply(ours, *operation)
        apply(real, *operation)
        assert_equal(ours, real)
        assert ours.metadata() == real.metadata()


WRONG = {
    "a state too long": (torch.zeros(9), torch.zeros(2), 1.0, torch.zeros(3), False, torch.zeros(4)),
    "an action too long": (torch.zeros(3), torch.zeros(5), 1.0, torch.zeros(3), False, torch.zeros(4)),
    "a reward of two": (
        torch.zeros(3),
        torch.zeros(2),
        torch.zeros(2),
        torch.zeros(3),
        False,
        torch.zeros(4),
    ),
    "a state that is no tensor": ([0.0] * 3, torch.zeros(2), 1.0, torch.zeros(3), False, torch.zeros(4)),
    "a hidden state too long": (torch.zeros(3), torch.zeros(2), 1.0, torch.zeros(3), False, torch.zeros(9)),
    "a done that is text": (torch.zeros(3), torch.zeros(2), 1.0, torch.zeros(3), "yes", torch.zeros(4)),
}


@pytest.mark.parametrize("values", WRONG.values(), ids=WRONG)
def test_add_raises_what_velora_raises_and_leaves_the_buffer_as_it_was(values: tuple[Any, ...]) -> None:
    buffer = filled(5, 4)
    before = state(buffer)
    expected = raised(lambda: real_class()(5, *SIZES.values()).add(*values))

    assert expected is not None
    assert raised(lambda: buffer.add(*values)) is expected
    assert all(torch.equal(before[name], tensor) for name, tensor in state(buffer).items())
    assert (buffer.position, buffer.size) == (4, 4)


@pytest.mark.parametrize("place", range(6))
def test_add_multi_raises_what_velora_raises_and_leaves_the_buffer_as_it_was(place: int) -> None:
    buffer, values = filled(5, 4), rows(1, 3)
    values[place] = values[place].double() if place == 5 else torch.zeros(3, 9)
    before = state(buffer)
    expected = raised(lambda: real_class()(5, *SIZES.values()).add_multi(*values))

    assert expected is not None
    assert raised(lambda: buffer.add_multi(*values)) is expected
    assert all(torch.equal(before[name], tensor) for name, tensor in state(buffer).items())


def test_sampling_more_than_there_is_says_how_many_there_are() -> None:
    real = real_class()(5, *SIZES.values())
    buffer = ReplayBuffer(5, **SIZES)

    for count in (1, 7):
        with pytest.raises(ValueError, match="Available: 0") as theirs:
            real.sample(count)
        with pytest.raises(ValueError, match="Available: 0") as ours:
            buffer.sample(count)
        assert str(ours.value) == str(theirs.value)
    assert raised(lambda: buffer.sample(0)) is raised(lambda: real.sample(0))


def test_hidden_states_may_be_left_out() -> None:
    buffer = ReplayBuffer(5, **SIZES)
    values = rows(0, 2)

    buffer.add_multi(*values[:5])
    buffer.add(*(value[0] for value in values[:5]))

    assert len(buffer) == 3
    assert not buffer.hiddens.any()
    assert isinstance(buffer.sample(2), BatchExperience)


def test_a_config_is_veloras_own() -> None:
    assert ReplayBuffer(5, **SIZES).config() == real_class()(5, *SIZES.values()).config()


KINDS: dict[str, tuple[Any, ...]] = {
    "plain": (torch.rand(3), torch.rand(2), 1.5, torch.rand(3), True, torch.rand(4)),
    "rows": (
        torch.rand(1, 3),
        torch.rand(1, 2),
        torch.rand(1, 1),
        torch.rand(1, 3),
        torch.ones(1, 1),
        torch.rand(1, 4),
    ),
    "one for all": (torch.rand(1), torch.tensor(3), torch.rand(()), torch.rand(()), torch.tensor(True), 0.5),
    "other dtypes": (
        torch.rand(3).double(),
        torch.tensor([1, 2]),
        np.float64(0.1),
        torch.rand(3).half(),
        True,
        torch.rand(1, 4).double(),
    ),
    "not in order": (
        torch.rand(6)[::2],
        torch.rand(2, 3)[:, 1],
        2,
        torch.rand(3, 3).T[0],
        0,
        torch.rand(8)[::2],
    ),
    "what is no number": (
        torch.full((3,), torch.nan),
        torch.rand(2),
        float("inf"),
        torch.rand(3),
        float("nan"),
        torch.rand(4),
    ),
    "numbers beyond float32": (
        torch.full((3,), 1e300, dtype=torch.float64),
        torch.rand(2),
        1.0,
        torch.rand(3),
        False,
        torch.rand(4),
    ),
    "integers beyond float32": (
        torch.tensor([2**60 + 1] * 3),
        2**60 + 1,
        16_777_217,
        torch.rand(3),
        1,
        torch.rand(4),
    ),
}


@pytest.mark.parametrize("where", ["memory", "inference", *STORES])
@pytest.mark.parametrize("kind", KINDS)
def test_values_of_every_kind_become_what_velora_makes_of_them(kind: str, where: str, tmp_path: Path) -> None:
    real, ours = real_class()(5, *SIZES.values()), ReplayBuffer(5, **SIZES)
    if where in STORES:
        ours.save(tmp_path / f"b{where}")
        ours = ReplayBuffer.load(tmp_path / f"b{where}", mode="r+")
    with ours, torch.inference_mode(where == "inference"):
        # The first of a store, and one that goes round the end, are written another way.
        for number in range(7):
            values = KINDS[kind if number % 3 else "plain"]
            real.add(*values)
            ours.add(*values)
        assert (ours.position, ours.size) == (real.position, real.size)
        for name, expected in state(real).items():
            assert torch.equal(torch.nan_to_num(state(ours)[name], 7.5), torch.nan_to_num(expected, 7.5)), (
                name
            )


@pytest.mark.parametrize("kind", ["add", "add_multi"])
@pytest.mark.parametrize("inference", [False, True])
def test_a_change_behind_the_buffers_back_is_noticed_between_any_rows(
    kind: str, inference: bool, tmp_path: Path
) -> None:
    buffer = filled(50, 5)
    buffer.save(tmp_path / "b.zarr")
    with torch.inference_mode(inference):
        apply(buffer, kind, 1, 1)
    buffer.save(tmp_path / "b.zarr")
    assert buffer._ring.changes == 0  # so that was no reason to write the store anew
    apply(buffer, kind, 2, 1)
    buffer.rewards[2] = 9.0
    apply(buffer, kind, 3, 1)
    buffer.save(tmp_path / "b.zarr")

    assert buffer._ring.changes == 1
    with ReplayBuffer.load(tmp_path / "b.zarr") as lazy:
        assert_equal(lazy, buffer)


# --- warming


class Agent:
    """What `warm` asks of an agent."""

    device = torch.device("cpu")
    env = SimpleNamespace(spec=SimpleNamespace(id="CartPole-v1"))

    def __init__(self) -> None:
        self.seen: list[torch.Tensor] = []

    def predict(
        self, states: torch.Tensor, hidden: torch.Tensor | None, train_mode: bool
    ) -> tuple[torch.Tensor, torch.Tensor]:
        assert train_mode
        assert (hidden is None) == (not self.seen)
        self.seen.append(states)
        return torch.ones(len(states), dtype=torch.int64), torch.full((len(states), 4), float(len(self.seen)))


def test_warming_fills_to_the_number_of_samples_or_a_little_more() -> None:
    buffer, agent = ReplayBuffer(20, 4, 1, 4), Agent()

    buffer.warm(agent, 10, num_envs=4)

    assert len(buffer) == 12
    assert torch.equal(buffer.states[:12], torch.cat(agent.seen))
    assert torch.equal(buffer.next_states[:8], buffer.states[4:12])
    assert buffer.hiddens[:12, 0].tolist() == [1.0] * 4 + [2.0] * 4 + [3.0] * 4
    buffer.warm(agent, 12, num_envs=4)
    assert len(buffer) == 12


def test_warming_beyond_the_capacity_is_refused() -> None:
    with pytest.raises(SchemaError, match="n_samples=21 is more than the capacity of 20"):
        ReplayBuffer(20, 4, 1, 4).warm(Agent(), 21)


def test_warming_takes_two_environments() -> None:
    with pytest.raises(ValueError, match="'num_envs=1' cannot be smaller than 2"):
        ReplayBuffer(20, 4, 1, 4).warm(Agent(), 2, num_envs=1)


def test_environments_are_closed_when_the_agent_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Any] = []
    original = gymnasium.make_vec
    monkeypatch.setattr(
        gymnasium, "make_vec", lambda *args, **kwargs: made.append(original(*args, **kwargs)) or made[-1]
    )
    agent = Agent()
    monkeypatch.setattr(agent, "predict", lambda *_, **__: 1 / 0)

    with pytest.raises(ZeroDivisionError):
        ReplayBuffer(20, 4, 1, 4).warm(agent, 2, num_envs=2)

    assert made[0].closed
