"""Buffers of velora: into stores and out again, byte for byte, with what was appended in between; and out of
other stores."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import struct
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from rlhf_rings import Ring, rows
from safetensors.numpy import load_file, save_file

import replaystore as rs
from replaystore import errors
from replaystore.buffers.opening import remove
from replaystore.formats.shared import writing
from replaystore.location import Location

DATA = Path(__file__).parent / "data" / "velora"
EXPECTED: dict[str, Any] = json.loads((DATA / "expected.json").read_text())["samples"]
SAMPLES = sorted(name for name, facts in EXPECTED.items() if (DATA / facts["state_file"]).exists())
STORES = ["b.zarr", "b.h5"]
WIDTHS = {"states": 3, "actions": 2, "rewards": 1, "next_states": 3, "dones": 1, "hiddens": 4}


def sample(name: str) -> Path:
    return DATA / EXPECTED[name]["state_file"]


@contextmanager
def fresh() -> Iterator[Path]:
    """A folder, and places in memory, for one example."""
    try:
        with tempfile.TemporaryDirectory() as folder:
            yield Path(folder)
    finally:
        remove(Location("memory", "ring"))
        remove(Location("memory", "other"))


class Replay:
    """The ring of velora: what it holds and how it is saved."""

    def __init__(self, capacity: int, device: str | None = "cpu") -> None:
        self.capacity, self.position, self.size, self.device = capacity, 0, 0, device
        self.tensors = {name: np.zeros((capacity, width), "f4") for name, width in WIDTHS.items()}

    def add(self, batch: dict[str, NDArray[Any]]) -> None:
        count = len(batch["rewards"])
        for row in range(count):
            for name, values in batch.items():
                self.tensors[name][(self.position + row) % self.capacity] = values[row]
        self.position, self.size = (
            (self.position + count) % self.capacity,
            min(self.size + count, self.capacity),
        )

    def metadata(self) -> dict[str, Any]:
        dims = {
            f"{key}_dim": WIDTHS[name]
            for key, name in (("state", "states"), ("action", "actions"), ("hidden", "hiddens"))
        }
        return {
            "capacity": self.capacity,
            **dims,
            "position": self.position,
            "size": self.size,
            "device": self.device,
        }

    def save(self, folder: Path, prefix: str = "buffer_") -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        save_file(self.tensors, folder / f"{prefix}state.safetensors")
        (folder / f"{prefix}metadata.json").write_text(json.dumps(self.metadata(), indent=2))
        return folder / f"{prefix}state.safetensors"


def batch(count: int, seed: int) -> dict[str, NDArray[Any]]:
    """Unrelated transitions."""
    rng = np.random.default_rng(seed)
    made = {name: rng.normal(size=(count, width)).astype("f4") for name, width in WIDTHS.items()}
    return made | {"dones": (rng.random((count, 1)) < 0.2).astype("f4")}


def walk(count: int, seed: int, done: float = 0.05) -> dict[str, NDArray[Any]]:
    """Consecutive steps of one environment."""
    made = batch(count, seed)
    rng = np.random.default_rng(seed)
    made["dones"] = (rng.random((count, 1)) < done).astype("f4")
    made["next_states"][:-1] = np.where(made["dones"][:-1] > 0, made["next_states"][:-1], made["states"][1:])
    return made


def files(state: Path) -> tuple[bytes, bytes]:
    """Both files."""
    return state.read_bytes(), (
        state.parent / state.name.replace("state.safetensors", "metadata.json")
    ).read_bytes()


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
    with pytest.raises(errors.UnsupportedError, match="hiddens are made up"):
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


# --- any other buffer


def episodes(location: str, *, finals: bool) -> None:
    fields = {"observation": rs.Field("f8", (3,), "observation"), "action": rs.Field("i8", (), "action")}
    flags = {name: rs.Field("?", (), name) for name in ("terminated", "truncated")}
    with rs.create(
        location, rs.Schema({**fields, "reward": rs.Field("f4", (), "reward"), **flags})
    ) as buffer:
        for env, count in enumerate([4, 3, 2]):
            flag = np.zeros(count, bool)
            flag[-1] = env < 2
            values = np.arange(count * 3, dtype="f8").reshape(count, 3) + 100 * env
            columns = {"observation": values, "action": np.arange(count), "reward": np.ones(count, "f4")}
            columns |= {"terminated": flag & (env == 0), "truncated": flag & (env == 1)}
            buffer.append(columns, env=env, final_observation=np.full((1, 3), -1.0 - env) if finals else None)


def test_any_buffer_is_written_as_transitions(tmp_path: Path) -> None:
    episodes(str(tmp_path / "a.h5"), finals=True)
    target = tmp_path / "y" / "buffer_state.safetensors"
    report = rs.convert(str(tmp_path / "a.h5"), target)

    found = load_file(target)
    assert found["next_states"][:, 0].tolist() == [3, 6, 9, -1, 103, 106, -2, 203, -3]
    assert found["states"][:, 0].tolist() == [0, 3, 6, 9, 100, 103, 106, 200, 203]
    assert found["dones"][:, 0].tolist() == [0, 0, 0, 1, 0, 0, 1, 0, 0]
    assert found["actions"][:, 0].tolist() == [0, 1, 2, 3, 0, 1, 2, 0, 1]
    assert found["hiddens"].shape == (9, 1)
    expected = {
        "capacity": 9,
        "state_dim": 3,
        "action_dim": 1,
        "hidden_dim": 1,
        "position": 0,
        "size": 9,
        "device": "cpu",
    }
    assert json.loads(files(target)[1]) == expected
    notes = " ".join(report.notes)
    for said in (
        "hiddens are made up",
        "next_states are made up",
        "float64 became float32",
        "capacity 9",
        "became dones",
    ):
        assert said in notes


def test_steps_whose_next_observation_is_unknown_are_left_out(tmp_path: Path) -> None:
    episodes(str(tmp_path / "a.zarr"), finals=False)
    report = rs.convert(str(tmp_path / "a.zarr"), tmp_path / "buffer_state.safetensors")

    assert load_file(tmp_path / "buffer_state.safetensors")["states"][:, 0].tolist() == [
        0,
        3,
        6,
        100,
        103,
        200,
    ]
    assert "3 steps are left out" in " ".join(report.notes)
    assert report.steps == 6


def test_some_trajectories_are_written(tmp_path: Path) -> None:
    episodes(str(tmp_path / "a.zarr"), finals=True)
    rs.convert(str(tmp_path / "a.zarr"), tmp_path / "buffer_state.safetensors", where="length == 3")

    assert load_file(tmp_path / "buffer_state.safetensors")["states"][:, 0].tolist() == [100, 103, 106]


def test_a_pickle_becomes_a_velora_buffer_whose_dones_are_at_the_last_steps(tmp_path: Path) -> None:
    ring = Ring(40)
    added = rows(30, 0)
    added["dones"][:] = False
    added["dones"][[0, 7, 20]] = True  # rows 0, 7 and 20 are no steps
    ring.add(added, "train")
    ring.save(tmp_path / "a.pkl")
    report = rs.convert(tmp_path / "a.pkl", tmp_path / "buffer_state.safetensors")

    found = load_file(tmp_path / "buffer_state.safetensors")
    kept = [row for row in range(29) if row not in (0, 7, 20)]  # what follows row 29 is not known
    assert json.loads(files(tmp_path / "buffer_state.safetensors")[1])["size"] == len(kept)
    assert found["states"][: len(kept)].tobytes() == added["obs"][kept].tobytes()
    assert found["next_states"][: len(kept)].tobytes() == added["obs"][np.array(kept) + 1].tobytes()
    assert [kept[place] for place in np.flatnonzero(found["dones"])] == [6, 19]
    assert "dones are moved" in " ".join(report.notes)
    assert sorted(os.listdir(tmp_path)) == ["a.pkl", "buffer_metadata.json", "buffer_state.safetensors"]


def test_a_velora_buffer_becomes_a_pickle(tmp_path: Path) -> None:
    from rlhf_rings import load

    replay = Replay(100)
    steps = walk(60, 1, done=0)
    steps["dones"][[19, 49]] = 1
    replay.add(steps)
    rs.convert(replay.save(tmp_path / "x"), tmp_path / "a.pkl")

    content = load(tmp_path / "a.pkl")
    assert [info[:2] for info in content["trajectories"]] == [(0, 21), (21, 31), (52, 10)]
    assert np.flatnonzero(np.frombuffer(content["dones"][2], bool)).tolist() == [20, 51]
    obs = np.frombuffer(content["obs"][2], "f4").reshape(-1, 3)
    assert obs[20].tolist() == steps["next_states"][19].tolist()


def test_rows_of_no_trajectory_become_rows_of_no_trajectory_in_a_pickle(tmp_path: Path) -> None:
    from rlhf_rings import load

    report = rs.convert(sample("cartpole_partial"), tmp_path / "a.pkl")

    content = load(tmp_path / "a.pkl")
    assert (content["size"], content["trajectories"]) == (110, [])
    assert "hiddens" in " ".join(report.notes)


# --- files that are not as they should be


def rewrite(state: Path, change: Any) -> None:
    """Change the header of a file, or what follows it."""
    data = state.read_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    header, rest = change(json.loads(data[8 : 8 + length]), data[8 + length :])
    encoded = header if isinstance(header, bytes) else json.dumps(header).encode()
    state.write_bytes(struct.pack("<Q", len(encoded)) + encoded + rest)


def tensor(name: str, **changes: Any) -> Any:
    return lambda header, rest: ({**header, name: {**header[name], **changes}}, rest)


BROKEN = {
    "no header": lambda _, __: (b"", b""),
    "a header that is no JSON": lambda _, rest: (b"{" * 50, rest),
    "a header nested without end": lambda _, rest: (b"[" * 100_000, rest),
    "a header that is a list": lambda _, rest: ([1], rest),
    "a header of numbers": lambda _, rest: ({"actions": 1}, rest),
    "a key twice": lambda header, rest: (json.dumps(header).encode()[:-1] + b',"actions":{}}', rest),
    "a tensor is missing": lambda header, rest: ({k: v for k, v in header.items() if k != "actions"}, rest),
    "it ends in the middle": lambda header, rest: (header, rest[:-4]),
    "something follows it": lambda header, rest: (header, rest + b"x"),
    "another dtype": tensor("states", dtype="F64"),
    "bools": tensor("dones", dtype="BOOL"),
    "no dtype": tensor("dones", dtype=None),
    "offsets that overlap": tensor("states", data_offsets=[0, 240]),
    "offsets that are negative": tensor("actions", data_offsets=[-160, 160]),
    "offsets that are text": tensor("actions", data_offsets=["0", "160"]),
    "three offsets": tensor("actions", data_offsets=[0, 80, 160]),
    "huge offsets": tensor("states", data_offsets=[1 << 70, 1 << 71]),
    "a shape that does not fit its bytes": tensor("actions", shape=[20, 3]),
    "a huge shape": tensor("actions", shape=[1 << 40, 1 << 40]),
    "a shape of floats": tensor("actions", shape=[20.0, 2.0]),
    "a flat shape": tensor("actions", shape=[40]),
    "another capacity": tensor("actions", shape=[40, 1]),
}
METADATA: dict[str, Any] = {
    "another capacity": {"capacity": 21},
    "another state_dim": {"state_dim": 4},
    "another hidden_dim": {"hidden_dim": 5},
    "a capacity of text": {"capacity": "20"},
    "a capacity that is true": {"capacity": True},
    "a size beyond the capacity": {"size": 21},
    "a negative size": {"size": -1},
    "a position beyond the capacity": {"position": 20},
    "a device that is a number": {"device": 1},
    "no size": {"size": None},
}


@pytest.fixture
def state(tmp_path: Path) -> Path:
    replay = Replay(20)
    replay.add(batch(12, 0))
    return replay.save(tmp_path / "x")


def refused(state: Path, kind: type[Exception] = errors.FormatError) -> str:
    target = state.parent.parent / "a.zarr"
    with pytest.raises(kind) as error:
        rs.convert(state, str(target))
    assert "\n" not in str(error.value)
    assert not target.exists()
    return str(error.value)


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_file_is_refused(kind: str, state: Path) -> None:
    rewrite(state, BROKEN[kind])

    assert str(state) in refused(state)


@pytest.mark.parametrize("kind", METADATA)
def test_metadata_that_do_not_fit_are_refused(kind: str, state: Path) -> None:
    beside = state.parent / "buffer_metadata.json"
    beside.write_text(json.dumps({**json.loads(beside.read_text()), **METADATA[kind]}))

    assert str(beside) in refused(state)


@pytest.mark.parametrize("content", ["", "[", "[1]", "{}", '{"buffer": 1}', '{"capacity": 1, "capacity": 2}'])
def test_metadata_that_are_none_are_refused(content: str, state: Path) -> None:
    (state.parent / "buffer_metadata.json").write_text(content)

    assert "metadata.json" in refused(state)


def test_without_metadata_it_says_which_file_is_missing(state: Path) -> None:
    (state.parent / "buffer_metadata.json").unlink()

    assert "buffer_metadata.json is missing" in refused(state, errors.NotFoundError)


def test_what_nobody_needs_is_left_out_and_said(state: Path, tmp_path: Path) -> None:
    beside = state.parent / "buffer_metadata.json"
    beside.write_text(json.dumps({**json.loads(beside.read_text()), "note": 1}))
    save_file({**load_file(state), "zzz": np.zeros(3, "f8")}, state, metadata={"a": "b"})
    report = rs.convert(state, str(tmp_path / "a.zarr"))

    assert report.notes[:2] == ["tensors left out: zzz", "metadata left out: note"]
    with pytest.raises(errors.UnsupportedError, match="zzz"):
        rs.convert(state, str(tmp_path / "b.zarr"), strict=True)


def test_a_prefix_with_a_dot_is_found(state: Path, tmp_path: Path) -> None:
    os.rename(state, state.parent / "v1.safetensors")
    os.rename(state.parent / "buffer_metadata.json", state.parent / "v1.json")

    assert rs.convert(state.parent / "v1.safetensors", str(tmp_path / "a.zarr")).steps == 12


def test_a_folder_with_two_buffers_is_refused(state: Path, tmp_path: Path) -> None:
    shutil.copy(state, state.parent / "other_state.safetensors")

    with pytest.raises(errors.FormatError, match=r"buffer_state\.safetensors, other_state\.safetensors"):
        rs.convert(state.parent, str(tmp_path / "a.zarr"))


# --- both files or none


def test_both_files_are_replaced_or_none(
    state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rs.convert(state, str(tmp_path / "a.zarr"))
    target = tmp_path / "y" / "buffer_state.safetensors"
    shutil.copytree(sample("docs_empty").parent, target.parent)
    before = files(target)
    real = os.replace

    def failing(source: str, to: str) -> None:
        if to.endswith("metadata.json"):
            raise OSError(28, "No space left on device")
        real(source, to)

    with pytest.raises(errors.AlreadyExistsError):
        rs.convert(str(tmp_path / "a.zarr"), target)
    monkeypatch.setattr(writing.os, "replace", failing)
    with pytest.raises(errors.StorageError, match="No space left"):
        rs.convert(str(tmp_path / "a.zarr"), target, overwrite=True)
    assert files(target) == before
    assert sorted(os.listdir(target.parent)) == ["buffer_metadata.json", "buffer_state.safetensors"]
    with pytest.raises(errors.StorageError, match="No space left"):
        rs.convert(str(tmp_path / "a.zarr"), tmp_path / "z" / "buffer_state.safetensors")
    assert os.listdir(tmp_path / "z") == []
    monkeypatch.undo()
    rs.convert(str(tmp_path / "a.zarr"), target, overwrite=True)
    assert files(target) == files(state)
    assert sorted(os.listdir(target.parent)) == ["buffer_metadata.json", "buffer_state.safetensors"]


def test_something_else_is_not_replaced(state: Path, tmp_path: Path) -> None:
    rs.convert(state, str(tmp_path / "a.zarr"))
    target = tmp_path / "model_state.safetensors"
    save_file({"weight": np.zeros(3, "f4")}, target)

    with pytest.raises(errors.AlreadyExistsError, match="something else"):
        rs.convert(str(tmp_path / "a.zarr"), target, overwrite=True)
    with pytest.raises(errors.AlreadyExistsError, match="is a folder"):
        rs.convert(str(tmp_path / "a.zarr"), state.parent)
