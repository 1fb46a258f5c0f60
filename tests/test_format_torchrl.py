"""Checkpoints of TorchRL and tensordicts: there and back, and the samples."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import replaystore as rs
from replaystore.formats.finding import find
from replaystore.formats.report import Report
from replaystore.schema.fields import Schema
from replaystore.testing import samples
from replaystore.testing.formats import FormatSuite

SAMPLES = Path(__file__).parents[2] / "shared" / "samples"


class TestCheckpoint(FormatSuite):
    name = "torchrl"
    filename = "replay_buffer"

    def _check_promises(self, schema: Schema, report: Report) -> None:
        """Zeros after what nobody knows are told, and are in no field."""
        told = {name: fate for name, fate in report.fields.items() if not name.startswith("next/")}
        super()._check_promises(schema, replace(report, fields=told))


# --- what its own software wrote

TORCHRL = [
    f"torchrl/{name}-{kind}"
    for name in ("cartpole", "dictobs")
    for kind in ("memmap", "flat", "nested", "h5", "wrapped")
]
TENSORDICT = [
    f"tensordict/{name}"
    for name in ("memmap_dir", "archive.tdz", "consolidated.td", "persistent.h5", "store.zarr")
]


def truth(name: str) -> Mapping[str, np.ndarray[Any, Any]]:
    if not SAMPLES.is_dir():
        pytest.skip("the samples of other software are not here")
    return dict(np.load(SAMPLES / "truth" / f"{name}.npz"))


@pytest.mark.parametrize("name", [*TORCHRL, *TENSORDICT])
def test_a_sample_has_the_trajectories_of_the_truth(name: str, tmp_path: Path) -> None:
    """With what was observed after their last steps; of a ring that was written over, the newest ones."""
    dictobs = "cartpole" not in name
    known = truth("dictobs" if dictobs else "cartpole")
    path = str(SAMPLES / name)
    assert find(path) == "torchrl"

    report = rs.convert(path, tmp_path / "a.zarr")

    assert rs.verify(tmp_path / "a.zarr").problems == []
    assert report.rest.keys() == ({"prefetch.pkl", "rng_state"} if "torchrl/" in name else set())
    last = np.cumsum(known["ep_len"] + 1) - 1
    keep = np.ones(int(last[-1]) + 1, np.bool_)
    keep[last] = False
    with rs.open(tmp_path / "a.zarr") as buffer:
        steps, count = len(buffer), buffer.num_trajectories
        assert steps == (50 if "wrapped" in name else len(known["act"]))
        assert buffer.trajectories["length"][1:].tolist() == known["ep_len"][-count + 1 :].tolist()
        for field, key in (("action", "act"), ("terminated", "terminated"), ("truncated", "truncated")):
            np.testing.assert_array_equal(buffer[field][:], known[key][-steps:])
        np.testing.assert_array_equal(buffer["reward"][:], known["rew"][-steps:].astype(np.float32))
        assert buffer.schema.fields["reward"].shape == ()
        for key in [key for key in known if key.startswith("obs")]:
            field = "observation/" + key[4:] if dictobs else "observation"
            np.testing.assert_array_equal(buffer[field][:], known[key][keep][-steps:])
            for number in range(count):
                final = buffer.final_observation(number)
                assert final is not None
                np.testing.assert_array_equal(final[field], known[key][last[number - count]])


def test_what_beside_a_sample_is_lost_is_said(tmp_path: Path) -> None:
    truth("cartpole")
    path = SAMPLES / "torchrl" / "cartpole-memmap"
    with pytest.raises(rs.errors.UnsupportedError, match="a pickle, which is never loaded"):
        rs.convert(path, tmp_path / "a.zarr", strict=True)


def test_our_own_stores_are_none_of_it(tmp_path: Path) -> None:
    for name in ("a.zarr", "b.h5"):
        with rs.create(tmp_path / name, samples.small()) as buffer:
            buffer.append(samples.columns(samples.small(), 5, 0))
        assert find(str(tmp_path / name)) is None
    rs.convert(tmp_path / "a.zarr", tmp_path / "c.zarr.zip")
    assert find(str(tmp_path / "c.zarr.zip")) is None


def test_a_report_says_how_it_is_opened_and_what_is_made_up(tmp_path: Path) -> None:
    schema = samples.small()
    with rs.create(tmp_path / "a.zarr", schema, capacity=64) as buffer:
        buffer.append(samples.columns(schema, 5, 0, ends=0.0), ends=[2, 4])
    report = rs.convert(tmp_path / "a.zarr", tmp_path / "b", target_format="torchrl")
    assert any("LazyMemmapStorage(64)" in remark for remark in report.remarks)
    assert report.fields["next/observation/joints"].kind == "made up"
    assert "2 trajectories" in report.fields["next/observation/joints"].how
