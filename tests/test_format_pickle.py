"""Pickles of active_rlhf come back the same after the way through a store, with what was appended in it."""

from __future__ import annotations

import pickletools
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from rlhf_rings import Ring, TrajectoryInfo, load, rows
from rlhf_samples import EXPECTED, SAMPLES, STORES, digest, fresh, histories, sample

import replaystore as rs

pytestmark = pytest.mark.torch  # whose pickles are what is read and written

# --- the samples


def test_all_samples_are_here() -> None:
    assert len(SAMPLES) >= 6


@pytest.mark.parametrize("store", [*STORES, "b.zarr.zip"])
@pytest.mark.parametrize("name", SAMPLES)
def test_a_sample_is_the_same_after_the_way_through_a_store(name: str, store: str, tmp_path: Path) -> None:
    there, back = str(tmp_path / store), str(tmp_path / "back" / "replay_buffer.pkl")
    rs.convert(sample(name), there)
    report = rs.convert(there, back, strict=True)

    assert load(back) == load(sample(name))
    assert report.notes == []
    assert report.steps == EXPECTED[name]["size"]
    assert rs.verify(there).problems == []


@pytest.mark.parametrize("name", SAMPLES)
def test_a_sample_survives_the_way_through_both_containers_and_an_archive(name: str, tmp_path: Path) -> None:
    steps = ["a.zarr", "b.h5", "c.zarr", "back.pkl", "d.h5", "again.pkl"]
    places = [str(sample(name)), *(str(tmp_path / step) for step in steps)]
    for source, target in pairwise(places):
        rs.convert(source, target, layout="archive" if target.endswith("c.zarr") else None)

    assert load(places[-1]) == load(sample(name))


@pytest.mark.parametrize("name", SAMPLES)
def test_the_file_consists_of_the_instructions_of_the_original(name: str, tmp_path: Path) -> None:
    back = tmp_path / "back.pkl"
    rs.convert(sample(name), str(tmp_path / "a.zarr"))
    rs.convert(str(tmp_path / "a.zarr"), back)

    def instructions(path: Path) -> list[Any]:
        found = []
        for code, argument, _ in pickletools.genops(path.read_bytes()):
            if isinstance(argument, bytes):  # a torch stream, whose key is random in the original
                inner = argument[: argument.rindex(b"q\x01a.") + 4]
                parts = [
                    (op.name, a)
                    for start in _pickles(inner)
                    for op, a, _ in pickletools.genops(inner[start:])
                ]
                found.append([("key" if isinstance(a, str) and a.isdigit() else a, op) for op, a in parts])
            elif code.name != "FRAME":
                found.append((code.name, argument))
        return found

    assert instructions(back) == instructions(sample(name))


def _pickles(data: bytes) -> list[int]:
    """Where the pickles of a torch stream begin."""
    starts = [0]
    while starts[-1] < len(data):
        *_, (_, _, stop) = pickletools.genops(data[starts[-1] :])
        starts.append(starts[-1] + stop + 1)
    return starts[:-1]


@pytest.mark.parametrize("store", STORES)
@pytest.mark.parametrize("name", SAMPLES)
def test_a_store_shows_what_the_real_class_shows(name: str, store: str, tmp_path: Path) -> None:
    facts = EXPECTED[name]
    rs.convert(sample(name), str(tmp_path / store))

    with rs.open(str(tmp_path / store)) as buffer:
        assert len(buffer) == facts["size"]
        assert buffer.num_trajectories == facts["statistics"]["num_trajectories"]
        for number, expected in enumerate(facts["trajectories"]):
            trajectory = buffer.trajectory(number)
            info = trajectory.info
            assert (info["length"], info["split"]) == (expected["length"], expected["split"])
            assert info["on_policiness_score"] == expected["on_policiness_score"]
            assert info["last_updated_step"] == expected["last_updated_step"]
            assert info["return"] == pytest.approx(float(trajectory["reward"].astype(np.float64).sum()))
            shown = {"obs": trajectory["observation"], "acts": trajectory["action"]}
            shown |= {"rews": trajectory["reward"][:, None], "dones": trajectory["dones"][:, None]}
            assert {key: digest(value) for key, value in shown.items()} == expected["content_sha256"]
        assert buffer.environment is not None
        assert buffer.environment["id"] == "HalfCheetah-v5"
        assert buffer.capacity == (facts["capacity"] if store == "b.zarr" else None)


# --- rings of every kind


@given(histories(), st.sampled_from([3, 4, 5]), st.booleans())
def test_every_history_survives(ring: Ring, protocol: int, again: bool) -> None:
    with fresh() as folder:
        ring.save(folder / "a.pkl", protocol)
        rs.convert(folder / "a.pkl", "memory:ring")
        source = "memory:ring"
        if again:
            rs.convert(source, "memory:other")
            source = "memory:other"
        rs.convert(source, folder / "b.pkl", strict=True)
        assert load(folder / "b.pkl") == load(folder / "a.pkl")


@given(st.data())
def test_rings_that_no_program_should_have_saved_survive(data: st.DataObject) -> None:
    capacity = data.draw(st.integers(1, 12))
    ring = Ring(
        capacity,
        data.draw(st.integers(0, capacity)),
        data.draw(st.integers(0, capacity - 1)),
        data.draw(st.integers(0, 99)),
    )
    for name, values in rows(capacity, data.draw(st.integers(0, 9))).items():
        begin = data.draw(st.integers(0, capacity))
        getattr(ring, name)[begin:] = values[begin:]
    info = st.builds(
        TrajectoryInfo,
        st.integers(-3, 15),
        st.integers(-1, 30),
        st.sampled_from(["train", "x"]),
        st.floats(),
        st.integers(),
    )
    ring.trajectories = [
        info for info in data.draw(st.lists(info, max_size=6)) if -(2**63) <= info.last_updated_step < 2**63
    ]
    with fresh() as folder:
        ring.save(folder / "a.pkl")
        rs.convert(folder / "a.pkl", "memory:ring")
        rs.convert("memory:ring", folder / "b.pkl", strict=True)
        assert load(folder / "b.pkl") == load(folder / "a.pkl")


def _append(location: str, added: dict[str, NDArray[Any]], split: str) -> None:
    """As one trajectory, which is then over."""
    columns = {
        "observation": added["obs"],
        "action": added["acts"],
        "reward": added["rews"][:, 0],
        "dones": added["dones"][:, 0],
    }
    with rs.open(location, "r+") as buffer:
        buffer.append(columns, split=split, ends=[len(added["rews"]) - 1])


@settings(max_examples=60)
@given(histories(), st.lists(st.integers(1, 30), max_size=5), st.booleans())
def test_what_is_appended_goes_where_the_ring_would_have_put_it(
    ring: Ring, counts: list[int], carry: bool
) -> None:
    with fresh() as folder:
        ring.save(folder / "a.pkl")
        rs.convert(folder / "a.pkl", "memory:ring")
        source = "memory:ring"
        for seed, count in enumerate(counts):
            count = min(count, ring.capacity)  # noqa: PLW2901
            added = rows(count, 100 + seed, ring.dtype)
            ring.add(added, "later")
            _append(source, added, "later")
            if carry and seed == 1:
                rs.convert(source, "memory:other")
                source = "memory:other"
        ring.save(folder / "b.pkl")
        rs.convert(source, folder / "c.pkl", strict=True)
        assert load(folder / "c.pkl") == load(folder / "b.pkl")


def test_hdf5_records_the_ring_and_goes_on_as_one(tmp_path: Path) -> None:
    ring = Ring(10)
    ring.add(rows(7, 0), "train")
    ring.add(rows(6, 1), "val")
    ring.save(tmp_path / "a.pkl")
    place = str(tmp_path / "a.h5")
    rs.convert(tmp_path / "a.pkl", place)
    for seed in range(2, 6):
        added = rows(4, seed)
        ring.add(added, "train")
        _append(place, added, "train")
    ring.save(tmp_path / "b.pkl")
    rs.convert(place, tmp_path / "c.pkl", strict=True)

    assert load(tmp_path / "c.pkl") == load(tmp_path / "b.pkl")
    with rs.open(place) as buffer:
        assert len(buffer) == 10 + 16


def test_scores_and_splits_that_were_changed_in_the_store_are_written(tmp_path: Path) -> None:
    place = str(tmp_path / "a.zarr")
    rs.convert(sample("wrapped"), place)
    with rs.open(place, "r+") as buffer:
        buffer.set_trajectory_column("on_policiness_score", np.arange(5.0))
        buffer.set_trajectory_column("last_updated_step", np.arange(5) * 10)
        buffer.set_trajectory_column("split", ["a", "b", "a", "b", "c"])
    rs.convert(place, tmp_path / "b.pkl")

    found = load(tmp_path / "b.pkl")["trajectories"]
    assert [info[2:] for info in found] == [
        (split, float(n).hex(), n * 10) for n, split in enumerate("ababc")
    ]


def test_an_older_commit_without_the_ring_is_an_empty_buffer(tmp_path: Path) -> None:
    rs.convert(sample("empty"), str(tmp_path / "a.zarr"))
    rs.convert(sample("partial"), str(tmp_path / "b.zarr"))
    with rs.open(str(tmp_path / "b.zarr"), commit=0) as buffer:
        rs.convert(buffer, tmp_path / "c.pkl")

    assert load(tmp_path / "c.pkl")["size"] == 0
