"""Pickles that somebody has made to do harm are refused: nothing is called, and little memory taken."""

from __future__ import annotations

import os
import pickle
import struct
import subprocess
import sys
import textwrap
import tracemalloc
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pickle_assembler import (
    CANARY,
    DONES,
    HOOKS,
    KEYS,
    LOAD,
    REBUILD,
    STREAM_HEAD,
    SYSTEM,
    Evil,
    buffer,
    info,
    name,
    number,
    payload,
    stored,
    stream,
    tensor,
    text,
    torch_stream,
)
from rlhf_rings import Ring, TrajectoryInfo, installed, rows
from tensors import torch

import replaystore as rs
from replaystore import errors
from replaystore.formats.active_rlhf.pickles import read


def truncated(size: int) -> Callable[[], bytes]:
    return lambda: buffer()[:size]


HOSTILE: dict[str, Callable[[], bytes]] = {
    # code
    "reduce to os.system": lambda: pickle.dumps(Evil()),
    "reduce to os.system, protocol 0": lambda: pickle.dumps(Evil(), 0),
    "os.system among the values": lambda: buffer(obs=SYSTEM),
    "os.system as an unused value": lambda: buffer(before=SYSTEM),
    "os.system in a key that nobody needs": lambda: buffer(more=text("x") + SYSTEM),
    "builtins.eval": lambda: buffer(obs=name("builtins", "eval") + text("1") + b"\x85R"),
    "getattr through a dotted name": lambda: buffer(
        obs=name("torch._utils", "_rebuild_tensor_v2.__globals__") + b")R"
    ),
    "a dotted module": lambda: buffer(obs=name("collections.OrderedDict", "__init__") + b")R"),
    "an allowed module with another name": lambda: buffer(obs=name("torch.storage", "os") + b")R"),
    "torch.load": lambda: buffer(obs=name("torch", "load") + text("x") + b"\x85R"),
    "a name of numbers": lambda: buffer(obs=number(1) + number(2) + b"\x93"),
    "code in the first pickle of a torch stream": lambda: buffer(
        obs=tensor(inner=pickle.dumps(Evil(), 2) + stream(4, b"\0" * 16))
    ),
    "code instead of the keys of a torch stream": lambda: buffer(
        obs=tensor(inner=stream(4, b"\0" * 16, keys=pickle.dumps(Evil(), 2)))
    ),
    "a nested torch stream": lambda: buffer(
        obs=REBUILD + b"(" + LOAD + LOAD + payload(stream(4, b"\0" * 16)) + b"\x85R\x85RtR"
    ),
    "a torch zip file": lambda: buffer(obs=tensor(inner=b"PK\x03\x04" + b"\0" * 400)),
    # instructions
    "INST": lambda: buffer(obs=b"(" + text("x") + b"ios\nsystem\n"),
    "OBJ": lambda: buffer(obs=b"(" + name("os", "system") + text("x") + b"o"),
    "OBJ of an allowed class": lambda: buffer(obs=b"(" + name("collections", "OrderedDict") + b"o"),
    "EXT1": lambda: buffer(obs=b"\x82\x01"),
    "EXT2": lambda: buffer(obs=b"\x83\x01\x00"),
    "EXT4": lambda: buffer(obs=b"\x84\x01\x00\x00\x00"),
    "PERSID": lambda: buffer(obs=b"Psomething\n"),
    "BINPERSID": lambda: buffer(obs=text("x") + b"Q"),
    "NEWOBJ_EX": lambda: buffer(obs=name("collections", "OrderedDict") + b")}\x92"),
    "NEXT_BUFFER": lambda: buffer(protocol=5, obs=b"\x97"),
    "BUILD on a function": lambda: buffer(obs=REBUILD + b"}" + text("__defaults__") + b")sb"),
    "BUILD on a class": lambda: buffer(obs=name("active_rlhf.data.buffers", "TrajectoryInfo") + b"}b"),
    "BUILD twice": lambda: buffer(trajectories=b"](" + info() + b"}b" + b"e"),
    "BUILD with a tuple of states": lambda: buffer(
        trajectories=b"](" + name("active_rlhf.data.buffers", "TrajectoryInfo") + b")\x81N}\x86be"
    ),
    "REDUCE of TrajectoryInfo": lambda: buffer(
        trajectories=b"](" + name("active_rlhf.data.buffers", "TrajectoryInfo") + b")Re"
    ),
    "REDUCE of a tensor": lambda: buffer(obs=tensor() + b")R"),
    "NEWOBJ of OrderedDict": lambda: buffer(obs=name("collections", "OrderedDict") + b")\x81"),
    "NEWOBJ with arguments": lambda: buffer(trajectories=b"](" + info(args=number(1) + b"\x85") + b"e"),
    "SETITEMS on an OrderedDict": lambda: buffer(obs=HOOKS + text("a") + number(1) + b"s"),
    "POP": lambda: buffer(before=b"N0"),
    "DUP": lambda: buffer(obs=tensor() + b"2"),
    "a text integer": lambda: buffer(capacity=b"I4\n"),
    "a frozen set": lambda: buffer(obs=b"(\x91"),
    # what is remembered, and how much
    "a memo at two billions": lambda: buffer(before=b"Nr\xff\xff\xff\x7f0"),
    "a memo with a hole": lambda: buffer(capacity=number(4) + b"r\x10\x00\x00\x00"),
    "recalling what never was": lambda: buffer(capacity=b"h\x07"),
    "a tensor that is used twice": lambda: buffer(obs=tensor() + b"\x94", acts=b"h\x00"),
    "a dict that holds itself": lambda: b"\x80\x04}\x94" + text("a") + b"h\x00s.",
    "a list of lists": lambda: buffer(trajectories=b"](]]]e"),
    "tuples in tuples": lambda: buffer(env_obs_shape=b")" + b"\x85" * 100_000),
    "tuples that double": lambda: buffer(env_obs_shape=b")" + b"\x94h\x00\x86" * 40),
    "dicts in dicts": lambda: buffer(obs=b"}" + b"".join([text("a") + b"}"] * 300) + b"s" * 300),
    "marks without end": lambda: b"\x80\x04" + b"(" * 1_000_000 + b".",
    "values without end": lambda: b"\x80\x04" + b"N" * 1_000_000 + b".",
    "dicts without end": lambda: b"\x80\x04" + b"}" * 1_000_000 + b".",
    "a dict of many keys": lambda: b"\x80\x04}(" + b"".join(text(str(n)) + b"N" for n in range(500)) + b"u.",
    "many different texts": lambda: buffer(
        before=b"}(" + b"".join(text("k" * 900 + str(n)) for n in range(1500)) + b"u"
    ),
    "long text": lambda: buffer(capacity=text("a" * 2_000_000)),
    "text that says it has four billion bytes": lambda: b"\x80\x04X\xff\xff\xff\xff" + b"a" * 100,
    "text of eight-byte length": lambda: b"\x80\x04\x8d" + b"\xff" * 8,
    "bytes that say they have an exabyte": lambda: b"\x80\x04\x8e" + struct.pack("<Q", 1 << 60) + b"a" * 100,
    "a frame beyond the end": lambda: b"\x80\x04\x95" + struct.pack("<Q", 1 << 60) + b"}.",
    "a number of many bytes": lambda: buffer(capacity=b"\x8a\xff" + b"\x01" * 255),
    "a number with a four-byte length": lambda: buffer(capacity=b"\x8b\xff\xff\xff\x7f"),
    "a name without end": lambda: b"\x80\x04c" + b"a" * 1_000_000,
    # sizes
    "a stride of zero": lambda: buffer(
        capacity=number(1 << 30), obs=tensor(shape=(1 << 30, 1), inner=stream(1, b"\0" * 4), stride=(0, 0))
    ),
    "a stride that jumps": lambda: buffer(
        obs=tensor(shape=(2, 1), inner=stream(4, b"\0" * 16), stride=(2, 1))
    ),
    "a transposed tensor": lambda: buffer(
        obs=tensor(shape=(4, 2), inner=stream(8, b"\0" * 32), stride=(1, 4))
    ),
    "a shape beyond the storage": lambda: buffer(
        capacity=number(1 << 30), obs=tensor(shape=(1 << 30, 1), inner=stream(4, b"\0" * 16))
    ),
    "a negative shape": lambda: buffer(obs=tensor(shape=(-4, -1), inner=stream(4, b"\0" * 16))),
    "a shape of too many numbers": lambda: buffer(
        obs=tensor(shape=(4, *[1] * 9), inner=stream(4, b"\0" * 16), stride=(1,) * 10)
    ),
    "more strides than sizes": lambda: buffer(obs=tensor(stride=(1, 1, 1))),
    "an offset beyond the storage": lambda: buffer(obs=tensor(offset=number(1))),
    "a negative offset": lambda: buffer(obs=tensor(offset=number(-1))),
    "a storage that is smaller than it says": lambda: buffer(obs=tensor(inner=stream(4, b"\0" * 15))),
    "a storage that is larger than it says": lambda: buffer(obs=tensor(inner=stream(4, b"\0" * 17))),
    "two sizes of one storage": lambda: buffer(obs=tensor(inner=stream(4, b"\0" * 16, said=3))),
    "a negative size of a storage": lambda: buffer(
        obs=tensor(inner=stream(4, b"\0" * 16, ref=stored(-4), said=-4))
    ),
    "a storage of exabytes": lambda: buffer(
        obs=tensor(inner=stream(4, b"\0" * 16, ref=stored(1 << 62), said=1 << 62))
    ),
    "a storage of another type": lambda: buffer(
        obs=tensor(inner=stream(4, b"\0" * 16, ref=stored(4, "QInt8Storage")))
    ),
    "a storage on no device": lambda: buffer(
        obs=tensor(inner=stream(4, b"\0" * 16, ref=stored(4, device="/dev/null")))
    ),
    "a view of a storage": lambda: buffer(
        obs=tensor(inner=stream(4, b"\0" * 16, ref=stored(4, view=text("x"))))
    ),
    "a module instead of a storage": lambda: buffer(
        obs=tensor(inner=stream(4, b"\0" * 16, ref=stored(4, tag="module")))
    ),
    "another key": lambda: buffer(
        obs=tensor(inner=stream(4, b"\0" * 16, keys=b"\x80\x02]" + text("1") + b"a."))
    ),
    "another magic number": lambda: buffer(
        obs=tensor(inner=stream(4, b"\0" * 16, head=STREAM_HEAD.replace(b"\x9cF", b"\x9cG")))
    ),
    "another version": lambda: buffer(
        obs=tensor(inner=stream(4, b"\0" * 16, head=STREAM_HEAD.replace(b"\xe9\x03", b"\xea\x03")))
    ),
    "a big-endian stream": lambda: buffer(
        obs=tensor(inner=stream(4, b"\0" * 16, head=STREAM_HEAD.replace(b"\x88s", b"\x89s")))
    ),
    "an empty stream": lambda: buffer(obs=tensor(inner=b"")),
    "a tensor whose gradient is a number": lambda: buffer(obs=tensor(gradient=number(1))),
    "a tensor with hooks": lambda: buffer(obs=tensor(hooks=b"}")),
    # what a buffer cannot be
    "nothing": lambda: b"",
    "no pickle": lambda: b"a text file\n" * 10,
    "only a beginning": lambda: b"\x80\x04",
    "a list": lambda: pickle.dumps([1, 2]),
    "a number": lambda: pickle.dumps(3, 4),
    "protocol 2": lambda: buffer(protocol=2),
    "protocol 9": lambda: buffer(protocol=9),
    "protocol twice": lambda: buffer(before=b"\x80\x04"),
    "cut in the middle of a tensor": truncated(400),
    "cut in the middle of a number": truncated(27),
    "cut before its end": lambda: buffer()[:-1],
    "bytes after its end": lambda: buffer(end=b".x"),
    "a second pickle": lambda: buffer(end=b".") + pickle.dumps(Evil()),
    "values that are left over": lambda: b"\x80\x04N" + buffer()[2:],
    "a mark that is left over": lambda: b"\x80\x04(" + buffer()[2:],
    "a value that is missing": lambda: b"\x80\x04s.",
    "a key twice": lambda: buffer(more=text("capacity") + number(4)),
    "a key that is a number": lambda: buffer(more=number(1) + number(4)),
    "an odd number of keys and values": lambda: buffer(more=text("x")),
    "text that is no Unicode": lambda: buffer(split=b"X\x02\x00\x00\x00\xff\xfe"),
    "a split that is half a character": lambda: buffer(
        trajectories=b"](" + info(split=text("\ud800")) + b"e"
    ),
    "a capacity of zero": lambda: buffer(capacity=number(0)),
    "a negative capacity": lambda: buffer(capacity=number(-4)),
    "a capacity that is true": lambda: buffer(capacity=b"\x88"),
    "a capacity of text": lambda: buffer(capacity=text("4")),
    "a huge capacity": lambda: buffer(capacity=number(1 << 62)),
    "another capacity than the tensors have": lambda: buffer(capacity=number(5)),
    "a size beyond the capacity": lambda: buffer(size=number(5)),
    "a negative size": lambda: buffer(size=number(-1)),
    "a position beyond the capacity": lambda: buffer(pos=number(4)),
    "a negative position": lambda: buffer(pos=number(-1)),
    "a step count of a float": lambda: buffer(global_step=b"G" + b"\0" * 8),
    "a shape of text": lambda: buffer(env_obs_shape=text("a") + b"\x85"),
    "a tensor instead of a number": lambda: buffer(size=tensor()),
    "a number instead of a tensor": lambda: buffer(obs=number(1)),
    "bytes instead of a tensor": lambda: buffer(obs=payload(b"abc")),
    "a storage instead of a tensor": lambda: buffer(obs=LOAD + payload(stream(4, b"\0" * 16)) + b"\x85R"),
    "a flat tensor": lambda: buffer(obs=tensor(shape=(4,), inner=stream(4, b"\0" * 16), stride=(1,))),
    "a tensor without columns": lambda: buffer(obs=tensor(shape=(4, 0), inner=stream(0, b""))),
    "two rewards a step": lambda: buffer(rews=tensor(shape=(4, 2), stride=(2, 1))),
    "dones of floats": lambda: buffer(dones=tensor()),
    "observations of bools": lambda: buffer(obs=DONES),
    "a done that is two": lambda: buffer(
        dones=tensor(inner=stream(4, b"\2" * 4, ref=stored(4, "BoolStorage")))
    ),
    "trajectories that are a number": lambda: buffer(trajectories=number(1)),
    "a trajectory that is a dict": lambda: buffer(trajectories=b"](}e"),
    "a trajectory without values": lambda: buffer(
        trajectories=b"](" + name("active_rlhf.data.buffers", "TrajectoryInfo") + b")\x81e"
    ),
    "a trajectory with a value more": lambda: buffer(trajectories=b"](" + info(more=number(1)) + b"e"),
    "a trajectory that starts with text": lambda: buffer(
        trajectories=b"](" + info(start_pos=text("0")) + b"e"
    ),
    "a trajectory whose score is an integer": lambda: buffer(
        trajectories=b"](" + info(on_policiness_score=number(1)) + b"e"
    ),
    "a trajectory of 2^70 steps": lambda: buffer(
        trajectories=b"](" + info(length=b"\x8a\x0a" + (1 << 70).to_bytes(10, "little")) + b"e"
    ),
    "a trajectory among the values": lambda: buffer(obs=info()),
    **{f"without {key}": lambda key=key: buffer(without=key) for key in KEYS if key != "fragment_length"},  # type: ignore[misc]
}


if torch is not None:
    HOSTILE |= {
        "a torch stream that runs code": lambda: buffer(obs=tensor(inner=torch_stream(Evil()))),
        "a torch stream of a module": lambda: buffer(
            obs=tensor(inner=torch_stream(OrderedDict(a=torch.zeros(1))))
        ),
    }


def test_there_are_many_kinds() -> None:
    assert len(HOSTILE) >= 30


@pytest.mark.torch
def test_the_file_that_they_are_variations_of_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.pkl").write_bytes(buffer())
    with installed():
        assert pickle.loads(buffer())["trajectories"] == [TrajectoryInfo(0, 2)]
    rs.convert(tmp_path / "a.pkl", str(tmp_path / "a.zarr"))
    rs.convert(str(tmp_path / "a.zarr"), tmp_path / "b.pkl", strict=True)


@pytest.mark.torch
@pytest.mark.parametrize("device", ["cuda", "cuda:0", "cuda:15", "mps:0", "xpu:1"])
def test_a_buffer_that_was_on_another_device_opens_on_the_cpu(tmp_path: Path, device: str) -> None:
    from replaystore.compat.active_rlhf import ReplayBuffer

    numbers = np.arange(4, dtype="<f4")

    def moved(kind: str, data: bytes) -> bytes:
        return tensor(
            inner=stream(4, data, ref=stored(4, kind, device=device)),
            gradient=b"\x88" if kind == "FloatStorage" else b"\x89",
        )

    floats = moved("FloatStorage", numbers.tobytes())
    (tmp_path / "a.pkl").write_bytes(
        buffer(obs=floats, acts=floats, rews=floats, dones=moved("BoolStorage", b"\0\1\0\1"))
    )

    loaded = ReplayBuffer.load(tmp_path / "a.pkl", device="cpu")
    rs.convert(tmp_path / "a.pkl", tmp_path / "a.zarr")

    for found in (loaded, ReplayBuffer.load(tmp_path / "a.zarr", device="cpu")):
        assert found.obs[:2, 0].tolist() == [0, 1]
        assert found.obs[:].device.type == "cpu"
        assert not found.obs.requires_grad
        assert found.dones[:2, 0].tolist() == [False, True]


@pytest.mark.parametrize("kind", HOSTILE)
def test_it_is_refused(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.pkl"
    path.write_bytes(HOSTILE[kind]())
    monkeypatch.chdir(tmp_path)
    tracemalloc.start()
    try:
        with pytest.raises(errors.FormatError) as refused:
            rs.convert(path, "a.zarr")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert "\n" not in str(refused.value)
    assert str(path) in str(refused.value)
    assert sorted(os.listdir(tmp_path)) == ["a.pkl"], "neither a store nor a canary"
    assert peak < 100 << 20


def test_the_canary_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    pickle.loads(HOSTILE["reduce to os.system"]())

    assert os.listdir(tmp_path) == [CANARY]


@pytest.mark.torch
def test_a_real_file_cut_anywhere_is_refused(tmp_path: Path) -> None:
    ring = Ring(8)
    ring.add(rows(5, 0), "train")
    ring.save(tmp_path / "a.pkl")
    data = (tmp_path / "a.pkl").read_bytes()
    for size in range(0, len(data), 7):
        (tmp_path / "b.pkl").write_bytes(data[:size])
        with pytest.raises(errors.FormatError), read(str(tmp_path / "b.pkl")):
            pytest.fail("it was opened")


@pytest.mark.torch
def test_a_real_file_with_a_changed_byte_is_refused_or_read_and_never_more(tmp_path: Path) -> None:
    ring = Ring(8)
    ring.add(rows(5, 0), "train")
    ring.save(tmp_path / "a.pkl")
    data = bytearray((tmp_path / "a.pkl").read_bytes())
    outcomes = set()
    for place in range(0, len(data), 5):
        changed = data.copy()
        changed[place] ^= 1 << (place % 8)
        (tmp_path / "b.pkl").write_bytes(changed)
        try:
            with read(str(tmp_path / "b.pkl")) as source:
                for field in source.schema.fields:
                    source.read(field, 0, source.rows)
            outcomes.add("read")
        except errors.FormatError:
            outcomes.add("refused")

    assert outcomes == {"read", "refused"}


def test_files_that_are_no_files_are_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.pkl")
    (tmp_path / "folder.pkl").mkdir()
    for name_, what in (("pipe.pkl", "is no regular file"), ("folder.pkl", "is a folder")):
        with pytest.raises(errors.FormatError, match=what):
            rs.convert(tmp_path / name_, str(tmp_path / "a.zarr"))


def test_none_of_them_takes_memory_in_a_process_of_its_own(tmp_path: Path) -> None:
    for place, kind in enumerate(HOSTILE):
        (tmp_path / f"{place}.pkl").write_bytes(HOSTILE[kind]())
    program = """
        import resource, sys
        from pathlib import Path
        from replaystore.errors import FormatError
        from replaystore.formats.active_rlhf.pickles import read
        assert "torch" not in sys.modules and "active_rlhf" not in sys.modules
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        refused = 0
        for path in sorted(Path(sys.argv[1]).glob("*.pkl")):
            try:
                with read(str(path)) as source:
                    for name in source.schema.fields:
                        source.read(name, 0, source.rows)
            except FormatError:
                refused += 1
        assert "torch" not in sys.modules and "active_rlhf" not in sys.modules
        print(refused, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    """
    command = [sys.executable, "-c", textwrap.dedent(program), str(tmp_path)]
    refused, kilobytes = map(
        int, subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path).stdout.split()
    )

    assert refused == len(HOSTILE)
    assert kilobytes < 100 << 10
    assert not (tmp_path / CANARY).exists()
