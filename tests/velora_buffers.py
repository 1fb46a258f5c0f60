"""Our buffer beside velora's own: rows for both, and what they must agree in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import strategies as st

from replaystore.compat.velora import ReplayBuffer

FIELDS = ("states", "actions", "rewards", "next_states", "dones", "hiddens")
SIZES = {"state_dim": 3, "action_dim": 2, "hidden_dim": 4}
STORES = (".zarr", ".h5")


def real_class() -> Any:
    """The ReplayBuffer of velora."""
    pytest.importorskip("velora.models", reason="velora is not installed: pip install velora==0.2.0")
    from velora.buffer import ReplayBuffer as Real

    return Real


def rows(seed: int, count: int, *, vector: bool = False) -> list[torch.Tensor]:
    """Rows of steps that follow each other, or of environments that take turns."""
    generator = torch.Generator().manual_seed(seed)
    states = torch.randn(count + 1, SIZES["state_dim"], generator=generator)
    after = torch.randn(count, SIZES["state_dim"], generator=generator) if vector else states[1:]
    dones = (torch.rand(count, 1, generator=generator) < 0.2).float()
    made = [torch.randn(count, width, generator=generator) for width in (SIZES["action_dim"], 1)]
    return [
        states[:-1],
        made[0],
        made[1],
        after,
        dones,
        torch.randn(count, SIZES["hidden_dim"], generator=generator),
    ]


def filled(capacity: int, *counts: int) -> ReplayBuffer:
    buffer = ReplayBuffer(capacity, **SIZES)
    for seed, count in enumerate(counts):
        buffer.add_multi(*rows(seed, count))
    return buffer


def state(buffer: Any) -> dict[str, torch.Tensor]:
    return {name: getattr(buffer, name)[:].clone() for name in FIELDS}


def assert_equal(ours: Any, real: Any) -> None:
    """Equal numbers, equal rows, and equal batches from equal seeds."""
    assert (ours.position, ours.size, len(ours)) == (real.position, real.size, len(real))
    theirs = state(real)
    for name, tensor in state(ours).items():
        assert tensor.dtype == theirs[name].dtype
        assert torch.equal(tensor, theirs[name]), name
    if len(ours):
        torch.manual_seed(5)
        mine = ours.sample(len(ours))
        torch.manual_seed(5)
        other = real.sample(len(real))
        assert all(torch.equal(getattr(mine, name), getattr(other, name)) for name in FIELDS)


def raised(function: Callable[[], object]) -> type[BaseException] | None:
    try:
        function()
    except (AttributeError, IndexError, RuntimeError, TypeError, ValueError) as error:
        return type(error)
    return None


one = st.tuples(st.just("add"), st.integers(0, 99), st.just(1))
many = st.tuples(st.sampled_from(["add_multi", "vector"]), st.integers(0, 99), st.integers(0, 25))
saving = st.tuples(st.sampled_from(["save", "save", "write"]), st.just(0), st.just(0))


def apply(buffer: Any, kind: str, seed: int, count: int) -> None:
    values = rows(seed, count, vector=kind == "vector")
    if kind == "add":
        state_, action, reward, after, done, hidden = (value[0] for value in values)
        buffer.add(state_, action, float(reward), after, bool(done), hidden)
    else:
        buffer.add_multi(*values)
