"""Settings without sense make no store; forks, copies and pickles of buffers say what to do."""

from __future__ import annotations

import copy
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bad_input import SUFFIXES, refuse

import replaystore as rs
from replaystore.errors import (
    ConflictError,
    SchemaError,
    UnsupportedError,
)
from replaystore.testing import samples

# --- making a store


WRONG_SETTINGS: dict[str, tuple[dict[str, Any], str]] = {
    "capacity 0": ({"capacity": 0}, "capacity is a positive number of steps, not 0"),
    "capacity -1": ({"capacity": -1}, "not -1"),
    "capacity True": ({"capacity": True}, "not True"),
    "capacity text": ({"capacity": "10"}, "not '10'"),
    "layout": ({"layout": "tape"}, "no layout 'tape': choose one of live, archive"),
    "durability": ({"durability": "some"}, '"commit" or "none", not \'some\''),
    "no field": ({"storage": {"nope": {}}}, "storage: there is no field 'nope'"),
    "no setting": ({"storage": {"reward": {"level": 1}}}, "storage of 'reward': unknown setting 'level'"),
    "codec": ({"storage": {"reward": {"codec": "lzma:3"}}}, '"lzma:3" is not known; known are'),
    "level": ({"storage": {"reward": {"codec": "zstd:99"}}}, '"zstd:99" is not known'),
    "codec of another type": ({"storage": {"reward": {"codec": None}}}, "a codec is a string"),
    "codec of no kind": ({"storage": {"reward": {"codec": 3}}}, "reward.codec"),
    "pages": (
        {"storage": {"reward": {"chunk_rows": 7}}},
        "'reward': chunk_rows of a raw field .* multiple of 512, not 7",
    ),
    "no rows": ({"storage": {"reward": {"chunk_rows": 0}}}, "reward.chunk_rows"),
    "storage of no kind": ({"storage": 3}, "storage is a dict"),
    "settings of no kind": ({"storage": {"reward": "raw"}}, "storage of 'reward' is a dict"),
    "large metadata": ({"metadata": {"x": "y" * (1 << 20)}}, "over the limit of 1048576"),
    "metadata": ({"metadata": {"x": float("nan")}}, "user.x is nan"),
}


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("case", WRONG_SETTINGS)
def test_settings_without_sense_make_no_store(tmp_path: Path, suffix: str, case: str) -> None:
    settings, text = WRONG_SETTINGS[case]

    refuse(SchemaError, text, lambda: rs.create(tmp_path / f"a{suffix}", samples.small(), **settings))

    assert list(tmp_path.iterdir()) == []


def test_hdf5_has_no_ring(tmp_path: Path) -> None:
    refuse(
        UnsupportedError,
        r"a\.h5: .*use a \.zarr location with capacity=10",
        lambda: rs.create(tmp_path / "a.h5", samples.small(), capacity=10),
    )
    assert list(tmp_path.iterdir()) == []


# --- processes, copies, and indexes that other libraries take


def test_a_forked_child_does_not_write_for_its_parent(tmp_path: Path) -> None:
    for name in ("a.zarr", "a.h5"):
        columns = {"action": np.arange(10), "terminated": np.zeros(10, bool)}
        flag = rs.Field("?", (), "terminated")
        with rs.create(
            tmp_path / name, rs.Schema({"action": rs.Field("i8", (), "action"), "terminated": flag})
        ) as writer:
            writer.append(columns)
            writer.commit()
            writer.append(columns)
            child = os.fork()
            if child == 0:
                refused = 0
                for attempt in (writer.commit, lambda writer=writer, columns=columns: writer.append(columns)):
                    try:
                        attempt()
                    except ConflictError:
                        refused += 1
                writer.close()
                os._exit(0 if refused == 2 else 1)
            assert os.waitpid(child, 0)[1] == 0
            with rs.open(tmp_path / name) as reader:
                assert len(reader) == 10
            writer.append(columns)
        with rs.open(tmp_path / name) as reader:
            assert reader["action"][:].tolist() == [*range(10)] * 3
        assert rs.verify(tmp_path / name).problems == []


def test_buffers_and_samplers_are_not_pickled_and_say_what_to_do(tmp_path: Path) -> None:
    flag = rs.Field("?", (), "terminated")
    buffer = rs.create(
        tmp_path / "a.zarr", rs.Schema({"action": rs.Field("i8", (), "action"), "terminated": flag})
    )
    buffer.append({"action": np.arange(10), "terminated": np.zeros(10, bool)})
    buffer.commit()
    for thing in (buffer, buffer.sampler(4)):
        for copied in (pickle.dumps, copy.deepcopy):
            with pytest.raises(UnsupportedError, match="BatchDataset"):
                copied(thing)
    for index, error, what in (
        *(
            ((0, 1), IndexError, "2 indices for 'action', which has 1 dimension"),
            ((slice(3), 0), IndexError, "2 indices for 'action'"),
        ),
        *(
            (None, SchemaError, r"column\[steps, \.\.\.\], without None"),
            ((..., ...), SchemaError, "'action' is indexed by steps"),
        ),
    ):
        with pytest.raises(error, match=what):
            buffer["action"][index]
    buffer.close()
    assert repr(buffer).endswith("closed>")


def test_a_split_that_does_not_exist_replaces_nothing(tmp_path: Path) -> None:
    flag = rs.Field("?", (), "terminated")
    for name in ("a.zarr", "b.zarr"):
        with rs.create(
            tmp_path / name, rs.Schema({"action": rs.Field("i8", (), "action"), "terminated": flag})
        ) as buffer:
            buffer.append({"action": np.arange(10), "terminated": np.arange(10) == 9}, split="train")
    with pytest.raises(SchemaError, match="no trajectory has split 'typo'; splits are 'train'"):
        rs.convert(tmp_path / "a.zarr", tmp_path / "b.zarr", split="typo", overwrite=True)
    with rs.open(tmp_path / "b.zarr") as buffer:
        assert len(buffer) == 10
