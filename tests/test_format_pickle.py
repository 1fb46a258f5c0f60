"""Pickles of active_rlhf: into stores and out again, with what was appended in between, and out of stores
that never were such a file."""

from __future__ import annotations

import hashlib
import json
import os
import pickletools
import subprocess
import sys
import tempfile
import textwrap
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rlhf_rings
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from rlhf_rings import ACT, OBS, Ring, TrajectoryInfo, load, rows

import replaystore as rs
from replaystore import errors
from replaystore.buffers.opening import remove
from replaystore.cli import main
from replaystore.location import Location

DATA = Path(__file__).parent / "data" / "active_rlhf"
EXPECTED: dict[str, Any] = json.loads((DATA / "expected.json").read_text())["samples"]
SAMPLES = sorted(name for name, facts in EXPECTED.items() if (DATA / facts["file"]).exists())
STORES = ["b.zarr", "b.h5"]


def sample(name: str) -> Path:
    return DATA / EXPECTED[name]["file"]


def digest(array: NDArray[Any]) -> str:
    return hashlib.sha256(array.tobytes()).hexdigest()


@contextmanager
def fresh() -> Iterator[Path]:
    """A folder, and places in memory, for one example."""
    try:
        with tempfile.TemporaryDirectory() as folder:
            yield Path(folder)
    finally:
        remove(Location("memory", "ring"))
        remove(Location("memory", "other"))


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


@st.composite
def histories(draw: st.DrawFn) -> Ring:
    """What a program may have saved."""
    capacity = draw(st.integers(1, 24))
    dtype = draw(st.sampled_from(["f4", "f4", "f8", "f2"]))
    ring = Ring(capacity, fragment_length=draw(st.integers(0, 300)), dtype=dtype)
    for seed in range(draw(st.integers(0, 7))):
        overlong = 2 * capacity - ring.pos
        count = draw(st.one_of(st.integers(0, capacity), st.integers(0, overlong)))
        ring.add(rows(count, seed, dtype), draw(st.sampled_from(["train", "val", "test", "", "é"])))
    for info in ring.trajectories:
        if draw(st.booleans()):
            info.on_policiness_score = draw(st.floats(allow_nan=True))
            info.last_updated_step = draw(st.integers(0, 2**62))
    return ring


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


# --- any other buffer


def episodes(location: str, *, finals: bool = True, **settings: Any) -> None:
    """Two environments' episodes, of 4, 3 and 2 steps; the last one is open."""
    spaces = {
        "observation": rs.Field("f4", (OBS,), "observation"),
        "action": rs.Field("f4", (ACT,), "action"),
    }
    flags = {name: rs.Field("?", (), name) for name in ("terminated", "truncated")}
    with rs.create(
        location, rs.Schema({**spaces, "reward": rs.Field("f8", (), "reward"), **flags}), **settings
    ) as buffer:
        for env, (count, ends) in enumerate([(4, True), (3, True), (2, False)]):
            flag = np.zeros(count, bool)
            flag[-1] = ends
            values = np.arange(count * OBS, dtype="f4").reshape(count, OBS) + 100 * env
            columns = {
                "observation": values,
                "action": values[:, :ACT] + 0.5,
                "reward": np.arange(count) + 0.5,
            }
            columns |= {"terminated": flag, "truncated": np.zeros(count, bool)}
            final = np.full((1, OBS), -1 - env, "f4") if finals else None
            buffer.append(columns, env=env, final_observation=final, split="val" if env == 1 else "train")


def test_any_buffer_is_written_with_rows_for_the_last_observations(tmp_path: Path) -> None:
    episodes(str(tmp_path / "a.zarr"))
    report = rs.convert(str(tmp_path / "a.zarr"), tmp_path / "b.pkl")

    content = load(tmp_path / "b.pkl")
    obs = np.frombuffer(content["obs"][2], "f4").reshape(11, OBS)
    dones = np.frombuffer(content["dones"][2], bool)
    assert [info[:3] for info in content["trajectories"]] == [(0, 5, "train"), (5, 4, "val"), (9, 2, "train")]
    assert np.flatnonzero(dones).tolist() == [4, 8]
    assert (obs[4] == -1).all()
    assert (obs[8] == -2).all()
    assert np.frombuffer(content["rews"][2], "f8").tolist() == [
        0.5,
        1.5,
        2.5,
        3.5,
        0,
        0.5,
        1.5,
        2.5,
        0,
        0.5,
        1.5,
    ]
    assert (content["size"], content["pos"], content["capacity"], content["global_step"]) == (11, 0, 11, 11)
    assert [info[4] for info in content["trajectories"]] == [0, 5, 9]
    notes = " ".join(report.notes)
    for said in ("capacity 11", "2 rows are made up", "terminated and truncated", "on_policiness_score"):
        assert said in notes


def test_without_last_observations_no_row_is_made_up(tmp_path: Path) -> None:
    episodes(str(tmp_path / "a.zarr"), finals=False, capacity=50)
    report = rs.convert(str(tmp_path / "a.zarr"), tmp_path / "b.pkl")

    content = load(tmp_path / "b.pkl")
    assert (content["size"], content["capacity"], content["pos"]) == (9, 50, 9)
    assert not any(content["dones"][2])
    assert "2 episodes that ended are not flagged" in " ".join(report.notes)


def test_some_trajectories_are_written(tmp_path: Path) -> None:
    episodes(str(tmp_path / "a.zarr"), finals=False)
    rs.convert(str(tmp_path / "a.zarr"), tmp_path / "b.pkl", split="train")

    assert [info[:3] for info in load(tmp_path / "b.pkl")["trajectories"]] == [
        (0, 4, "train"),
        (4, 2, "train"),
    ]


def test_what_was_recorded_by_several_environments_in_turn_is_put_in_order(tmp_path: Path) -> None:
    schema = rs.Schema(
        {
            "observation/x": rs.Field("f8", (), "observation"),
            "observation/y": rs.Field("u1", (2, 2), "observation"),
            "action": rs.Field("i8", (), "action"),
            "reward": rs.Field("f4", (), "reward"),
            "terminated": rs.Field("?", (), "terminated"),
            "truncated": rs.Field("?", (), "truncated"),
            "info/k": rs.Field("f4", (), "info"),
        }
    )
    with rs.create(str(tmp_path / "a.h5"), schema, metadata={"a": 1}) as buffer:
        writer = buffer.writer(2)
        no = np.zeros(2, bool)

        def seen(step: int) -> dict[str, Any]:
            return {"x": np.array([step, 10 + step], "f8"), "y": np.full((2, 2, 2), step, "u1")}

        writer.reset(seen(0), seed=[5, 6])
        for step in range(6):
            writer.step(
                np.array([step, -step]),
                np.ones(2, "f4"),
                no,
                no,
                seen(step + 1),
                {"info/k": np.zeros(2, "f4")},
            )
            if step == 2:
                buffer.commit()
    report = rs.convert(str(tmp_path / "a.h5"), tmp_path / "b.pkl")

    content = load(tmp_path / "b.pkl")
    assert content["obs"][:2] == ("torch.float32", (12, 5))
    assert np.frombuffer(content["obs"][2], "f4").reshape(12, 5)[:, 0].tolist() == [
        0,
        1,
        2,
        3,
        4,
        5,
        10,
        11,
        12,
        13,
        14,
        15,
    ]
    assert [info[:2] for info in content["trajectories"]] == [(0, 6), (6, 6)]
    notes = " ".join(report.notes)
    for said in (
        "another order",
        "observation/x, observation/y became one",
        "int64 became float32",
        "info/k",
        "seeds",
        "metadata",
        "flat",
    ):
        assert said in notes, said


def test_strict_refuses_and_leaves_nothing(tmp_path: Path) -> None:
    episodes(str(tmp_path / "a.zarr"))

    with pytest.raises(errors.UnsupportedError, match=r"would not be exact .*2 rows are made up"):
        rs.convert(str(tmp_path / "a.zarr"), tmp_path / "b.pkl", strict=True)
    assert sorted(os.listdir(tmp_path)) == ["a.zarr"]


def test_a_buffer_without_actions_is_refused(tmp_path: Path) -> None:
    episodes(str(tmp_path / "a.zarr"))

    with pytest.raises(errors.UnsupportedError, match="observations and actions"):
        rs.convert(str(tmp_path / "a.zarr"), tmp_path / "b.pkl", fields=["observation", "reward"])


# --- files


def test_neither_is_replaced_unasked_nor_is_anything_else(tmp_path: Path) -> None:
    rs.convert(sample("wrapped"), str(tmp_path / "a.zarr"))
    target = tmp_path / "b.pkl"
    target.write_bytes(b"something else")

    with pytest.raises(errors.AlreadyExistsError):
        rs.convert(str(tmp_path / "a.zarr"), target)
    with pytest.raises(errors.AlreadyExistsError, match="something else"):
        rs.convert(str(tmp_path / "a.zarr"), target, overwrite=True)
    target.write_bytes(sample("partial").read_bytes())
    rs.convert(str(tmp_path / "a.zarr"), target, overwrite=True)
    assert load(target) == load(sample("wrapped"))


def test_a_conversion_that_is_stopped_leaves_what_was_there(tmp_path: Path) -> None:
    rs.convert(sample("wrapped"), str(tmp_path / "a.zarr"))
    target = tmp_path / "b.pkl"
    target.write_bytes(sample("partial").read_bytes())

    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        rs.convert(str(tmp_path / "a.zarr"), target, overwrite=True, progress=stop)
    assert sorted(os.listdir(tmp_path)) == ["a.zarr", "b.pkl"]
    assert load(target) == load(sample("partial"))
    with pytest.raises(KeyboardInterrupt):
        rs.convert(sample("wrapped"), str(tmp_path / "c.zarr"), progress=stop)
    assert sorted(os.listdir(tmp_path)) == ["a.zarr", "b.pkl"]


def test_a_pickle_is_converted_to_a_pickle_and_a_part_of_it_is_too(tmp_path: Path) -> None:
    rs.convert(sample("wrapped"), tmp_path / "a.pkl")
    assert load(tmp_path / "a.pkl") == load(sample("wrapped"))
    report = rs.convert(sample("wrapped"), tmp_path / "b.pkl", split="val")
    assert report.source == str(sample("wrapped"))
    assert [info[2] for info in load(tmp_path / "b.pkl")["trajectories"]] == ["val", "val"]
    assert sorted(os.listdir(tmp_path)) == ["a.pkl", "b.pkl"]


def test_options_that_make_no_sense_are_refused(tmp_path: Path) -> None:
    with pytest.raises(errors.SchemaError, match="neither codecs nor layouts"):
        rs.convert(sample("wrapped"), tmp_path / "a.pkl", codec="zstd:3")
    with pytest.raises(errors.UnsupportedError, match="as a whole"):
        rs.convert(sample("wrapped"), str(tmp_path / "a.zarr"), split="val")
    with pytest.raises(errors.NotFoundError, match=r"nothing\.pkl"):
        rs.convert(tmp_path / "nothing.pkl", str(tmp_path / "a.zarr"))


def test_the_command_line_converts_there_and_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def run(*arguments: str) -> str:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main(["convert", *arguments])
        captured = capsys.readouterr()
        return f"{ended.value.code} {captured.out}{captured.err}"

    place, back = str(tmp_path / "a.h5"), str(tmp_path / "back.pkl")
    assert "the environment HalfCheetah-v5 is taken from the name of the folder" in run(
        str(sample("wrapped")), place
    )
    assert run(place, back, "--strict").startswith("0 ")
    assert load(back) == load(sample("wrapped"))
    with rs.open(place, "r+") as buffer:
        buffer.metadata = {"note": 1}
    refused = run(place, back, "--strict", "--overwrite")
    assert refused.startswith("1 ")
    assert "metadata is left out" in " ".join(refused.split())


def test_a_part_of_a_store_is_no_ring_any_more(tmp_path: Path) -> None:
    rs.convert(sample("wrapped"), str(tmp_path / "a.zarr"))
    report = rs.convert(str(tmp_path / "a.zarr"), str(tmp_path / "b.zarr"), split="val")

    assert any("physical ring" in note for note in report.notes)
    rs.convert(str(tmp_path / "b.zarr"), tmp_path / "c.pkl")
    assert load(tmp_path / "c.pkl")["capacity"] == 512


def test_large_files_go_through_little_memory(tmp_path: Path) -> None:
    capacity = 3_000_000  # 75 MB
    ring = Ring(capacity)
    ring.add(rows(1000, 0), "train")
    ring.size = ring.capacity
    ring.save(tmp_path / "a.pkl")
    del ring
    tracemalloc.start()
    try:
        rs.convert(tmp_path / "a.pkl", str(tmp_path / "a.zarr"))
        rs.convert(str(tmp_path / "a.zarr"), tmp_path / "b.pkl")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert peak < 40 << 20
    assert os.path.getsize(tmp_path / "b.pkl") > 70 << 20


# --- the real class


STUB = """
from dataclasses import dataclass
@dataclass
class TrajectoryInfo:
    start_pos: int
    length: int
    split: str = "train"
    on_policiness_score: float = 0.0
    last_updated_step: int = 0
"""


def test_the_file_opens_in_a_process_that_knows_nothing_of_us(tmp_path: Path) -> None:
    rs.convert(sample("wrapped"), str(tmp_path / "a.h5"))
    rs.convert(str(tmp_path / "a.h5"), tmp_path / "b.pkl")
    package = tmp_path / "lib" / "active_rlhf" / "data"
    package.mkdir(parents=True)
    (package / "buffers.py").write_text(STUB)
    program = """
        import pickle, sys
        with open(sys.argv[1], "rb") as file:
            content = pickle.load(file)
        assert "replaystore" not in sys.modules
        starts = [t.start_pos for t in content["trajectories"]]
        assert starts == [768, 1024, 1280, 36, 292], content["trajectories"]
        content["trajectories"][0].on_policiness_score = 3.0
        content["obs"][0] = 1
        print(content["pos"], float(content["rews"].double().sum()))
    """
    found = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program), str(tmp_path / "b.pkl")],
        env={**os.environ, "PYTHONPATH": str(tmp_path / "lib")},
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stdout.startswith("548 ")


def test_the_model_of_these_tests_knows_the_samples() -> None:
    for name in SAMPLES:
        content = rlhf_rings.load(sample(name))
        assert [list(info[:3]) for info in content["trajectories"]] == [
            [info["start_pos"], info["length"], info["split"]] for info in EXPECTED[name]["trajectories"]
        ]
