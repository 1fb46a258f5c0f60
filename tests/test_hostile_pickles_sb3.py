"""Pickles that say that they are of Stable-Baselines3, and were made to do harm, or are broken."""

from __future__ import annotations

import os
import pickle
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sb3_pickles import BUFFERS, dumped, state_of

import replaystore as rs
from replaystore import errors
from replaystore.formats import find, named
from replaystore.formats.shared.pickles import reading

CANARY = Path("canary")


class Evil:
    """Is called by whoever unpickles it."""

    def __reduce__(self) -> Any:
        return os.system, (f"touch {CANARY}",)


def of(**more: Any) -> bytes:
    return dumped(BUFFERS, "ReplayBuffer", state_of(**more))


def raw(body: bytes) -> bytes:
    head = "\x80\x04cstable_baselines3.common.buffers\nReplayBuffer\n".encode("latin1")
    return head + b")\x81" + body + b"b."


LONE = np.zeros((6, 2), np.float32)
HOSTILE: dict[str, Callable[[], bytes]] = {
    "a call among the attributes": lambda: of(device=Evil()),
    "a call in an info": lambda: of(infos=np.array([[{"a": Evil()}, 0]] * 6, object)),
    "a call as an array": lambda: of(observations=Evil()),
    "eval": lambda: raw(b"cbuiltins\neval\nX\x01\x00\x00\x001\x85R"),
    "getattr": lambda: raw(b"cbuiltins\ngetattr\n(tR"),
    "an instruction that is none of these": lambda: raw(b"}I0\n"),
    "an instance of protocol 0": lambda: raw(b"(ios\nsystem\n"),
    "an extension": lambda: raw(b"\x82\x01"),
    "a persistent number": lambda: raw(b"NQ"),
    "no attributes": lambda: raw(b"}"),
    "cut short": lambda: of()[:-40],
    "cut in an array": lambda: of()[:900],
    "more behind it": lambda: of() + b"x",
    "no dones": lambda: dumped(
        BUFFERS, "ReplayBuffer", {k: v for k, v in state_of().items() if k != "dones"}
    ),
    "a size that is none": lambda: of(buffer_size=-1),
    "a size that is text": lambda: of(buffer_size="6"),
    "a position beyond the end": lambda: of(position=7),
    "more rows than there are": lambda: of(buffer_size=7),
    "other environments": lambda: of(n_envs=3),
    "dones of text": lambda: of(dones=np.full((6, 2), "a")),
    "dones of objects": lambda: of(dones=np.zeros((6, 2), object)),
    "dones that are neither 0 nor 1": lambda: of(dones=LONE + 2),
    "dones that are no numbers": lambda: of(dones=LONE + np.nan),
    "next observations of another shape": lambda: of(next_observations=np.zeros((6, 2, 4), np.float32)),
    "next observations of another dtype": lambda: of(next_observations=np.zeros((6, 2, 3))),
    "columns behind each other": lambda: of(observations=np.zeros((3, 2, 6), np.float32).T),
    "marks without end": lambda: raw(b"(" * 100_000),
    "tuples in tuples": lambda: raw(b")" + b"\x85" * 50_000),
    "a dict in itself": lambda: raw(b"}\x94X\x01\x00\x00\x00ah\x00s"),
    "a stack without end": lambda: raw(b"N" * 1_000_000),
    "text that has no end": lambda: raw(b"X" + struct.pack("<I", 1 << 31)),
    "an array of more than there is": lambda: raw(b"B" + struct.pack("<I", 1 << 31)),
    "a number without end": lambda: raw(b"\x8a\xff" + b"\xff" * 255),
    "what was never remembered": lambda: raw(b"h\x09"),
    "remembered at a far place": lambda: raw(b"}r\xff\xff\xff\x7f"),
    "an array that never comes": lambda: raw(
        b"}X\x0c\x00\x00\x00observationscnumpy.core.multiarray\n_reconstruct\n"
        b"cnumpy\nndarray\nK\x00\x85C\x01b\x87Rs"
    ),
    "a dtype of fields": lambda: of(dones=np.zeros((6, 2), [("a", "f4")])),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_one_clear_error_and_nothing_is_run(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(reading, "MAX_OBJECTS", 20_000)
    Path("a.pkl").write_bytes(HOSTILE[name]())

    tracemalloc.start()
    try:
        with pytest.raises(errors.FormatError) as caught:
            rs.convert("a.pkl", "a.zarr", format="sb3")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("a.pkl")
    assert not CANARY.exists()
    assert not Path("a.zarr").exists()
    assert peak < 300 << 20


def test_memory_is_bounded_however_much_a_file_makes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "MAX_OBJECTS", 20_000)
    for body in (b"]0" * 100_000, b"K\x01" * 100_000 + b"t"):
        Path(tmp_path / "a.pkl").write_bytes(raw(body))
        with pytest.raises(errors.FormatError, match=r"objects|stack"):
            rs.convert(tmp_path / "a.pkl", tmp_path / "a.zarr", format="sb3")


def test_pickles_of_two_projects_are_told_apart(tmp_path: Path) -> None:
    (tmp_path / "a.pkl").write_bytes(of())
    (tmp_path / "b.pkl").write_bytes(pickle.dumps({"capacity": 3}))

    assert find(tmp_path / "a.pkl") == "sb3"
    assert named("sb3").recognizes(str(tmp_path / "a.pkl"))
    assert not named("active_rlhf").recognizes(str(tmp_path / "a.pkl"))
    assert find(tmp_path / "b.pkl") == "active_rlhf"
