"""Buffers of velora's agents are adopted into stores; classes of one's own are loaded as they are made."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from adopted_buffers import Prioritized, velora_buffer

from replaystore.compat import velora
from replaystore.errors import SchemaError


@pytest.mark.parametrize("path", [None, "b.zarr", "b.h5"])
def test_an_agents_buffer_is_adopted_with_what_is_in_it(path: str | None, tmp_path: Path) -> None:
    own = velora_buffer(capacity=6, count=8)
    place = None if path is None else tmp_path / path

    with velora.ReplayBuffer.adopt(own, place) as ours:
        assert ours.metadata() == own.metadata()
        ours.add(torch.ones(3), 1.0, 2.0, torch.ones(3), False, torch.ones(2))
        own.add(torch.ones(3), 1.0, 2.0, torch.ones(3), False, torch.ones(2))
        assert all(torch.equal(tensor, own.state_dict()[name]) for name, tensor in ours.state_dict().items())
    if place is not None:
        with velora.ReplayBuffer.adopt(velora_buffer(6, 0), place) as again:
            assert again.metadata() == own.metadata()
        with pytest.raises(
            SchemaError, match=("is there, and the agent's buffer has 3 transitions: choose another name")
        ):
            velora.ReplayBuffer.adopt(velora_buffer(6, 3), place)
        with pytest.raises(
            SchemaError, match=("has capacity=6, and the agent's buffer capacity=7: choose another name")
        ):
            velora.ReplayBuffer.adopt(velora_buffer(7, 0), place)


def test_a_buffer_is_adopted_into_nothing_but_a_store(tmp_path: Path) -> None:
    with pytest.raises(
        SchemaError,
        match=(
            r"is not the name of a store: choose one that ends in \.zarr "
            r"or \.h5"
        ),
    ):
        velora.ReplayBuffer.adopt(velora_buffer(), tmp_path / "folder")


@pytest.mark.parametrize("name", ["files", "b.zarr", "b.h5"])
def test_a_class_of_ones_own_is_loaded_as_it_is_made(name: str, tmp_path: Path) -> None:
    buffer = Prioritized(20, 3, 1, 2)
    buffer.add(torch.ones(3), 1.0, 2.0, torch.ones(3), False, torch.ones(2))
    buffer.save(tmp_path / name)
    path = tmp_path / name / "buffer_state" if name == "files" else tmp_path / name

    with Prioritized.load(path) as loaded:
        assert loaded.alpha == 0.5
        assert torch.equal(loaded.sample(1), torch.ones(1, 3))
