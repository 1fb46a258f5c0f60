"""What we write opens in diffusion_policy's own ReplayBuffer, and we read what it writes; without it, in
Zarr 2, which it is made on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import replaystore as rs
from replaystore.testing import samples

zarr = pytest.importorskip("zarr", reason="Zarr is not installed")
if not zarr.__version__.startswith("2."):
    pytest.skip("diffusion_policy is made on Zarr 2, and another is installed", allow_module_level=True)
STORES = ("a.zarr", "a.zarr.zip")


def recorded(path: Path) -> list[dict[str, np.ndarray[Any, Any]]]:
    """A store of three trajectories, and what is in it."""
    schema = samples.small()
    episodes = [samples.columns(schema, length, length, ends=0.0) for length in (40, 3, 7)]
    with rs.create(path, schema) as buffer:
        for columns in episodes:
            buffer.append(columns, ends=[len(columns["action"]) - 1])
    return episodes


@pytest.mark.parametrize("name", STORES)
def test_zarr_2_reads_what_we_write(name: str, tmp_path: Path) -> None:
    episodes = recorded(tmp_path / "store.zarr")
    rs.convert(tmp_path / "store.zarr", tmp_path / name, target_format="diffusion_policy")
    root = zarr.open(str(tmp_path / name), "r")
    assert root["meta/episode_ends"][:].tolist() == [40, 43, 50]
    assert root["data/camera"].compressor == zarr.Blosc("zstd", 1, zarr.Blosc.BITSHUFFLE)
    whole = np.concatenate([columns["observation/camera"] for columns in episodes])
    np.testing.assert_array_equal(root["data/camera"][:], whole)


@pytest.mark.parametrize("name", STORES)
def test_its_own_buffer_reads_what_we_write(name: str, tmp_path: Path) -> None:
    real = pytest.importorskip("diffusion_policy.common.replay_buffer", reason="diffusion_policy is not here")
    episodes = recorded(tmp_path / "store.zarr")
    rs.convert(tmp_path / "store.zarr", tmp_path / name, target_format="diffusion_policy")
    opened = [real.ReplayBuffer.create_from_path(str(tmp_path / name))]
    opened.append(real.ReplayBuffer.copy_from_path(str(tmp_path / name), store=zarr.MemoryStore()))
    opened.append(real.ReplayBuffer.copy_from_path(str(tmp_path / name), keys=["camera", "joints", "action"]))
    for buffer in opened:
        assert (buffer.n_episodes, buffer.n_steps) == (3, 50)
        assert list(buffer.episode_lengths) == [40, 3, 7]
        for number, columns in enumerate(episodes):
            episode = buffer.get_episode(number)
            np.testing.assert_array_equal(episode["camera"], columns["observation/camera"])
            np.testing.assert_array_equal(episode["joints"], columns["observation/joints"])
            np.testing.assert_array_equal(episode["action"], columns["action"])


@pytest.mark.parametrize("compressor", [None, "default", "disk"])
@pytest.mark.parametrize("name", STORES)
def test_we_read_what_its_own_buffer_writes(name: str, compressor: Any, tmp_path: Path) -> None:
    real = pytest.importorskip("diffusion_policy.common.replay_buffer", reason="diffusion_policy is not here")
    generator, buffer = np.random.default_rng(0), real.ReplayBuffer.create_empty_zarr()
    episodes = [
        {
            "img": generator.integers(0, 255, (length, 8, 8, 3), np.uint8),
            "state": generator.normal(size=(length, 5)).astype(np.float32),
            "action": generator.normal(size=(length, 2)),
        }
        for length in (9, 30, 1)
    ]
    for episode in episodes:
        buffer.add_episode(episode, compressors=real.ReplayBuffer.resolve_compressor(compressor))
    path = str(tmp_path / name)
    if name.endswith(".zip"):
        with zarr.ZipStore(path, mode="w") as store:
            buffer.save_to_store(store)
    else:
        buffer.save_to_path(path)

    assert rs.convert(path, tmp_path / "b.h5").exact

    with rs.open(tmp_path / "b.h5") as back:
        assert back.trajectories["length"].tolist() == [9, 30, 1]
        for field, key in (("observation/img", "img"), ("observation/state", "state"), ("action", "action")):
            whole = np.concatenate([episode[key] for episode in episodes])
            assert back.schema.fields[field].dtype == whole.dtype
            np.testing.assert_array_equal(back[field][:], whole)


def test_its_own_buffer_goes_on_with_what_we_wrote(tmp_path: Path) -> None:
    """Then what lies beside it is of another buffer, and is left out."""
    real = pytest.importorskip("diffusion_policy.common.replay_buffer", reason="diffusion_policy is not here")
    episodes = recorded(tmp_path / "store.zarr")
    rs.convert(tmp_path / "store.zarr", tmp_path / "a.zarr", target_format="diffusion_policy")
    buffer = real.ReplayBuffer.create_from_path(str(tmp_path / "a.zarr"), mode="r+")
    buffer.add_episode({key: buffer[key][:5] for key in list(buffer.data)})

    report = rs.convert(tmp_path / "a.zarr", tmp_path / "b.zarr")

    assert any("gone on with" in remark for remark in report.remarks)
    with rs.open(tmp_path / "b.zarr") as back:
        assert back.trajectories["length"].tolist() == [40, 3, 7, 5]
        np.testing.assert_array_equal(back["observation/joints"][50:], episodes[0]["observation/joints"][:5])
