"""The states of samplers: what checkpoints are made of carries them, and they belong to their settings."""

from __future__ import annotations

import base64
import copy
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sampled_buffers import Life, every_store, fill, schema
from tensors import torch

import replaystore as rs
from replaystore.errors import ArgumentError, ConflictError, SchemaError

pytest_plugins = ["sampled_buffers"]


def through_torch(state: dict[str, Any], folder: Path) -> Any:
    torch.save({"model": torch.nn.Linear(2, 2).state_dict(), "sampler": state}, folder / "checkpoint.pt")
    return torch.load(folder / "checkpoint.pt")["sampler"]


def as_once(state: dict[str, Any], _: Path) -> Any:
    """As states were before they were of Python's own types alone."""
    older = copy.deepcopy(state)
    older["settings"]["names"] = tuple(older["settings"]["names"])
    if "weights" in older:
        older["weights"] = np.frombuffer(base64.b64decode(older["weights"]))
    return older


WAYS = {
    **({"torch": through_torch} if torch is not None else {}),
    "json": lambda state, _: json.loads(json.dumps(state, allow_nan=False)),
    "pickle": lambda state, _: pickle.loads(pickle.dumps(state)),
    "as once": as_once,
}


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize(
    "chosen",
    [
        {},
        {
            "batch_size": np.int64(5),
            "gamma": np.float32(0.5),
            "n_step": np.int32(2),
            "where": np.str_("length > 0"),
        },
    ],
    ids=["plain", "NumPy's numbers"],
)
@pytest.mark.parametrize(
    "order", ["uniform", "trajectory", "epoch", "weights of steps", "weights of trajectories"]
)
def test_every_state_passes_through_what_checkpoints_are_made_of(
    stored: tuple[rs.Buffer, list[Life]],
    tmp_path: Path,
    order: str,
    chosen: dict[str, Any],
    way: Callable[[dict[str, Any], Path], Any],
) -> None:
    buffer, _ = stored
    weights = {"weights of steps": len(buffer), "weights of trajectories": buffer.num_trajectories}
    settings: dict[str, Any] = {
        "batch_size": 7,
        **chosen,
    }
    if order in weights:
        settings["weights"] = np.arange(1.0, weights[order] + 1) / 3
        settings["per"] = "trajectory" if "trajectories" in order else "step"
    else:
        settings["order"] = order
    sampler = buffer.sampler(seed=1 << 100, **settings)
    batch = sampler.sample()
    if order in weights:
        index = batch["trajectory" if "trajectories" in order else "index"]
        sampler.update_weights(index, index % 5 + 0.1)

    again = buffer.sampler(**settings)
    again.load_state_dict(way(sampler.state_dict(), tmp_path))

    for _ in range(3):
        expected, found = sampler.sample(), again.sample()
        assert expected.keys() == found.keys()
        assert all(np.array_equal(expected[name], found[name]) for name in expected)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": "1"}, "seed is '1', not a number"),
        ({"batch": None}, "batch is None"),
        ({"epoch": -1}, "epoch is -1"),
        ({"commit": 0.5}, "commit is 0.5"),
        ({"settings": [1]}, "settings is a list, not a dict"),
        ({"weights": "?"}, "not the weights of a sampler's state"),
        ({"weights": "AAAA"}, "not the weights of a sampler's state"),
        ({"weights": [1.0]}, "weights have shape"),
    ],
    ids=str,
)
def test_a_state_that_is_none_changes_nothing(
    stored: tuple[rs.Buffer, list[Life]], change: dict[str, Any], message: str
) -> None:
    buffer, _ = stored
    sampler = buffer.sampler(7, weights=np.ones(len(buffer)), seed=3)
    sampler.sample()
    before = sampler.state_dict()
    with pytest.raises(SchemaError, match=message):
        sampler.load_state_dict(buffer.sampler(7, weights=np.ones(len(buffer)), seed=4).state_dict() | change)
    assert sampler.state_dict() == before
    with pytest.raises(SchemaError, match="are missing"):
        sampler.load_state_dict(None)  # type: ignore[arg-type]


def test_a_state_belongs_to_its_settings(stored: tuple[rs.Buffer, list[Life]]) -> None:
    buffer, _ = stored
    state = json.loads(json.dumps(buffer.sampler(7, n_step=3, seed=3).state_dict()))
    buffer.sampler(7, n_step=3).load_state_dict(state)
    for chosen, message in (
        ({"n_step": 2}, "n_step 3; this one has 2"),
        ({"n_step": 3, "fields": ["action"]}, "sampler with names"),
    ):
        with pytest.raises(SchemaError, match=message):
            buffer.sampler(7, **chosen).load_state_dict(state)
    with pytest.raises(SchemaError, match="weights are missing"):
        buffer.sampler(7, weights=np.ones(len(buffer))).load_state_dict(state)


@pytest.mark.parametrize("suffix", ["zarr", "h5"])
@pytest.mark.parametrize("live", [True, False])
def test_a_state_is_taken_up_though_fields_have_come_since(tmp_path: Path, suffix: str, live: bool) -> None:
    """A recorder adds fields for infos when it sees them: the sampler that was made before shows none, and
    one that is made when the training is resumed goes on without them, too."""
    location = tmp_path / f"a.{suffix}"
    with rs.create(location, schema()) as buffer:
        fill(buffer, [(0, 20, True, True)])
        sampler = buffer.sampler(4, live=live, seed=3)
        sampler.sample()
        buffer.add_field("info/speed", rs.Field("float32", (), "info"), fill=1)
        buffer.commit("one")
        sampler.refresh()
        state, expected = sampler.state_dict(), sampler.sample()
    with rs.open(location, "r+") as buffer:
        buffer.rollback("one")
        again = buffer.sampler(4, live=live, seed=0)
        assert "info/speed" in again.sample()
        again.load_state_dict(state)
        found = again.sample()
        assert found.keys() == expected.keys()
        assert all(np.array_equal(found[name], expected[name]) for name in expected)
        chosen = buffer.sampler(4, live=live, fields=["action", "info/speed"])
        with pytest.raises(ArgumentError, match="sampler with names"):
            chosen.load_state_dict(state)


@pytest.mark.parametrize("live", [True, False])
def test_a_state_of_other_fields_that_is_refused_changes_nothing(live: bool) -> None:
    with rs.create(f"memory:refused-{live}", schema()) as buffer:
        fill(buffer, [(0, 20, True, True)])
        chosen: dict[str, Any] = {"order": "prioritized", "live": live}
        state = buffer.sampler(4, seed=3, **chosen).state_dict()
        buffer.add_field("info/speed", rs.Field("float32", (), "info"), fill=1)
        buffer.commit()
        sampler = buffer.sampler(4, seed=3, **chosen)
        before = sampler.state_dict()
        wrong = state | {"weights": [1.0], "commit": before["commit"]}
        with pytest.raises(SchemaError, match="weights have shape"):
            sampler.load_state_dict(wrong)
        assert sampler.state_dict() == before
        assert "info/speed" in sampler.recipe.names
        assert "info/speed" in sampler.sample()


SLABS = 1, 400, 1 << 28
"""Memory for a chunk of each field, for few, and for all."""


@pytest.mark.parametrize("order", ["uniform", "trajectory", "prioritized", "weights of trajectories"])
@pytest.mark.parametrize("chosen", [{}, {"fragment_length": 3, "pad": "end"}, {"n_step": 3}], ids=str)
@every_store
@pytest.mark.filterwarnings("ignore:.*slab_bytes")
def test_what_is_drawn_does_not_depend_on_the_memory_for_chunks(
    stored: tuple[rs.Buffer, list[Life]], order: str, chosen: dict[str, Any]
) -> None:
    buffer, _ = stored
    settings: dict[str, Any] = {"order": order, **chosen}
    if order.startswith("weights"):
        settings = {"weights": np.arange(1.0, buffer.num_trajectories + 1), "per": "trajectory", **chosen}
    sampler = buffer.sampler(7, seed=5, slab_bytes=SLABS[-1], **settings)
    sampler.sample()
    state, expected = sampler.state_dict(), [sampler.sample() for _ in range(40)]
    for slab_bytes in SLABS:
        again = buffer.sampler(7, slab_bytes=slab_bytes, **settings)
        again.load_state_dict(state)
        for batch in expected:
            found = again.sample()
            assert found.keys() == batch.keys()
            assert all(np.array_equal(found[name], batch[name]) for name in batch)
        assert again.state_dict()["settings"]["slab_bytes"] == slab_bytes


@pytest.mark.parametrize("slab_bytes", SLABS)
@pytest.mark.filterwarnings("ignore:.*slab_bytes")
def test_what_a_live_sampler_draws_does_not_depend_on_the_memory_for_chunks(slab_bytes: int) -> None:
    with rs.create(f"memory:slab-{slab_bytes}", schema()) as buffer:
        fill(buffer, [(0, 20, True, True), (1, 30, False, True)])
        sampler = buffer.sampler(4, live=True, seed=3)
        sampler.sample()
        again = buffer.sampler(4, live=True, slab_bytes=slab_bytes)
        again.load_state_dict(sampler.state_dict())
        for count in (0, 5, 20):
            fill(buffer, [(0, count, False, True)] if count else [])
            expected, found = sampler.sample(), again.sample()
            assert all(np.array_equal(found[name], expected[name]) for name in expected)


def test_a_state_of_an_epoch_belongs_to_its_memory_for_chunks(stored: tuple[rs.Buffer, list[Life]]) -> None:
    buffer, _ = stored
    state = buffer.sampler(7, order="epoch", seed=3, slab_bytes=3000).state_dict()
    with pytest.raises(SchemaError, match="slab_bytes 3000; this one has 4000"):
        buffer.sampler(7, order="epoch", slab_bytes=4000).load_state_dict(state)


@pytest.mark.parametrize("suffix", ["zarr", "h5"])
@pytest.mark.parametrize("live", [False, True])
def test_a_state_is_taken_up_when_the_sampler_has_seen_the_rollback(
    tmp_path: Path, suffix: str, live: bool
) -> None:
    rewards = rs.Schema({"reward": rs.Field("float64", (), "reward")})
    with rs.create(tmp_path / f"a.{suffix}", rewards) as buffer:
        buffer.append({"reward": np.arange(30.0)})
        buffer.commit("here")
        sampler = buffer.sampler(4, seed=1, live=live)
        state = sampler.state_dict()
        expected = sampler.sample()["reward"].tolist()
        buffer.append({"reward": np.arange(10.0)})
        buffer.commit()
        sampler.refresh()
        buffer.rollback("here")
        with pytest.raises(ConflictError, match=r"went back to an older commit.*refresh\(\)"):
            sampler.load_state_dict(state)
        sampler.refresh()
        sampler.load_state_dict(state)
        assert sampler.sample()["reward"].tolist() == expected
