"""Files of velora's buffers: the same bytes, loaded by either, and errors of one line."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from velora_buffers import SIZES, STORES, assert_equal, filled, real_class, rows

from replaystore.compat.velora import ReplayBuffer
from replaystore.errors import FormatError, NotFoundError, SchemaError, UnsupportedError

# --- files


def test_files_are_byte_for_byte_those_of_velora(tmp_path: Path) -> None:
    for name, capacity, counts in (("partial", 50, (20,)), ("wrapped", 8, (5, 6)), ("empty", 3, ())):
        real = real_class()(capacity, *SIZES.values())
        for seed, count in enumerate(counts):
            real.add_multi(*rows(seed, count))
        real.save(tmp_path / name / "real")
        ours = filled(capacity, *counts)
        ours.save(tmp_path / name / "ours")
        ours.save(tmp_path / f"{name}.zarr")
        lazy = ReplayBuffer.load(tmp_path / f"{name}.zarr")
        lazy.device = None
        lazy.save(tmp_path / name / "stored")

        for file in ("buffer_state.safetensors", "buffer_metadata.json"):
            expected = (tmp_path / name / "real" / file).read_bytes()
            assert (tmp_path / name / "ours" / file).read_bytes() == expected
            assert (tmp_path / name / "stored" / file).read_bytes() == expected


def test_velora_loads_what_we_save_and_goes_on_with_it(tmp_path: Path) -> None:
    ours = filled(10, 6, 7)
    ours.save(tmp_path)
    metadata = json.loads((tmp_path / "buffer_metadata.json").read_text())
    real = real_class().load(tmp_path / "buffer_state", metadata)

    for buffer in (ours, real):
        buffer.add_multi(*rows(9, 4))

    assert_equal(ours, real)


SAMPLES = Path(__file__).parent / "data" / "velora"


def sample_names() -> list[str]:
    file = SAMPLES / "expected.json"
    return sorted(json.loads(file.read_text())["samples"]) if file.exists() else []


@pytest.mark.parametrize("name", sample_names())
@pytest.mark.parametrize("suffix", ["", *STORES])
def test_files_of_velora_are_loaded_and_sampled_as_velora_does(
    name: str, suffix: str, tmp_path: Path
) -> None:
    expected = json.loads((SAMPLES / "expected.json").read_text())["samples"][name]
    buffer = ReplayBuffer.load(SAMPLES / expected["load_path_arg"], expected["metadata"])
    if suffix:
        buffer.save(tmp_path / f"buffer{suffix}")
        buffer = ReplayBuffer.load(tmp_path / f"buffer{suffix}", expected["metadata"])

    assert buffer.metadata() == expected["metadata_after_load"]
    for field, known in expected["tensors"].items():
        tensor = getattr(buffer, field)
        assert (str(tensor.dtype), list(tensor.shape)) == (known["dtype"], known["shape"])
        assert hashlib.sha256(tensor.cpu().numpy().tobytes()).hexdigest() == known["storage_sha256"]
    if "seeded_sample" in expected:
        seeded = expected["seeded_sample"]
        torch.manual_seed(seeded["torch_seed"])
        batch = buffer.sample(seeded["batch_size"])
        for field, digest in seeded["sha256"].items():
            assert hashlib.sha256(getattr(batch, field).numpy().tobytes()).hexdigest() == digest


# --- errors


def broken(tmp_path: Path, kind: str) -> tuple[Path, Any]:
    buffer = filled(10, 4)
    buffer.save(tmp_path)
    file, metadata = tmp_path / "buffer_state.safetensors", buffer.metadata()
    if kind == "a half file":
        file.write_bytes(file.read_bytes()[:-10])
    elif kind == "a file of something else":
        file.write_bytes(b"nothing of the kind")
    elif kind == "no file":
        file.unlink()
    elif kind == "no metadata beside it":
        (tmp_path / "buffer_metadata.json").unlink()
        metadata = None
    elif kind == "metadata without a key":
        del metadata["position"]
    elif kind == "metadata of another buffer":
        metadata["state_dim"] = 9
    elif kind == "a position beyond the end":
        metadata["position"] = 10
    elif kind == "a device that is not there":
        metadata["device"] = "cuda:7"
    elif kind == "no store":
        file = tmp_path / "none.zarr"
    return file, metadata


BROKEN: dict[str, type[Exception]] = {
    "a half file": FormatError,
    "a file of something else": FormatError,
    "no file": NotFoundError,
    "no metadata beside it": NotFoundError,
    "metadata without a key": SchemaError,
    "metadata of another buffer": FormatError,
    "a position beyond the end": FormatError,
    "no store": NotFoundError,
}


@pytest.mark.parametrize(("kind", "error"), BROKEN.items(), ids=BROKEN)
def test_what_cannot_be_loaded_is_said_in_one_line(kind: str, error: type[Exception], tmp_path: Path) -> None:
    file, metadata = broken(tmp_path, kind)

    with pytest.raises(error) as caught:
        ReplayBuffer.load(file, metadata)

    assert "\n" not in str(caught.value)
    assert 20 < len(str(caught.value)) < 400


@pytest.mark.skipif(torch.cuda.device_count() > 7, reason="there is such a device")
def test_a_device_that_is_not_there_is_refused(tmp_path: Path) -> None:
    file, metadata = broken(tmp_path, "a device that is not there")

    with pytest.raises(UnsupportedError, match="pass device='cpu'"):
        ReplayBuffer.load(file, metadata)
    with pytest.raises(UnsupportedError, match="pass device='cpu'"):
        ReplayBuffer(4, **SIZES, device="cuda:7")
    assert ReplayBuffer.load(file, metadata, device="cpu").size == 4


@pytest.mark.parametrize("name", ["capacity", "state_dim", "action_dim", "hidden_dim"])
def test_dimensions_are_positive(name: str) -> None:
    with pytest.raises(SchemaError, match=f"{name} must be a positive number"):
        ReplayBuffer(**{"capacity": 4, **SIZES, name: 0})


def test_the_position_in_a_store_cannot_be_set(tmp_path: Path) -> None:
    filled(10, 4).save(tmp_path / "b.zarr")
    with (
        ReplayBuffer.load(tmp_path / "b.zarr", mode="r+") as lazy,
        pytest.raises(SchemaError, match="follows from its rows"),
    ):
        lazy.position = 0
