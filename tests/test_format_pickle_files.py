"""Pickles of active_rlhf as files: replaced, stopped in the middle, large, and opened without us."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import tracemalloc
from pathlib import Path

import pytest
import rlhf_rings
from rlhf_rings import Ring, load, rows
from rlhf_samples import EXPECTED, SAMPLES, sample

import replaystore as rs
from replaystore import errors
from replaystore.cli import main

pytestmark = pytest.mark.torch  # whose pickles are what is read and written

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
    assert "left out: metadata" in " ".join(refused.split())


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
