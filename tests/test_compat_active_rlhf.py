"""Our buffer follows the rules of active_rlhf's own, in memory, saved again and again, and in a store."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rlhf_buffers import (
    DATA,
    EXPECTED,
    LENGTH,
    NAMES,
    STORES,
    Model,
    Teacher,
    adding,
    assert_batch,
    assert_follows,
    new,
    other,
    spaces,
    splits,
    step,
)

from replaystore.compat.active_rlhf import ReplayBuffer

# --- the rules


@settings(max_examples=60)
@given(capacity=st.integers(1, 12), operations=st.lists(adding | adding | other, max_size=10))
def test_a_buffer_in_memory_follows_the_rules(
    tmp_path_factory: pytest.TempPathFactory, capacity: int, operations: list[tuple[str, int, str]]
) -> None:
    place = tmp_path_factory.mktemp("memory") / "b.pkl"
    buffer, model = new(capacity), Model(capacity)
    for operation in operations:
        step(buffer, model, *operation, place)
        assert_follows(buffer, model)
    buffer.save(place)
    assert_follows(ReplayBuffer.load(place, spaces(), device="cpu"), model)
    shutil.rmtree(place.parent)


@settings(max_examples=30)
@given(
    capacity=st.integers(1, 12),
    operations=st.lists(adding | adding | other, max_size=9),
    suffix=st.sampled_from(STORES),
)
def test_a_buffer_saved_again_and_again_is_the_same_when_loaded(
    tmp_path_factory: pytest.TempPathFactory,
    capacity: int,
    operations: list[tuple[str, int, str]],
    suffix: str,
) -> None:
    place = tmp_path_factory.mktemp("saved") / f"b{suffix}"
    buffer, model = new(capacity), Model(capacity)
    for operation in [*operations, ("save", 0, "")]:
        step(buffer, model, *operation, place)
        if operation[0] == "save":
            with ReplayBuffer.load(place, spaces(), device="cpu") as lazy:
                assert_follows(lazy, model)
    shutil.rmtree(place.parent)


@settings(max_examples=30)
@given(
    capacity=st.integers(1, 12),
    before=st.lists(st.tuples(st.integers(0, 12), splits), max_size=4),
    operations=st.lists(adding | other, max_size=8),
    suffix=st.sampled_from(STORES),
)
def test_a_buffer_in_a_store_goes_on_as_one_in_memory(
    tmp_path_factory: pytest.TempPathFactory,
    capacity: int,
    before: list[tuple[int, str]],
    operations: list[tuple[str, int, str]],
    suffix: str,
) -> None:
    place = tmp_path_factory.mktemp("living") / f"b{suffix}"
    start, model = new(capacity), Model(capacity)
    for count, split in before:
        step(start, model, "add", min(count, capacity), split, place)
    start.save(place)
    with ReplayBuffer.load(place, spaces(), device="cpu", mode="r+") as lazy:
        for kind, count, split in operations:
            step(lazy, model, kind, max(1, min(count, capacity)), split, place)
            assert_follows(lazy, model)
            if kind == "add":
                with ReplayBuffer.load(place, device="cpu") as reader:  # what is added is safe at once
                    assert (reader.size, reader.global_step) == (model.size, model.step)
    with ReplayBuffer.load(place, device="cpu") as again:
        assert_follows(again, model)
    shutil.rmtree(place.parent)


@given(counts=st.lists(st.integers(1, 12), min_size=1, max_size=6))
def test_the_likelier_fragments_are_those_above_the_mean(counts: list[int]) -> None:
    buffer, model = new(20), Model(20)
    for count in counts:
        step(buffer, model, "add", count, "train", Path())
    model.score()
    if any(known["length"] >= LENGTH for known in model.trajectories):
        assert_batch(
            lambda: buffer.sample_by_on_policiness(5, Teacher()),
            lambda: model.fragments(5, "train", by_score=True),
            model,
        )
        assert [vars(info) for info in buffer.trajectories] == model.trajectories


# --- files of the original


def digest(tensor: torch.Tensor) -> str:
    return hashlib.sha256(tensor.contiguous().numpy().tobytes()).hexdigest()


class Policy(torch.nn.Module):
    """The Gaussian policy that the samples were scored with."""

    def __init__(self, observation: int, action: int) -> None:
        super().__init__()
        self.critic = torch.nn.Sequential(*self._layers(observation, 1, 1.0))
        self.mean = torch.nn.Sequential(*self._layers(observation, action, 0.01))
        self.deviation = torch.zeros(1, action)

    @staticmethod
    def _layers(width: int, out: int, gain: float) -> Iterator[torch.nn.Module]:
        for inner, outer, scale in ((width, 64, 2**0.5), (64, 64, 2**0.5), (64, out, gain)):
            layer = torch.nn.Linear(inner, outer)
            torch.nn.init.orthogonal_(layer.weight, scale)
            torch.nn.init.constant_(layer.bias, 0.0)
            yield layer
            if outer == 64 and scale != gain:
                yield torch.nn.Tanh()

    def get_action_and_value(
        self, obs: torch.Tensor, acts: torch.Tensor
    ) -> tuple[Any, torch.Tensor, None, None]:
        mean = self.mean(obs)
        return (
            acts,
            torch.distributions.Normal(mean, torch.exp(self.deviation.expand_as(mean))).log_prob(acts).sum(1),
            None,
            None,
        )


def policy() -> Policy:
    torch.manual_seed(99)
    return Policy(17, 6)


def attempt(function: Callable[[], Any]) -> Any:
    """What the samples' facts say of a call."""
    torch.manual_seed(1234)
    np.random.seed(1234)
    try:
        batch = function()
    except (ValueError, RuntimeError) as error:
        return f"{'ValueError' if isinstance(error, ValueError) else 'RuntimeError'}: {error}"
    tensors = {name: getattr(batch, name) for name in NAMES}
    return {
        name: {"shape": list(t.shape), "dtype": str(t.dtype), "sha256": digest(t)}
        for name, t in tensors.items()
    }


def as_expected(found: Any, known: Any) -> bool:
    """Whether a call gave what it gave in the original; after what that said, an error may say what to do."""
    return bool(found.startswith(known) if isinstance(known, str) else found == known)


@pytest.mark.parametrize("suffix", ["", ".pkl", *STORES])
@pytest.mark.parametrize("name", EXPECTED)
def test_files_of_the_original_are_loaded_and_sampled_as_it_does(
    name: str, suffix: str, tmp_path: Path
) -> None:
    expected = EXPECTED[name]
    buffer = ReplayBuffer.load(DATA / expected["file"], device="cpu")
    if suffix:
        buffer.save(tmp_path / f"b{suffix}")
        buffer = ReplayBuffer.load(tmp_path / f"b{suffix}", device="cpu")

    for key in ("capacity", "size", "pos", "global_step", "fragment_length"):
        assert getattr(buffer, key) == expected[key]
    facts = [
        {key: value for key, value in known.items() if key != "content_sha256"}
        for known in expected["trajectories"]
    ]
    assert [vars(info) for info in buffer.trajectories] == facts
    assert {field: digest(getattr(buffer, field)[:]) for field in NAMES} == {
        f: expected["tensors"][f]["storage_sha256"] for f in NAMES
    }
    assert buffer.get_trajectory_statistics() == expected["statistics"]
    for split, known in expected["get_all_trajectories"].items():
        assert as_expected(
            attempt(lambda split=split: buffer.get_all_trajectories(None if split == "None" else split)),
            known,
        )
    seeded = expected["seeded"]
    assert as_expected(attempt(lambda: buffer.sample(6)), seeded["sample(6)"])
    for split in ("train", "val"):
        assert as_expected(
            attempt(lambda split=split: buffer.sample2(6, split)), seeded[f"sample2(6,'{split}')"]
        )
    if "scores_after_update" in expected:
        agent = policy()
        assert (
            attempt(lambda: buffer.sample_by_on_policiness(6, agent))
            == seeded["sample_by_on_policiness(6,agent(torch seed 99))"]
        )
        assert [info.on_policiness_score for info in buffer.trajectories] == expected["scores_after_update"]
        assert buffer.get_trajectory_statistics() == expected["statistics_after_update"]
