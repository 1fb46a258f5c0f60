"""The code of active_rlhf itself and the drop-in module for it do the same, and read each other's files: see
`rlhf_buffers.original`."""

from __future__ import annotations

import ast
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rlhf_buffers import DATA, EXPECTED, LENGTH, NAMES, STORES, Teacher, new, original, rows, spaces, splits

import replaystore as rs
from replaystore.compat import active_rlhf
from replaystore.compat.active_rlhf import ReplayBuffer

adds = st.lists(st.tuples(st.integers(1, 9), splits), max_size=7)


def outcome(draw: Callable[[], Any], fields: tuple[str, ...] = NAMES) -> Any:
    """The batch that equal seeds give, or the kind of the error and the beginning of what it says."""
    torch.manual_seed(11)
    np.random.seed(11)
    try:
        batch = draw()
    except (ValueError, RuntimeError) as error:
        kind = ValueError if isinstance(error, ValueError) else RuntimeError
        return kind, str(error)[:30]
    return {name: getattr(batch, name) for name in fields}


def same(one: Any, other: Any) -> bool:
    if isinstance(one, dict) and isinstance(other, dict):
        return all(
            one[name].dtype == other[name].dtype and torch.equal(one[name], other[name]) for name in one
        )
    return bool(one == other)


def assert_same(ours: ReplayBuffer, real: Any) -> None:
    """The same state, the same numbers of it, and the same batches from the same seeds."""
    assert (ours.size, ours.pos, ours.global_step, ours.capacity) == (
        real.size,
        real.pos,
        real.global_step,
        real.capacity,
    )
    assert [vars(info) for info in ours.trajectories] == [vars(info) for info in real.trajectories]
    assert ours.get_trajectory_statistics() == real.get_trajectory_statistics()
    for name in NAMES:
        assert getattr(ours, name).dtype == getattr(real, name).dtype
        assert torch.equal(getattr(ours, name)[:], getattr(real, name)), name
    draws: list[Callable[[Any], Any]] = [
        lambda buffer: buffer.sample(5),
        lambda buffer: buffer.sample2(5),
        lambda buffer: buffer.sample2(5, "val"),
        lambda buffer: buffer.get_all_trajectories(),
        lambda buffer: buffer.get_all_trajectories("val"),
    ]
    for draw in draws:
        assert same(outcome(lambda draw=draw: draw(ours)), outcome(lambda draw=draw: draw(real)))


def real_buffer(capacity: int) -> Any:
    return original().ReplayBuffer(spaces(), capacity=capacity, fragment_length=LENGTH, device="cpu")


def real_load(path: Path, length: int = LENGTH, envs: Any = None) -> Any:
    return original().ReplayBuffer.load(str(path), envs or spaces(), length, "cpu")


def grow(buffers: list[Any], counts: list[tuple[int, str]]) -> None:
    for count, split in counts:
        first = buffers[0].global_step
        for buffer in buffers:
            buffer.add(*rows(first, min(count, buffer.capacity)), split=split)


# --- both directions


@settings(max_examples=8)
@given(capacity=st.sampled_from([10, 40]), before=adds, after=adds, score=st.booleans())
@pytest.mark.parametrize("kind", ["memory", *STORES])
def test_each_goes_on_with_what_the_other_has_saved(
    kind: str,
    tmp_path_factory: pytest.TempPathFactory,
    capacity: int,
    before: list[tuple[int, str]],
    after: list[tuple[int, str]],
    score: bool,
) -> None:
    folder = tmp_path_factory.mktemp("exchange")
    ours, real = new(capacity), real_buffer(capacity)
    grow([ours, real], before)
    assert_same(ours, real)
    if kind != "memory":
        ours.save(folder / f"ours{kind}")
        ours = ReplayBuffer.load(folder / f"ours{kind}", spaces(), device="cpu", mode="r+")
    if score:
        for buffer in (ours, real):
            buffer.update_on_policiness_scores(Teacher())
    ours.save(folder / "ours.pkl")
    real.save(str(folder / "real.pkl"))
    theirs = real_load(folder / "ours.pkl")  # theirs of our file, and ours of theirs
    back = ReplayBuffer.load(folder / "real.pkl", spaces(), device="cpu")
    if kind != "memory":
        back.save(folder / f"back{kind}")
        back = ReplayBuffer.load(folder / f"back{kind}", spaces(), device="cpu", mode="r+")

    with ours, back:
        grow([real, ours, theirs, back], after)
        for buffer in (ours, back):
            for other in (real, theirs):
                assert_same(buffer, other)


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_the_original_samples_the_same_from_a_file_that_went_through_a_store(
    name: str, tmp_path: Path
) -> None:
    sample = DATA / EXPECTED[name]["file"]
    original()  # the file names a class of it
    rs.convert(sample, tmp_path / "a.zarr")
    rs.convert(tmp_path / "a.zarr", tmp_path / "b.pkl")
    widths = [EXPECTED[name]["tensors"][field]["shape"][1] for field in ("obs", "acts")]
    length = EXPECTED[name]["fragment_length"]

    real, ours = (real_load(path, length, spaces(*widths)) for path in (sample, tmp_path / "b.pkl"))

    assert [vars(info) for info in ours.trajectories] == [vars(info) for info in real.trajectories]
    for draw in (lambda b: b.sample(6), lambda b: b.sample2(6, "train"), lambda b: b.sample2(6, "val")):
        assert same(outcome(lambda draw=draw: draw(ours)), outcome(lambda draw=draw: draw(real)))


def test_a_rollout_is_added_as_by_the_original() -> None:
    ours, real, module = new(20), real_buffer(20), original()
    for count in (3, 4, 5):
        for buffer, batches in ((ours, active_rlhf), (real, module)):
            rollout = batches.RolloutBuffer(count, 2, spaces())
            for number in range(count):
                obs, acts, rews, dones = rows(10 * count + 2 * number, 2)
                rollout.store(number, obs, acts, rews, rews * 2, dones.float(), rews * 3)
            buffer.add_rollout(rollout.get_batch(), "val")
        assert_same(ours, real)


# --- the rest of the module


def test_every_class_of_the_original_is_here_with_its_arguments() -> None:
    tree = ast.parse(Path(original().__file__).read_text())
    classes = [node for node in tree.body if isinstance(node, ast.ClassDef)]

    assert len(classes) == 8
    for node in classes:
        ours = getattr(active_rlhf, node.name)
        for method in (item for item in node.body if isinstance(item, ast.FunctionDef)):
            if method.name.startswith("_cleanup"):
                continue
            wanted = [argument.arg for argument in method.args.args]
            code = getattr(ours, method.name)
            code = getattr(code, "__func__", code).__code__
            assert len(wanted) <= code.co_argcount, f"{node.name}.{method.name}"
            if not method.name.startswith("__") or method.name == "__init__":
                assert list(code.co_varnames[: len(wanted)]) == wanted, f"{node.name}.{method.name}"


ROLLOUT = ("obs", "actions", "logprobs", "ground_truth_rewards", "dones", "values")


def test_a_rollout_buffer_is_that_of_the_original() -> None:
    made = [
        module.RolloutBuffer(num_steps=3, num_envs=2, envs=spaces(3, 2), device="cpu")
        for module in (active_rlhf, original())
    ]
    generator = torch.Generator().manual_seed(0)
    for step in range(3):
        values = [torch.rand(2, *shape, generator=generator) for shape in ((3,), (2,), (), (), (), ())]
        for buffer in made:
            buffer.store(step, *values)

    for take in (lambda b: b.get_batch(), lambda b: b.get_flattened_batch()):
        assert same(*(outcome(lambda b=b, take=take: take(b), ROLLOUT) for b in made))


@given(capacity=st.integers(1, 6), counts=st.lists(st.integers(0, 9), max_size=5))
def test_a_preference_buffer_is_that_of_the_original(capacity: int, counts: list[int]) -> None:
    names = tuple(active_rlhf.PreferenceBufferBatch.__dataclass_fields__)
    ours, real = (module.PreferenceBuffer(capacity) for module in (active_rlhf, original()))
    for number, count in enumerate(counts):
        values = {
            name: torch.rand(count, 4, 2, generator=torch.Generator().manual_seed(number)) for name in names
        }
        ours.add(active_rlhf.PreferenceBufferBatch(**values))
        real.add(original().PreferenceBufferBatch(**values))

        assert (len(ours), ours.pos, ours.size, ours.capacity) == (
            len(real),
            real.pos,
            real.size,
            real.capacity,
        )
        for name in names:
            assert len(getattr(ours, name)) == len(getattr(real, name))
            assert all(
                torch.equal(mine, its)
                for mine, its in zip(getattr(ours, name), getattr(real, name), strict=True)
            )
        for index in range(len(ours)):
            assert same(*(outcome(lambda b=b, index=index: b[index], names) for b in (ours, real)))


def test_pairs_are_indexed_as_in_the_original() -> None:
    names = tuple(active_rlhf.TrajectoryPairBatch.__dataclass_fields__)
    values = {name: torch.rand(5, 3, 2) for name in names}
    ours, real = (module.TrajectoryPairBatch(**values) for module in (active_rlhf, original()))

    assert len(ours) == len(real) == 5
    for index in (2, -1, slice(1, 4), [0, 4], torch.tensor([3, 3]), torch.arange(5) > 2):
        assert same(*(outcome(lambda b=b, index=index: b[index], names) for b in (ours, real)))


def test_environments_may_be_wrapped() -> None:
    envs = gymnasium.vector.SyncVectorEnv(
        [lambda: gymnasium.wrappers.FlattenObservation(gymnasium.make("Pendulum-v1"))] * 2
    )
    buffers = [module.ReplayBuffer(envs, 30, LENGTH, "cpu") for module in (active_rlhf, original())]
    generator = torch.Generator().manual_seed(0)
    values = [torch.rand(12, width, generator=generator) for width in (3, 1)] + [
        torch.rand(12),
        torch.zeros(12),
    ]
    for buffer in buffers:
        buffer.add(*values)
        assert buffer.envs is envs

    assert_same(*buffers)
    envs.close()
