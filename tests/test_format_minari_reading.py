"""Datasets that Minari has written: samples, and made-up ones with all that they may have."""

from __future__ import annotations

import io
import json
import shutil
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from minari_files import box, episode, write_dataset

import replaystore as rs
from replaystore.converting.convert import convert
from replaystore.errors import CorruptError, FormatError, NotFoundError, ReplayStoreError
from replaystore.formats.minari import hdf5_reading, heads, reading
from replaystore.formats.report import Report
from replaystore.formats.source import Source
from replaystore.testing.contents import final_by_field

SHARED = Path(__file__).parents[2] / "shared"
SAMPLES = SHARED / "samples" / "minari" / "datasets" / "peers"
KEYS = {
    "cartpole": {"observation": "obs"},
    "dictobs": {"observation/obs": "obs.obs", "observation/time": "obs.time"},
}


@contextmanager
def brought(folder: Path, place: Path, **options: Any) -> Iterator[tuple[Report, rs.Buffer]]:
    """A dataset as a store."""
    report = convert(folder, place / "brought.zarr", **options)
    with rs.open(place / "brought.zarr") as buffer:
        yield report, buffer


def slowly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Read by the library alone."""

    def odd(*_: Any) -> None:
        raise heads.OddError

    monkeypatch.setattr(heads.Heads, "look", odd)


@pytest.mark.parametrize("name", KEYS)
@pytest.mark.parametrize(
    ("container", "quick"), [("hdf5", True), ("hdf5", False), ("arrow", True), ("parquet", True)]
)
@pytest.mark.skipif(not SAMPLES.is_dir(), reason="the samples of other libraries' files are not here")
def test_samples_are_what_was_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, container: str, quick: bool
) -> None:
    truth = np.load(SHARED / "samples" / "truth" / f"{name}.npz")
    lengths = truth["ep_len"].tolist()
    if not quick:
        slowly(monkeypatch)
    with brought(SAMPLES / name / f"{container}-v0", tmp_path) as (report, buffer):
        assert report.notes == []
        assert buffer.trajectories.length.tolist() == lengths
        assert buffer.trajectories.seed.tolist() == truth["seed"].tolist()
        assert buffer.environment is not None
        assert buffer.environment["id"] == "CartPole-v1"
        assert buffer.metadata["minari"]["author"] == ["sample"]
        at = 0
        for number, steps in enumerate(lengths):
            read = buffer.trajectory(number)
            for field, key in {"action": "act", "reward": "rew"}.items():
                assert read.columns[field].tolist() == truth[key][at : at + steps].tolist()
            for flag in ("terminated", "truncated"):
                assert read.columns[flag].tolist() == truth[flag][at : at + steps].tolist()
            for field, key in KEYS[name].items():
                rows = truth[key][at + number : at + number + steps + 1]
                final = final_by_field(read)[field]
                assert read.columns[field].tobytes() == rows[:-1].tobytes()
                assert np.asarray(final).tobytes() == rows[-1].tobytes()
            at += steps


def nested_episode(seed: int, steps: int) -> dict[str, Any]:
    generator = np.random.default_rng(seed)
    texts = [f"see {'é' * (seed % 3)}{place}" for place in range(steps + 1)]
    observations = {
        "look": (generator.integers(0, 9, steps + 1), generator.normal(size=(steps + 1, 40, 50))),
        "said": texts,
    }
    infos = {"speed": generator.normal(size=steps + 1), "deep": {"at": np.ones((steps + 1, 2), "f4") * seed}}
    return episode(seed, steps, observations=observations, infos=infos, rewards=np.arange(steps))


NESTED = {
    "type": "Dict",
    "subspaces": {
        "said": {"type": "Text", "max_length": 30, "min_length": 0, "charset": "see é0123456789"},
        "look": {
            "type": "Tuple",
            "subspaces": [
                {"type": "Discrete", "dtype": "int64", "start": 0, "n": 9},
                box("float64", [40, 50]),
            ],
        },
    },
}


@pytest.mark.parametrize("quick", [True, False])
def test_nested_observations_texts_and_infos(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quick: bool
) -> None:
    given = [nested_episode(seed, steps) for seed, steps in enumerate([9, 1, 30])]
    folder = write_dataset(
        tmp_path / "nested-v0",
        given,
        observation=NESTED,
        attributes={"success": 0.5, "seen": True, "who": "me"},
    )
    if not quick:
        slowly(monkeypatch)

    with brought(folder, tmp_path) as (report, buffer):
        assert buffer.schema.tuples == {"observation/look"}
        assert buffer.schema.fields["observation/said"].text
        assert buffer.schema.fields["reward"].dtype == np.int64
        assert buffer.trajectories["success"].tolist() == [0.5] * 3
        assert report.rest["who"].kind == "lost"
        assert report.rest["reset_info/deep/at"].kind == "lost"
        for number, values in enumerate(given):
            read, steps = buffer.trajectory(number), len(values["rewards"])
            look, said = values["observations"]["look"], values["observations"]["said"]
            assert read.columns["observation/said"].tolist() == said[:-1]
            assert final_by_field(read)["observation/said"] == said[-1]
            assert read.columns["observation/look/1"].tobytes() == look[1][:-1].tobytes()
            assert read.columns["info/speed"].tolist() == values["infos"]["speed"][1:].tolist()
            assert read.columns["info/deep/at"].tobytes() == values["infos"]["deep"]["at"][1:].tobytes()
            assert buffer.trajectories["reset_info/speed"][number] == values["infos"]["speed"][0]
            assert read.columns["reward"].tolist() == list(range(steps))


def test_rows_are_the_librarys_whatever_lies_how(tmp_path: Path) -> None:
    """Wide rows in several chunks, and episodes that differ in what their heads say."""
    given = []
    for seed in range(40):
        wide = np.random.default_rng(seed).normal(size=(1 + 37 * (seed % 5), 17))
        given.append(episode(seed, 37 * (seed % 5) + 1, actions=wide))
    folder = write_dataset(tmp_path / "a-v0", given, action=box("float64", [17]), seeds=range(5, 45))
    path = str(folder / "data" / "main_data.hdf5")

    with hdf5_reading.opened_episodes(path) as episodes, h5py.File(path) as file:
        assert episodes.attributes["seed"].values is not None
        assert episodes.attributes["seed"].values.tolist() == list(range(5, 45))
        for name in given[0]:
            if name == "infos":
                continue
            wanted = np.concatenate([file[f"episode_{number}/{name}"][()] for number in range(40)])
            found = episodes.whole(name, 0, 40)
            assert (found.dtype, found.tobytes()) == (wanted.dtype, wanted.tobytes())
            some = file[f"episode_24/{name}"][5:77]
            assert episodes.part(name, 24, 5, 77).tobytes() == some.tobytes()


def test_rewards_of_several_dtypes_get_one_that_holds_all(tmp_path: Path) -> None:
    given = [episode(0, 4), episode(1, 5, rewards=np.arange(5)), episode(2, 3, rewards=np.ones(3, "f4"))]
    folder = write_dataset(tmp_path / "a-v0", given)

    with brought(folder, tmp_path) as (report, buffer):
        assert report.fields["reward"].kind == "changed"
        assert "float32" in report.fields["reward"].how
        assert buffer["reward"][:].tolist() == [x for one in given for x in one["rewards"].tolist()]


def test_infos_that_are_not_in_all_episodes_are_lost(tmp_path: Path) -> None:
    given = [episode(0, 4, infos={"a": np.arange(5)}), episode(1, 5), episode(2, 3, infos={"b": np.ones(9)})]
    folder = write_dataset(tmp_path / "a-v0", given)

    report = convert(folder, tmp_path / "a.zarr")

    assert {name: fate.kind for name, fate in report.rest.items()} == {"info/a": "lost", "info/b": "lost"}


def test_seeds_of_64_bits_that_have_no_place(tmp_path: Path) -> None:
    folder = write_dataset(tmp_path / "a-v0", [episode(0, 4), episode(1, 2)], seeds=[3, 2**64 - 1])

    with brought(folder, tmp_path) as (report, buffer):
        assert buffer.trajectories.seed.tolist() == [3, -1]
        assert report.rest["seed"].kind == "changed"


def jpeg(image: np.ndarray[Any, Any]) -> bytes:
    pillow = pytest.importorskip("PIL.Image", reason="images need pillow")
    file = io.BytesIO()
    pillow.fromarray(image).save(file, format="JPEG")
    return file.getvalue()


def test_images_are_decoded(tmp_path: Path) -> None:
    slope = np.arange(40)[:, None, None] + np.arange(50)[:, None] + np.zeros(3, int)
    images = np.stack([slope + 9 * place for place in range(5)]).astype(np.uint8)
    encoded = [jpeg(image) for image in images]
    folder = write_dataset(
        tmp_path / "a-v0",
        [episode(0, 4, observations=encoded)],
        observation=box("uint8", [40, 50, 3], 0, 255),
    )

    with brought(folder, tmp_path) as (report, buffer):
        read = buffer.trajectory(0)
        assert any("JPEG" in remark for remark in report.remarks)
        assert read.columns["observation"].shape == (4, 40, 50, 3)
        apart = np.abs(read.columns["observation"].astype(int) - images[:-1])
        assert apart.max() < 9


def test_an_image_of_another_size_is_refused(tmp_path: Path) -> None:
    encoded = [jpeg(np.zeros((40, 60), np.uint8))] * 3
    folder = write_dataset(
        tmp_path / "a-v0", [episode(0, 2, observations=encoded)], observation=box("uint8", [40, 50], 0, 255)
    )
    with pytest.raises(FormatError, match="pixels"):
        convert(folder, tmp_path / "a.zarr")


def test_where_a_dataset_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_dataset(tmp_path / "all" / "some" / "name-v3", [episode(0, 4)])
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "all"))
    monkeypatch.chdir(tmp_path)

    places = [
        folder,
        folder / "data",
        folder / "data" / "main_data.hdf5",
        "some/name-v3",
        "minari:some/name-v3",
    ]
    for number, place in enumerate(places):
        assert convert(place, tmp_path / f"{number}.zarr", source_format="minari").steps == 4
    for name in ("../all/some/name-v3", "some/../some/name-v3", "some/name-v4"):
        with pytest.raises((NotFoundError, FormatError)):
            convert(name, tmp_path / "b.zarr", source_format="minari")


# --- what is damaged, or lies


def broken(folder: Path, **changed: Any) -> None:
    path = folder / "data" / "metadata.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changed}))


@pytest.mark.parametrize(
    "changed",
    [
        {"data_format": "pickle"},
        {"data_format": ["hdf5"]},
        {"observation_space": "{"},
        {"observation_space": 7},
        {"action_space": json.dumps(box("float64", [3]))},
        {"observation_space": json.dumps({"type": "Dict", "subspaces": {"a": box("float32", [3])}})},
        {"observation_space": json.dumps({"type": "Dict", "subspaces": {"../..": box("float32", [3])}})},
    ],
)
def test_metadata_that_lie(tmp_path: Path, changed: dict[str, Any]) -> None:
    folder = write_dataset(tmp_path / "a-v0", [episode(0, 4)])
    broken(folder, **changed)
    if "action_space" in changed:  # what lies there decides, and the space is only told
        assert convert(folder, tmp_path / "a.zarr").steps == 4
        return
    with pytest.raises(FormatError):
        convert(folder, tmp_path / "a.zarr", source_format="minari")
    assert not (tmp_path / "a.zarr").exists()


def test_counts_are_not_believed(tmp_path: Path) -> None:
    folder = write_dataset(tmp_path / "a-v0", [episode(0, 4), episode(1, 3)])
    broken(folder, total_episodes=10**9, total_steps=-1)

    with brought(folder, tmp_path) as (report, buffer):
        assert (report.steps, buffer.num_trajectories) == (7, 2)
        assert len(report.remarks) == 2


def test_episodes_whose_rows_do_not_fit(tmp_path: Path) -> None:
    whole = episode(0, 6)
    cases = {
        "actions": whole["actions"][:5],
        "observations": whole["observations"][:4],
        "terminations": np.zeros(6),
        "truncations": np.zeros((6, 1), bool),
        "rewards": ["a"] * 6,
    }
    for number, (name, values) in enumerate(cases.items()):
        folder = write_dataset(tmp_path / f"{number}-v0", [whole, {**whole, name: values}])
        with pytest.raises(FormatError):
            convert(folder, tmp_path / "a.zarr", source_format="minari")
    left = {name: values for name, values in whole.items() if name != "actions"}
    with pytest.raises(FormatError, match="not there"):
        convert(write_dataset(tmp_path / "x-v0", [whole, left]), tmp_path / "a.zarr", source_format="minari")


def test_a_link_to_another_file_is_not_followed(tmp_path: Path) -> None:
    folder = write_dataset(tmp_path / "a-v0", [episode(0, 4)])
    other = write_dataset(tmp_path / "b-v0", [episode(0, 4)])
    with h5py.File(folder / "data" / "main_data.hdf5", "a") as file:
        del file["episode_0/actions"]
        file["episode_0/actions"] = h5py.ExternalLink(
            str(other / "data" / "main_data.hdf5"), "episode_0/actions"
        )
    with pytest.raises(FormatError, match="another file"):
        convert(folder, tmp_path / "a.zarr", source_format="minari")


def test_bytes_turned_over_anywhere_give_an_error_or_what_the_library_reads(tmp_path: Path) -> None:
    """Heads that are read at once are compared with those that the library reads."""
    given = [episode(seed, 20 + seed % 3, infos={"a": np.arange(21 + seed % 3)}) for seed in range(6)]
    folder = write_dataset(tmp_path / "a-v0", given, seeds=range(6))
    path = folder / "data" / "main_data.hdf5"
    whole = path.read_bytes()
    generator = np.random.default_rng(0)
    for _ in range(150):
        data = bytearray(whole)
        at = int(generator.integers(len(data)))
        data[at : at + 4] = generator.integers(0, 256, 4, np.uint8).tobytes()
        path.write_bytes(bytes(data))
        try:
            source = _all(folder)
        except ReplayStoreError:
            continue
        try:
            with h5py.File(path) as file:
                wanted = [np.concatenate([file[f"episode_{n}/rewards"][()] for n in range(6)])]
        except Exception:  # noqa: BLE001  # the library is stricter in some places
            continue
        if len(source) == len(wanted[0]):
            assert source.tobytes() == wanted[0].tobytes()


def _all(folder: Path) -> Any:

    with reading.read(str(folder)) as source:
        assert isinstance(source, Source)
        return np.concatenate([block.columns["reward"] for block in source.blocks(1 << 20)])


def test_a_file_that_is_cut_off(tmp_path: Path) -> None:
    folder = write_dataset(tmp_path / "a-v0", [episode(seed, 50) for seed in range(20)])
    path = folder / "data" / "main_data.hdf5"
    whole = path.read_bytes()
    for share in (0.1, 0.5, 0.9, 0.99):
        path.write_bytes(whole[: int(len(whole) * share)])
        with pytest.raises((FormatError, CorruptError)):
            convert(folder, tmp_path / "a.zarr", source_format="minari")
    shutil.rmtree(folder)
    with pytest.raises(NotFoundError):
        convert(folder, tmp_path / "a.zarr", source_format="minari")


def test_long_episodes_are_read_in_slices(tmp_path: Path) -> None:
    wide = np.zeros((60_000, 40))
    folder = write_dataset(tmp_path / "a-v0", [episode(0, 60_000, actions=wide)], action=box("float64", [40]))
    with reading.read(str(folder)) as source:
        assert isinstance(source, Source)
        tracemalloc.start()
        try:
            sizes = [sum(rows.nbytes for rows in block.columns.values()) for block in source.blocks(1 << 20)]
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert sum(sizes) > 19 << 20
    assert max(sizes) <= 1 << 20
    assert peak < 8 << 20


def test_chunks_that_lie_in_one_place_are_left_to_the_library(tmp_path: Path) -> None:
    """What heads say is not believed where rows would have no bytes."""
    wide = np.random.default_rng(0).normal(size=(500, 17))
    folder = write_dataset(tmp_path / "a-v0", [episode(0, 500, actions=wide)], action=box("float64", [17]))
    path = folder / "data" / "main_data.hdf5"
    data = bytearray(path.read_bytes())
    at = data.index(b"TREE\x01\x00")
    while int.from_bytes(data[at + 6 : at + 8], "little") < 2:
        at = data.index(b"TREE\x01\x00", at + 1)
    entry = 8 * 5  # a key of size, mask and three offsets, and its child: the second is where the first is
    data[at + 24 + entry + 8 : at + 24 + entry + 24] = bytes(16)
    path.write_bytes(bytes(data))

    with hdf5_reading.opened_episodes(str(path)) as episodes:
        try:
            found = episodes.whole("actions", 0, 1)
        except ReplayStoreError:
            return
    with h5py.File(path) as file:
        assert found.tobytes() == file["episode_0/actions"][()].tobytes()
