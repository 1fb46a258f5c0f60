"""Buffers loaded with another capacity, and more rows at once than there are places."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from adopted_buffers import VELORA_FIELDS, Prioritized, of_both, velora_buffer
from rlhf_buffers import NAMES, STORES, filled, rows

from replaystore.compat import velora
from replaystore.compat.active_rlhf import (
    ReplayBuffer,
)
from replaystore.errors import FormatError, ReplayStoreWarning, SchemaError, UnsupportedError

# --- more rows at once than there are places


@pytest.mark.parametrize("suffix", STORES)
@pytest.mark.parametrize(("before", "count"), [(4, 13), (0, 19), (7, 12)])
def test_a_lazy_buffer_takes_more_rows_than_it_has_places_as_memory_does(
    before: int, count: int, suffix: str, tmp_path: Path
) -> None:
    memory, other = filled(10, before), velora_buffer(10, before)
    memory.save(tmp_path / f"a{suffix}")
    other.save(tmp_path / f"v{suffix}")
    numbers = torch.rand(count, 3)
    values = (
        numbers,
        torch.ones(count),
        torch.ones(count),
        numbers + 1,
        torch.zeros(count),
        torch.ones(count, 2),
    )
    with (
        ReplayBuffer.load(tmp_path / f"a{suffix}", device="cpu", mode="r+") as lazy,
        velora.ReplayBuffer.load(tmp_path / f"v{suffix}", mode="r+") as second,
    ):
        for buffer in (memory, lazy):
            buffer.add(*rows(before, count))
        for each in (other, second):
            each.add_multi(*values)
        with ReplayBuffer.load(tmp_path / f"a{suffix}", device="cpu") as reader:  # it is safe at once
            for buffer in (lazy, reader):
                assert (buffer.size, buffer.pos, buffer.trajectories) == (
                    memory.size,
                    memory.pos,
                    memory.trajectories,
                )
                assert all(torch.equal(getattr(buffer, name)[:], getattr(memory, name)) for name in NAMES)
        assert (second.size, second.position) == (other.size, other.position)
        assert all(torch.equal(getattr(second, name)[:], getattr(other, name)) for name in VELORA_FIELDS)


# --- another capacity


HISTORIES = [
    (10, ()),
    (10, (4,)),
    (10, (5, 5)),
    (10, (4, 4, 4)),
    (10, (3, 4, 2, 3, 4)),
    (10, (4, 10)),
    (10, (4, 13)),
]
FORMS = ("files", ".zarr", ".h5", "grown.zarr", "grown.h5")


def in_velora(path: Path, capacity: int, counts: tuple[int, ...]) -> velora.ReplayBuffer:
    """A buffer of velora, saved; "grown": the last rows were added in the store."""
    memory = velora.ReplayBuffer(capacity, 2, 1, 2)
    whole = [rows(sum(counts[:at]), count) for at, count in enumerate(counts)]
    early = len(whole) // 2 if path.name.startswith("grown") else len(whole)

    def add(buffer: Any, some: Any) -> None:
        for obs, acts, rews, dones in some:
            buffer.add_multi(obs, acts, rews, obs + 1, dones, obs / 7)

    add(memory, whole[:early])
    memory.save(path)
    if early < len(whole):
        with velora.ReplayBuffer.load(path, mode="r+") as lazy:
            add(lazy, whole[early:])
    add(memory, whole[early:])
    return memory


def in_active_rlhf(path: Path, capacity: int, counts: tuple[int, ...]) -> ReplayBuffer:
    memory = filled(capacity, *counts)
    early = filled(capacity, *counts[: len(counts) // 2]) if path.name.startswith("grown") else memory
    early.save(path)
    if early is not memory:
        with ReplayBuffer.load(path, device="cpu", mode="r+") as lazy:
            for count in counts[len(counts) // 2 :]:
                lazy.add(*rows(lazy.global_step, count))
    return memory


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def numbers_of(field: Any, capacity: int, size: int, position: int) -> list[float]:
    """Which rows there are, oldest first."""
    begin = position if size == capacity else 0
    return [float(field[:][(begin + number) % capacity][0]) for number in range(size)]


def messages(warned: list[warnings.WarningMessage]) -> list[str]:
    assert all(item.category is ReplayStoreWarning and item.filename == __file__ for item in warned)
    return [str(item.message) for item in warned]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("history", HISTORIES, ids=str)
def test_a_buffer_of_velora_loads_with_another_capacity(history: Any, form: str, tmp_path: Path) -> None:
    path = tmp_path / form
    memory = in_velora(path, *history)
    before, source = files_of(tmp_path), path / "buffer_state" if form == "files" else path
    known = numbers_of(memory.states, memory.capacity, memory.size, memory.position)
    for capacity in (1, 7, 10, 25):
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            loaded = velora.ReplayBuffer.load(source, memory.metadata(), capacity=capacity)
        lost = max(0, len(known) - capacity)
        assert [
            f"the oldest {lost} of {len(known)} rows are not loaded" in text for text in messages(warned)
        ] == [True] * (lost > 0)
        kept = known[lost:]
        with loaded:
            assert (loaded.capacity, loaded.size, len(loaded.states)) == (capacity, len(kept), capacity)
            assert numbers_of(loaded.states, capacity, loaded.size, loaded.position) == kept
            rest = torch.tensor(kept)
            if capacity != memory.capacity:
                assert torch.equal(loaded.hiddens[:][: len(kept), 0], rest / 7)
                assert not loaded.rewards[:][len(kept) :].any()
            if kept:
                assert set(loaded.sample(len(kept)).states[:, 0].tolist()) <= set(kept)
            if isinstance(loaded.states, torch.Tensor):
                buffer = loaded
            else:
                loaded.save(f"memory:{tmp_path.name}")
                buffer = velora.ReplayBuffer.load(f"memory:{tmp_path.name}", mode="r+")
        new = max(1, capacity - len(kept))  # it has room for so many
        obs, acts, rews, dones = rows(100, new)
        buffer.add_multi(obs, acts, rews, obs + 1, dones, obs / 7)
        assert (
            numbers_of(buffer.states, capacity, buffer.size, buffer.position)
            == [*kept, *obs[:, 0].tolist()][-capacity:]
        )
        buffer.close()
    assert files_of(tmp_path) == before


@pytest.mark.parametrize("form", ["files.pkl", *FORMS[1:]])
@pytest.mark.parametrize("history", HISTORIES, ids=str)
def test_a_buffer_of_active_rlhf_loads_with_another_capacity(history: Any, form: str, tmp_path: Path) -> None:
    path = tmp_path / form
    memory = in_active_rlhf(path, *history)
    before = files_of(tmp_path)
    known = numbers_of(memory.obs, memory.capacity, memory.size, memory.pos)
    listed = [
        (info, memory.obs[(info.start_pos + torch.arange(info.length)) % memory.capacity])
        for info in memory.trajectories
    ]
    for capacity in (1, 4, 7, 25):
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            loaded = ReplayBuffer.load(path, device="cpu", capacity=capacity)
        kept = known[max(0, len(known) - capacity) :]
        whole = [
            (info, obs)
            for info, obs in listed
            if info.length <= memory.capacity and kept and obs[:, 0].min() >= kept[0]
        ]
        expected = (
            f"the oldest {len(known) - len(kept)} of {len(known)} rows are not loaded"
            if len(kept) < len(known)
            else ""
        )
        gone = (
            f"{len(listed) - len(whole)} of {len(listed)} trajectories, of which"
            if len(whole) < len(listed)
            else ""
        )
        assert [expected in text and gone in text for text in messages(warned)] == [True] * bool(
            expected or gone
        )
        with loaded:
            assert (loaded.capacity, loaded.size, len(loaded.obs)) == (capacity, len(kept), capacity)
            assert (loaded.global_step, loaded.fragment_length) == (
                memory.global_step,
                memory.fragment_length,
            )
            assert numbers_of(loaded.obs, capacity, loaded.size, loaded.pos) == kept
            assert not loaded.obs[:][len(kept) :].any()
            assert len(loaded.trajectories) == len(whole)
            for info, (was, obs) in zip(loaded.trajectories, whole, strict=True):
                assert vars(info) | {"start_pos": 0} == vars(was) | {"start_pos": 0}
                assert info.start_pos + info.length <= capacity
                assert torch.equal(loaded.obs[info.start_pos + torch.arange(info.length)], obs)
            if isinstance(loaded.obs, torch.Tensor):
                buffer = loaded
            else:
                loaded.save(f"memory:{tmp_path.name}")
                buffer = ReplayBuffer.load(f"memory:{tmp_path.name}", device="cpu", mode="r+")
        new = max(1, capacity - len(kept))
        survivors = (
            buffer.trajectories[:]
            if capacity > len(kept)
            else [info for info in buffer.trajectories if info.start_pos > 0]
        )
        buffer.add(*rows(100, new))
        assert buffer.trajectories[:-1] == survivors
        assert (
            numbers_of(buffer.obs, capacity, buffer.size, buffer.pos)
            == [*kept, *range(101, 101 + new)][-capacity:]
        )
        buffer.close()
    assert files_of(tmp_path) == before


@pytest.mark.parametrize("suffix", STORES)
def test_a_store_that_is_written_to_keeps_its_capacity(suffix: str, tmp_path: Path) -> None:
    for (_, _, memory), name in zip(of_both(tmp_path, suffix), ("v", "a"), strict=True):
        path, other, kind = tmp_path / f"{name}{suffix}", tmp_path / f"{name}-other{suffix}", type(memory)
        options = {} if name == "v" else {"device": "cpu"}
        with pytest.raises(
            UnsupportedError,
            match=(
                r"load it with capacity=30 and mode='r', save that to "
                r"another name, and load the new"
            ),
        ):
            kind.load(path, mode="r+", capacity=30, **options)
        # And the store is not kept open.
        with kind.load(path, mode="r+", capacity=memory.capacity, **options) as same:
            assert same.size == memory.size
        with kind.load(path, capacity=30, **options) as loaded:  # the advice, followed
            loaded.save(other)
        with kind.load(other, mode="r+", **options) as again:
            assert (again.capacity, again.size) == (30, memory.size)


@pytest.mark.parametrize("wrong", [0, -1, 2.5, "8", True])
def test_a_capacity_is_a_positive_number(wrong: Any, tmp_path: Path) -> None:
    for suffix in ("", *STORES):
        of_both(tmp_path, suffix)
        for kind, path in (
            (velora.ReplayBuffer, tmp_path / f"v{suffix}"),
            (ReplayBuffer, tmp_path / f"a{suffix}"),
        ):
            with pytest.raises(SchemaError, match="capacity must be a positive number"):
                kind.load(path if suffix or kind is ReplayBuffer else path / "buffer_state", capacity=wrong)


@pytest.mark.parametrize("suffix", ["", *STORES])
def test_a_capacity_that_was_changed_in_the_metadata_says_how_it_is_meant(
    suffix: str, tmp_path: Path
) -> None:
    memory = velora_buffer()
    path = tmp_path / f"b{suffix}"
    memory.save(path)
    source = path if suffix else path / "buffer_state"

    with pytest.raises((SchemaError, FormatError), match="capacity=30"):
        velora.ReplayBuffer.load(source, memory.metadata() | {"capacity": 30})
    with velora.ReplayBuffer.load(source, memory.metadata(), capacity=30) as loaded:
        assert (loaded.capacity, loaded.size) == (30, 5)
    with Prioritized.load(source, capacity=30) as own:
        assert (own.capacity, own.alpha, len(own.states)) == (30, 0.5, 30)


@pytest.mark.parametrize("suffix", STORES)
def test_a_warning_that_is_an_error_leaves_no_store_open(suffix: str, tmp_path: Path) -> None:
    for load, _, memory in of_both(tmp_path, suffix, "r+"):
        options = {} if isinstance(memory, velora.ReplayBuffer) else {"device": "cpu"}
        path = tmp_path / (f"a{suffix}" if options else f"v{suffix}")
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with pytest.raises(ReplayStoreWarning, match="are not loaded"):
                type(memory).load(path, capacity=2, **options)
        load().close()
