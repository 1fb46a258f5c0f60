"""Files of velora come back the same after the way through a store, with what was appended in it."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file
from velora_rings import EXPECTED, SAMPLES, STORES, WIDTHS, Replay, batch, files, fresh, sample, walk

import replaystore as rs
from replaystore import errors

# --- the samples


def test_all_samples_are_here() -> None:
    assert len(SAMPLES) >= 4


@pytest.mark.parametrize("store", [*STORES, "b.zarr.zip"])
@pytest.mark.parametrize("name", SAMPLES)
def test_a_sample_is_the_same_after_the_way_through_a_store(name: str, store: str, tmp_path: Path) -> None:
    there, back = str(tmp_path / store), tmp_path / "back" / sample(name).name
    rs.convert(sample(name), there)
    report = rs.convert(there, back, strict=True)

    state, metadata = files(back)
    facts = EXPECTED[name]
    assert hashlib.sha256(state).hexdigest() == facts["state_sha256"]
    assert state == sample(name).read_bytes()
    assert metadata.decode() == (facts["metadata_text"] or json.dumps(facts["metadata"], indent=2))
    # Which is said of stores of other formats.
    assert [note for note in report.notes if "because of the suffix" not in note] == []
    assert rs.verify(there).problems == []


@pytest.mark.parametrize("name", SAMPLES)
def test_a_sample_survives_the_way_through_both_containers_and_an_archive(name: str, tmp_path: Path) -> None:
    steps = ["a.zarr", "b.h5", "c.zarr", "d/buffer_state.safetensors", "e.h5", "f/buffer_state.safetensors"]
    places = [str(sample(name)), *(str(tmp_path / step) for step in steps)]
    for source, target in pairwise(places):
        rs.convert(source, target, layout="archive" if target.endswith("c.zarr") else None)

    assert Path(places[-1]).read_bytes() == sample(name).read_bytes()


@pytest.mark.parametrize("name", SAMPLES)
def test_a_store_has_the_rows_of_the_sample(name: str, tmp_path: Path) -> None:
    rs.convert(sample(name), str(tmp_path / "a.h5"))
    metadata = EXPECTED[name]["metadata"]
    with rs.open(str(tmp_path / "a.h5")) as buffer:
        assert len(buffer) == metadata["size"]
        for field, tensor in (
            ("observation", "states"),
            ("action", "actions"),
            ("dones", "dones"),
            ("hiddens", "hiddens"),
        ):
            facts = EXPECTED[name]["tensors"][tensor]
            assert hashlib.sha256(buffer[field][:].tobytes()).hexdigest() == facts["logical_sha256"]
        assert "terminated" not in buffer.schema.fields


def test_a_checkpoint_is_found_by_its_folder(tmp_path: Path) -> None:
    folder = sample("agent_checkpoint").parent
    for other in ("model_state.safetensors", "optim_state.safetensors"):
        shutil.copy(sample("docs_empty"), tmp_path / other)
    for name in os.listdir(folder):
        shutil.copy(folder / name, tmp_path / name)
    report = rs.convert(tmp_path, str(tmp_path / "a.zarr"))

    assert report.steps == 20


# --- rings of every kind


@st.composite
def histories(draw: st.DrawFn) -> Replay:
    replay = Replay(draw(st.integers(1, 40)), draw(st.sampled_from([None, "cpu", "cuda:0"])))
    for seed in range(draw(st.integers(0, 4))):
        count = draw(st.integers(0, 60))
        replay.add(draw(st.sampled_from([batch, walk]))(count, seed))
    if draw(st.booleans()):  # a row that an error left half-written
        replay.tensors["states"][draw(st.integers(0, replay.capacity - 1))] = -0.0
    return replay


@settings(max_examples=60)
@given(histories(), st.booleans(), st.sampled_from(["buffer_", "", "rb_"]))
def test_every_history_survives(replay: Replay, again: bool, prefix: str) -> None:
    with fresh() as folder:
        state = replay.save(folder / "a", prefix)
        rs.convert(state, "memory:ring")
        source = "memory:ring"
        if again:
            rs.convert(source, "memory:other")
            source = "memory:other"
        back = folder / "b" / state.name
        rs.convert(source, back, strict=True)
        assert files(back) == files(state)


@settings(max_examples=60)
@given(histories(), st.lists(st.integers(1, 30), max_size=4), st.booleans())
def test_what_is_appended_goes_where_the_ring_would_have_put_it(
    replay: Replay, counts: list[int], carry: bool
) -> None:
    with fresh() as folder:
        rs.convert(replay.save(folder / "a"), "memory:ring")
        source = "memory:ring"
        for seed, count in enumerate(counts):
            added = walk(count, 100 + seed, done=0)
            added["dones"][-1] = 1
            replay.add(added)
            columns = {
                "observation": added["states"],
                "action": added["actions"],
                "reward": added["rewards"][:, 0],
            }
            columns |= {
                "dones": added["dones"][:, 0],
                "hiddens": added["hiddens"],
                "next_states": added["next_states"],
            }
            with rs.open(source, "r+") as buffer:
                columns = {name: values for name, values in columns.items() if name in buffer.schema.fields}
                buffer.append(columns, ends=[count - 1], final_observation=added["next_states"][-1:])
            if carry and seed == 1:
                rs.convert(source, "memory:other")
                source = "memory:other"
        expected = replay.save(folder / "b")
        rs.convert(source, folder / "c" / expected.name, strict=True)
        assert files(folder / "c" / expected.name) == files(expected)


def test_steps_of_one_environment_become_trajectories(tmp_path: Path) -> None:
    replay = Replay(500)
    replay.add(walk(700, 3, done=0.02))
    rs.convert(replay.save(tmp_path / "x"), str(tmp_path / "a.zarr"))

    with rs.open(str(tmp_path / "a.zarr")) as buffer:
        assert "next_states" not in buffer.schema.fields
        dones = buffer["dones"][:]
        assert buffer.num_trajectories == np.count_nonzero(dones[:-1]) + 1
        order = (replay.position + np.arange(500)) % 500
        row = 0
        for number in range(buffer.num_trajectories):
            trajectory = buffer.trajectory(number)
            row += len(trajectory)
            assert trajectory.final_observation is not None
            expected = replay.tensors["next_states"][order][row - 1]
            assert trajectory.final_observation.tolist() == expected.tolist()
            assert trajectory.info["return"] == pytest.approx(float(trajectory["reward"].astype("f8").sum()))
        drawn = next(iter(buffer.sampler(64, seed=0)))
        pairs = {
            tuple(state): tuple(after)
            for state, after in zip(
                replay.tensors["states"].tolist(), replay.tensors["next_states"].tolist(), strict=True
            )
        }
        assert all(
            pairs[tuple(a)] == tuple(b)
            for a, b in zip(drawn["observation"].tolist(), drawn["next_observation"].tolist(), strict=True)
        )


def test_rows_of_several_environments_in_turn_keep_their_next_states(tmp_path: Path) -> None:
    replay = Replay(100)
    several = [walk(20, seed) for seed in range(4)]
    replay.add(
        {
            name: np.stack([one[name] for one in several], 1).reshape(80, width)
            for name, width in WIDTHS.items()
        }
    )
    report = rs.convert(replay.save(tmp_path / "x"), str(tmp_path / "a.zarr"))

    with rs.open(str(tmp_path / "a.zarr")) as buffer:
        assert buffer.num_trajectories == 0
        assert buffer["next_states"][:].tolist() == replay.tensors["next_states"][:80].tolist()
    assert "rows are of no trajectory" in " ".join(report.notes)


def test_files_of_version_0_1_1_get_hiddens(tmp_path: Path) -> None:
    replay = Replay(9)
    replay.add(batch(5, 0))
    del replay.tensors["hiddens"]
    state = replay.save(tmp_path / "old")
    metadata = {key: value for key, value in replay.metadata().items() if key != "hidden_dim"}
    (tmp_path / "old" / "buffer_metadata.json").write_text(json.dumps(metadata))
    rs.convert(state, str(tmp_path / "a.zarr"))
    target = tmp_path / "new" / "buffer_state.safetensors"
    with pytest.raises(errors.UnsupportedError, match="hiddens: made up"):
        rs.convert(str(tmp_path / "a.zarr"), target, strict=True)
    rs.convert(str(tmp_path / "a.zarr"), target)

    found = load_file(target)
    assert found.pop("hiddens").tolist() == [[0.0]] * 9
    assert {name: array.tobytes() for name, array in found.items()} == {
        name: array.tobytes() for name, array in replay.tensors.items()
    }
    assert json.loads(files(target)[1])["hidden_dim"] == 1


# --- the real class


@pytest.mark.parametrize("name", SAMPLES)
def test_the_real_class_loads_the_export_and_samples_the_same(name: str, tmp_path: Path) -> None:
    pytest.importorskip("velora.models", reason="velora is not installed")
    import torch
    from velora.buffer import ReplayBuffer

    rs.convert(sample(name), str(tmp_path / "a.zarr"))
    target = tmp_path / "buffer_state.safetensors"
    rs.convert(str(tmp_path / "a.zarr"), target)
    batches = []
    for state, metadata in (
        (target, json.loads(files(target)[1])),
        (sample(name), EXPECTED[name]["metadata"]),
    ):
        buffer = ReplayBuffer.load(state, metadata)
        torch.manual_seed(1234)
        drawn = buffer.sample(min(5, len(buffer))) if len(buffer) else None
        batches.append(
            None if drawn is None else {key: value.numpy().tobytes() for key, value in vars(drawn).items()}
        )
        buffer.add(
            torch.zeros(1, buffer.state_dim),
            torch.zeros(1),
            1.0,
            torch.zeros(1, buffer.state_dim),
            False,
            torch.zeros(1, buffer.hidden_dim),
        )
    assert batches[0] == batches[1]
