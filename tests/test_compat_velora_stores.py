"""Velora's buffers in stores of this library, saved again and again and read lazily."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from velora_buffers import SIZES, STORES, apply, assert_equal, filled, many, one, rows, saving

from replaystore.buffers.create_open import open as open_buffer
from replaystore.compat.lazy import LazyTensor
from replaystore.compat.velora import ReplayBuffer
from replaystore.errors import ConflictError, SchemaError


@settings(max_examples=30)
@given(
    capacity=st.integers(1, 12),
    operations=st.lists(one | many | saving, max_size=9),
    suffix=st.sampled_from(STORES),
)
def test_a_buffer_saved_again_and_again_is_the_same_when_loaded(
    tmp_path_factory: pytest.TempPathFactory,
    capacity: int,
    operations: list[tuple[str, int, int]],
    suffix: str,
) -> None:
    folder = tmp_path_factory.mktemp("saved")
    place = folder / f"buffer{suffix}"
    buffer = ReplayBuffer(capacity, **SIZES)
    for kind, seed, count in [*operations, ("save", 0, 0)]:
        if kind == "save":
            buffer.save(place)
            with ReplayBuffer.load(place) as lazy:
                assert_equal(lazy, buffer)
        elif kind == "write":
            buffer.states[capacity // 2] = 7.0  # behind the buffer's back
        else:
            apply(buffer, kind, seed, count)
    shutil.rmtree(folder)


@settings(max_examples=30)
@given(
    capacity=st.integers(1, 12),
    before=st.integers(0, 20),
    operations=st.lists(one | many | saving, max_size=8),
    suffix=st.sampled_from(STORES),
)
def test_a_buffer_in_a_store_goes_on_as_one_in_memory(
    tmp_path_factory: pytest.TempPathFactory,
    capacity: int,
    before: int,
    operations: list[tuple[str, int, int]],
    suffix: str,
) -> None:
    folder = tmp_path_factory.mktemp("living")
    place = folder / f"buffer{suffix}"
    model = filled(capacity, before)
    model.save(place)
    with ReplayBuffer.load(place, mode="r+") as lazy:
        for kind, seed, count in operations:
            if kind == "save":
                lazy.save(place)
            elif kind == "write":
                for buffer in (model, lazy):
                    buffer.rewards[capacity // 2] = 7.0
            elif count <= capacity:
                apply(model, kind, seed, count)
                apply(lazy, kind, seed, count)
            assert_equal(lazy, model)
    with ReplayBuffer.load(place) as again:
        assert_equal(again, model)
        again.save(folder / "files")
    shutil.rmtree(folder)


@pytest.mark.parametrize("suffix", STORES)
def test_loading_from_a_store_reads_no_rows_and_sampling_only_its_own(
    suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    buffer = filled(100, 80)
    buffer.save(tmp_path / f"b{suffix}")
    read: list[int] = []
    original = LazyTensor.of
    monkeypatch.setattr(
        LazyTensor, "of", lambda self, rows, shape: read.append(len(rows)) or original(self, rows, shape)
    )

    with ReplayBuffer.load(tmp_path / f"b{suffix}") as lazy:
        assert (lazy.states.shape, lazy.states.dtype, len(lazy.states)) == ((100, 3), torch.float32, 100)
        assert read == []
        lazy.sample(7)

    assert read == [7] * 6


def test_saving_again_writes_only_what_is_new(tmp_path: Path) -> None:
    buffer = filled(10_000, 5_000)
    place = tmp_path / "b.zarr"
    buffer.save(place)
    file = min((place / "steps/observation").glob("c.*"))
    identity = file.stat().st_ino

    buffer.add_multi(*rows(3, 10))
    buffer.save(place)
    assert file.stat().st_ino == identity
    with open_buffer(place) as store:
        assert len(store) == 5_010

    buffer.states[3] = 1.0
    buffer.save(place)
    assert file.stat().st_ino != identity
    with ReplayBuffer.load(place) as lazy:
        assert_equal(lazy, buffer)


def test_a_store_that_somebody_else_has_changed_is_written_anew(tmp_path: Path) -> None:
    buffer = filled(20, 8)
    buffer.save(tmp_path / "b.zarr")
    with ReplayBuffer.load(tmp_path / "b.zarr", mode="r+") as other:
        other.add_multi(*rows(8, 3))

    buffer.add_multi(*rows(3, 2))
    buffer.save(tmp_path / "b.zarr")

    with ReplayBuffer.load(tmp_path / "b.zarr") as lazy:
        assert_equal(lazy, buffer)


def test_an_hdf5_file_does_not_grow_beyond_twice_the_capacity(tmp_path: Path) -> None:
    buffer = ReplayBuffer(10, **SIZES)
    for seed in range(12):
        buffer.add_multi(*rows(seed, 5))
        buffer.save(tmp_path / "b.h5")
        with open_buffer(tmp_path / "b.h5") as store:
            assert len(store) <= 20

    with ReplayBuffer.load(tmp_path / "b.h5") as lazy:
        assert_equal(lazy, buffer)


def test_a_store_for_reading_is_not_written_to(tmp_path: Path) -> None:
    filled(10, 4).save(tmp_path / "b.zarr")
    with ReplayBuffer.load(tmp_path / "b.zarr") as lazy:
        for write in (
            lambda: lazy.add_multi(*rows(0, 2)),
            lambda: lazy.states.__setitem__(0, 1.0),
            lambda: setattr(lazy, "states", torch.zeros(10, 3)),
            lambda: lazy.save(tmp_path / "b.zarr"),
        ):
            with pytest.raises(ConflictError, match=r"load it with mode='r\+'"):
                write()
        assert len(lazy) == 4


def test_interleaved_environments_become_rows_of_no_trajectory(tmp_path: Path) -> None:
    filled(200, 0).save(tmp_path / "b.zarr")
    with ReplayBuffer.load(tmp_path / "b.zarr", mode="r+") as lazy:
        for seed, vector in ((1, False), (2, True)):
            values = rows(seed, 50, vector=vector)
            values[4].zero_()
            lazy.add_multi(*values)
            lazy.save(tmp_path / "b.zarr")

    with open_buffer(tmp_path / "b.zarr") as store:
        assert len(store) == 100
        assert sum(store.trajectories["length"]) == 50


def test_metadata_that_contradict_a_store_are_refused(tmp_path: Path) -> None:
    buffer = filled(10, 4)
    buffer.save(tmp_path / "b.zarr")

    with pytest.raises(SchemaError, match="has size=4, and the metadata say 5"):
        ReplayBuffer.load(tmp_path / "b.zarr", buffer.metadata() | {"size": 5})
