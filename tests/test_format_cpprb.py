"""Transitions of cpprb: what it wrote, what its options change, and files that are damaged or do harm."""

from __future__ import annotations

import io
import os
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import replaystore as rs
from replaystore import errors
from replaystore.formats import find
from replaystore.formats.finding import named
from replaystore.testing.contents import final_by_field

SAMPLES = Path(__file__).parents[2] / "shared" / "samples"


def saved(path: Path, data: Any, **others: Any) -> Path:
    """As `save_transitions` writes it."""
    about = {"safe": True, "version": 1, "Nstep": False, "cache": None, "next_of": None} | others
    np.savez_compressed(path, data=data, **about)
    return path


def transitions(lengths: list[int], seed: int = 0) -> dict[str, np.ndarray[Any, Any]]:
    """Of trajectories of these lengths."""
    generator = np.random.default_rng(seed)
    seen = [generator.normal(size=(length + 1, 3)).astype("f4") for length in lengths]
    count, ends = sum(lengths), np.cumsum(lengths) - 1
    return {
        "obs": np.concatenate([rows[:-1] for rows in seen]),
        "next_obs": np.concatenate([rows[1:] for rows in seen]),
        "act": generator.normal(size=(count, 1)).astype("f4"),
        "rew": generator.normal(size=(count, 1)),
        "done": np.isin(np.arange(count), ends).astype("f4")[:, None],
    }


def lengths_of(path: Path, tmp_path: Path) -> list[int]:
    rs.convert(path, tmp_path / "read.zarr", overwrite=True)
    assert rs.verify(tmp_path / "read.zarr").problems == []
    with rs.open(tmp_path / "read.zarr") as buffer:
        return [int(length) for length in buffer.trajectories["length"]]


@pytest.mark.parametrize("name", ["cartpole", "cartpole-nextof-unsafe", "dictobs"])
def test_a_file_of_cpprb_is_what_was_recorded(name: str, tmp_path: Path) -> None:
    if not SAMPLES.is_dir():
        pytest.skip("the samples of other software are not here")
    path = SAMPLES / "cpprb" / f"{name}.npz"
    assert find(path) == "cpprb"
    rs.convert(path, tmp_path / "a.zarr", strict=True)
    truth = np.load(SAMPLES / "truth" / f"{name.split('-', maxsplit=1)[0]}.npz")
    keys = (
        {"observation": "obs"}
        if "obs" in truth
        else {f"observation/{k}": f"obs.{k}" for k in ("obs", "time")}
    )

    with rs.open(tmp_path / "a.zarr") as buffer:
        assert (buffer["action"][:] == truth["act"]).all()
        assert buffer["action"][:].dtype == truth["act"].dtype
        assert (buffer["reward"][:] == truth["rew"]).all()
        assert buffer.trajectories["length"].tolist() == truth["ep_len"].tolist()
        for number, length in enumerate(truth["ep_len"]):
            first = truth["ep_len"][:number].sum() + number
            found = buffer.trajectory(number)
            for field, key in keys.items():
                rows = truth[key][first : first + length + 1]
                assert found.columns[field].dtype == rows.dtype
                assert (found.columns[field] == rows[:-1]).all()
                assert (final_by_field(found)[field] == rows[-1]).all()


def test_a_trajectory_goes_over_the_end_of_a_ring(tmp_path: Path) -> None:
    if not SAMPLES.is_dir():
        pytest.skip("the samples of other software are not here")
    report = rs.convert(SAMPLES / "cpprb" / "cartpole-wrapped.npz", tmp_path / "a.zarr")
    truth = np.load(SAMPLES / "truth" / "cartpole.npz")

    with rs.open(tmp_path / "a.zarr") as buffer:
        assert buffer.trajectories["length"].tolist() == [16, 16, 16, 2]
        assert (buffer["action"][:48] == truth["act"][-48:]).all() or any("ring" in n for n in report.notes)


def test_the_oldest_row_is_found_where_a_trajectory_goes_on(tmp_path: Path) -> None:
    data = transitions([5, 6, 4])
    ring = {
        name: np.roll(rows[:13], 4, axis=0) for name, rows in data.items()
    }  # rows 13 and 14 are not there
    report = rs.convert(saved(tmp_path / "a.npz", ring), tmp_path / "a.zarr")

    with rs.open(tmp_path / "a.zarr") as buffer:
        assert buffer.trajectories["length"].tolist() == [5, 6, 2]
        assert (buffer["observation"][:] == data["obs"][:13]).all()
        assert (buffer.trajectory(2).final_observation == data["next_obs"][12]).all()
    assert not any("ring" in note for note in report.notes)


def test_a_trajectory_ends_where_the_next_observation_is_another(tmp_path: Path) -> None:
    data = transitions([3, 4])
    data["done"][:] = 0

    assert lengths_of(saved(tmp_path / "a.npz", data), tmp_path) == [3, 4]


def test_without_next_observations_done_says_where_it_ends(tmp_path: Path) -> None:
    data = transitions([3, 4])
    del data["next_obs"]
    path = saved(tmp_path / "a.npz", data)

    assert lengths_of(path, tmp_path) == [3, 4]
    with rs.open(tmp_path / "read.zarr") as buffer:
        assert buffer.trajectory(0).final_observation is None


def test_flags_that_there_are_and_arrays_of_any_shape(tmp_path: Path) -> None:
    data = transitions([3, 4])
    data["terminated"], data["truncated"] = data.pop("done"), np.zeros((7, 1), np.uint8)
    data["weights"] = np.ones((7, 2, 3), np.float16)
    data["reward"] = np.arange(7)[:, None]
    report = rs.convert(saved(tmp_path / "a.npz", data), tmp_path / "a.zarr")

    with rs.open(tmp_path / "a.zarr") as buffer:
        assert buffer.trajectories["terminated"].tolist() == [True, True]
        assert buffer["weights"][:].shape == (7, 2, 3)
        assert buffer["action"][:].shape == (7, 1)
        assert buffer["reward"][:].dtype == np.float64
        assert buffer["extra/reward"][:].tolist() == list(range(7))
    assert report.fields["terminated"].max_error == 0


def test_rows_of_several_steps_keep_their_names(tmp_path: Path) -> None:
    data = transitions([3, 4])
    path = saved(tmp_path / "a.npz", data, Nstep=True)

    assert lengths_of(path, tmp_path) == [7]
    with rs.open(tmp_path / "read.zarr") as buffer:
        assert {"rew", "next_obs", "done", "observation"} <= buffer.schema.fields.keys()
        assert (buffer["next_obs"][:] == data["next_obs"]).all()


def test_no_rows(tmp_path: Path) -> None:
    data = {name: rows[:0] for name, rows in transitions([3]).items()}

    assert lengths_of(saved(tmp_path / "a.npz", data), tmp_path) == []


def test_many_rows_are_read_a_few_at_a_time(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.npz", transitions([20_000] * 20))
    with named("cpprb").read(str(path)) as source:
        tracemalloc.start()
        rows = sum(len(block) for block in source.blocks(1 << 18))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert rows == 400_000
    assert peak < 4 << 20


# --- what it is not, and what does harm


class _Harm:
    def __reduce__(self) -> Any:
        return os.system, ("touch harmed",)


def other_member(path: Path, name: str, data: bytes) -> None:
    """The same file with other bytes in a member."""
    with zipfile.ZipFile(path) as zipped:
        members = {info.filename: zipped.read(info) for info in zipped.infolist()}
    members[f"{name}.npy"] = data
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as zipped:
        for member, content in members.items():
            zipped.writestr(member, content)


def npy(array: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=True)
    return file.getvalue()


GOOD = transitions([3, 4])
HARMFUL: dict[str, tuple[str, Any]] = {
    "code": ("data", _Harm()),
    "code in an array": ("data", {**GOOD, "obs": np.array([_Harm()] * 7, object)}),
    "a list": ("data", [1, 2]),
    "nothing": ("data", {}),
    "numbers for names": ("data", {1: GOOD["obs"]}),
    "no arrays": ("data", {"obs": 3}),
    "lengths": ("data", {**GOOD, "obs": GOOD["obs"][:3]}),
    "texts": ("data", {**GOOD, "obs": np.array(["a"] * 7)}),
    "objects": ("data", {**GOOD, "obs": np.array([None] * 7)}),
    "columns first": ("data", {**GOOD, "obs": np.asfortranarray(GOOD["obs"])}),
    "big-endian": ("data", {**GOOD, "obs": GOOD["obs"].astype(">f4")}),
    "version": ("version", 2),
    "no version": ("version", np.zeros(3)),
    "a pickled version": ("version", _Harm()),
}


@pytest.mark.parametrize("name", HARMFUL)
def test_what_cpprb_does_not_write_is_refused(name: str, tmp_path: Path) -> None:
    path = saved(tmp_path / "a.npz", GOOD)
    member, value = HARMFUL[name]
    array = value if isinstance(value, np.ndarray) else np.array(value, object if member == "data" else None)
    other_member(path, member, npy(array))

    with pytest.raises(errors.FormatError):
        rs.convert(path, tmp_path / "a.zarr", source_format="cpprb")
    assert not (tmp_path / "a.zarr").exists()
    assert not Path("harmed").exists()


@pytest.mark.parametrize(
    "cache", [3, {"a": {}}, {99: {}}, {0: {"next_obs": GOOD["rew"][:1]}}, {0: {"x": GOOD["rew"][:1]}}, {0: 1}]
)
def test_a_cache_that_does_not_fit(cache: Any, tmp_path: Path) -> None:
    data = {name: rows for name, rows in GOOD.items() if name != "next_obs"}
    path = saved(tmp_path / "a.npz", data, safe=False, cache=np.array(cache, object), next_of=["obs"])

    with pytest.raises(errors.FormatError):
        rs.convert(path, tmp_path / "a.zarr")


def test_a_file_that_is_damaged_gives_an_error_or_a_sound_store(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.npz", GOOD)
    whole, generator = path.read_bytes(), np.random.default_rng(0)
    for number in range(60):
        data = bytearray(whole)
        at = int(generator.integers(len(data)))
        if number % 3:
            data[at] ^= 1 << int(generator.integers(8))
        else:
            del data[at:]
        path.write_bytes(data)
        target = tmp_path / f"{number}.zarr"
        try:
            rs.convert(path, target, source_format="cpprb")
        except errors.ReplayStoreError:
            assert not target.exists()
        else:
            assert rs.verify(target).problems == []


def test_a_member_that_grows_beyond_what_it_may(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.npz", GOOD)
    data = bytearray(path.read_bytes())
    at = data.rindex(b"data.npy") - 46 + 24  # the size in the directory
    data[at : at + 4] = (0xFFFFFFF0).to_bytes(4, "little")
    path.write_bytes(data)

    with pytest.raises(errors.FormatError, match="said to make"):
        rs.convert(path, tmp_path / "a.zarr")


def test_another_npz_is_none(tmp_path: Path) -> None:
    np.savez(tmp_path / "b.npz", data=np.zeros(3))

    assert not named("cpprb").recognizes(str(tmp_path / "b.npz"))
    with pytest.raises(errors.FormatError, match="another"):
        rs.convert(tmp_path / "b.npz", tmp_path / "a.zarr", source_format="cpprb")
