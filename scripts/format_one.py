"""Writes the stores of tests/data/format-1, once: `.venv/bin/python scripts/format_one.py [FOLDER]`.

They are what version 1 of the format is: every later version of replaystore has to read them, and none may
make them anew. So this refuses a folder that is there. What is in them is in tests/format_one.py.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import platform
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

CHECKOUT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(CHECKOUT / "tests"))

import numpy as np  # noqa: E402
from format_one import (  # noqa: E402
    LOOSE,
    columns,
    env,
    observations,
    ring_schema,
    run,
    schema,
    score,
    seed,
    spaces_schema,
    split,
    value,
)
from newer_stores import change_document, strange_document, with_strange_rows  # noqa: E402

import replaystore as rs  # noqa: E402
from replaystore.arrays import appending, changing, committing  # noqa: E402
from replaystore.containers.hdf5 import directory, log, rows  # noqa: E402
from replaystore.schema.fields import Field  # noqa: E402
from replaystore.testing.crashes import tiny  # noqa: E402
from replaystore.views import layout  # noqa: E402

FOLDER = CHECKOUT / "tests" / "data" / "format-1"
MOST_BYTES = 500_000
"""Of each."""


@contextmanager
def small_files() -> Iterator[None]:
    """Stores that are made meanwhile have chunks of a page and tables of few rows, so that a short recording
    has every kind of file, and few bytes."""
    table = layout.table_spec
    short: Any = lambda *given, **named: replace(table(*given, **named), chunk_rows=64)  # noqa: E731
    with ExitStack() as stack:
        stack.enter_context(tiny())
        stack.enter_context(
            patch.multiple(layout, CHUNK_BYTES=4096, FINAL_ROWS=64, RING_LEAST=8192, table_spec=short)
        )
        stack.enter_context(patch.object(changing, "CHUNK_BYTES", 4096))
        specs = {"TAIL_SPEC": 4096, "CHECKSUMS_SPEC": 64}
        for name, count in specs.items():
            stack.enter_context(
                patch.object(appending, name, replace(getattr(appending, name), chunk_rows=count))
            )
        for module, name, least in (
            (log, "LEAST", 8192),
            (directory, "LEAST", 8192),
            (rows, "LEAST_STEP", 1),
        ):
            stack.enter_context(patch.object(module, name, least))
        yield


def storage(path: Path) -> dict[str, dict[str, Any]]:
    """Short chunks of what is coded."""
    codec = "gzip:1" if path.suffix == ".h5" else "zstd:1"
    found = {
        "observation/camera": {"codec": codec, "chunk_rows": 4},
        "observation/text": {"codec": codec, "chunk_rows": 50},
    }
    only = "info/wide" if path.stem == "ring" else "info/a.b %25"
    return found | {only: {"codec": codec, "chunk_rows": 5}}


def append(buffer: rs.Buffer, trajectory: int, steps: list[int], flags: str = "", **more: Any) -> None:
    """Steps of a trajectory, whose last one has these flags, and what followed it."""
    known = [trajectory] if steps[0] % 100 == 0 else []
    buffer.append(
        columns(buffer.schema, steps, {steps[-1]: flags} if flags else None),
        env=env(trajectory),
        split=split(trajectory),
        seed=[None if seed(number) < 0 else seed(number) for number in known],
        **{"final_observation": observations(buffer.schema, [steps[-1] + 1]), **more},
    )


def live(path: Path) -> None:
    """Commits with and without a name, a rollback, a trajectory that was cut off, steps of none, environments
    that take turns, scores that were set twice, a column of the user's, a late field, open trajectories."""
    with rs.create(path, schema(), storage=storage(path), metadata={"made": [1, "é", None]}) as buffer:
        append(buffer, 0, run(0, 12), "terminated")
        buffer.commit()
        append(buffer, 1, run(1, 9), "truncated")
        buffer.commit("first")
        append(buffer, 7, run(7, 7))
        buffer.commit()
        buffer.rollback("first")
        append(buffer, 2, run(2, 5), ends=[4], final_observation=None)
        buffer.append_loose(columns(buffer.schema, [LOOSE, LOOSE + 1, LOOSE + 2]))
        in_turn(buffer)
        buffer.commit()
        for time, steps in ((1, range(4, 30)), (2, range(10, 14))):
            buffer["score"][steps] = [score(step, time) for step in buffer_steps()[steps.start : steps.stop]]
            buffer.commit()
        ended = len(buffer.trajectories) - int(buffer.trajectories["open"].sum())
        buffer.set_trajectory_column("grade", np.arange(ended) / 4)
        buffer.add_field("info/late", Field("int16", (2,), "info"), fill=3)
        append(buffer, 5, run(5, 6))
        buffer.commit("last")


def buffer_steps() -> list[int]:
    """The numbers of the rows of `live` before its late field."""
    from format_one import TOLD

    return TOLD["live.zarr"].rows


def in_turn(buffer: rs.Buffer) -> None:
    """Trajectories 3 and 4, of which the first ends."""
    writer, of = buffer.writer(2), buffer.schema
    both = observations(of, [300, 400])
    writer.reset(both, seed=[seed(3), None])
    for place in range(7):
        steps = [300 + place, 400 + place]
        given = columns(of, steps, {306: "terminated truncated"} if place == 6 else None)
        info = {name: given[name] for name in of.fields if name.startswith("info/") or name == "score"}
        after = observations(of, [step + 1 for step in steps])
        writer.step(*(given[name] for name in ("action", "reward", "terminated", "truncated")), after, info)
    writer.close()


def ring(path: Path) -> None:
    """Wrapped three times; a named commit keeps rows that have left."""
    with rs.create(path, ring_schema(), storage=storage(path), capacity=40, keep_named=1) as buffer:
        for trajectory in range(9):
            append(buffer, trajectory, run(trajectory, 13), ("terminated", "truncated")[trajectory % 2])
            buffer.commit("kept" if trajectory == 4 else None)
        append(buffer, 9, run(9, 7))
        buffer.commit()


def ragged(path: Path) -> None:
    """Texts, sequences and graphs of Gymnasium, tokens over the borders of chunks and files, a late text."""
    settings = {
        "observation/graph/nodes": {"codec": "zstd:1", "chunk_rows": 6},
        "action": {"codec": "raw", "chunk_rows": 1024},
    }
    with rs.create(path, spaces_schema(), storage=settings) as buffer:
        append(buffer, 0, run(0, 8), "terminated")
        append(buffer, 1, run(1, 7), "truncated")
        buffer.commit()
        late = Field.of_text("info")
        buffer.add_field(
            "info/late", late, values=[value("info/late", late, step) for step in run(0, 8) + run(1, 7)]
        )
        append(buffer, 2, run(2, 5), "terminated")
        append(buffer, 3, run(3, 4))
        buffer.commit()


def archive(path: Path) -> None:
    """Of `live`, laid trajectory by trajectory and sealed."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "live.zarr")
        live(source)
        rs.convert(source, path, layout="archive")


def short_story(path: Path) -> rs.Buffer:
    """Two trajectories, each in a commit; open for writing."""
    buffer = rs.create(path, schema(), storage=storage(path))
    for trajectory in range(2):
        append(buffer, trajectory, run(trajectory, 9), "terminated")
        buffer.commit()
    return buffer


def torn(path: Path) -> None:
    """The record of the last commit is half there; its rows and values are."""
    with patch("replaystore.arrays.committing.SEGMENT_BYTES", 1 << 18):
        buffer = short_story(path)
        segment = path / "journal/log/0"
        before = segment.stat().st_size
        append(buffer, 2, run(2, 9), "terminated")
        buffer.commit()
        after = segment.stat().st_size
        buffer.abandon()
    os.truncate(segment, (before + after) // 2)


def killed(path: Path) -> None:
    """Killed when the rows of a commit were there, and its record was to follow."""
    child = os.fork()
    if not child:
        buffer = short_story(path)
        append(buffer, 2, run(2, 9), "terminated")
        kill: Any = lambda _: os.kill(os.getpid(), signal.SIGKILL)  # noqa: E731
        buffer.store.container.append_record = kill  # type: ignore[method-assign]
        buffer.commit()
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


def strange(path: Path) -> None:
    """As a newer minor version, and other software, leave a store: see tests/newer_stores.py."""
    buffer = short_story(path)
    append(buffer, 2, run(2, 9), "terminated")
    with_strange_rows(buffer, buffer.commit)
    append(buffer, 3, run(3, 5))
    buffer.commit()
    change_document(buffer, strange_document)


STORES = {
    "live.zarr": live,
    "ring.zarr": ring,
    "ragged.zarr": ragged,
    "archive.zarr.zip": archive,
    "live.h5": live,
    "torn.zarr": torn,
    "killed.zarr": killed,
    "strange.zarr": strange,
}


def make(folder: Path) -> None:
    """All of them, in a folder that is not there yet."""
    if folder.exists():
        sys.exit(f"{folder} is there: what version 1 of the format is, is never made again")
    folder.mkdir(parents=True)
    with small_files():
        for name, tell in STORES.items():
            with patch.object(committing, "SEGMENT_BYTES", 1 << 16) if name == "live.h5" else nullcontext():
                tell(folder / name)
    for path in [path for path in folder.rglob("*") if path.is_dir() and not any(path.iterdir())]:
        path.rmdir()  # which git does not keep
    for name in STORES:
        files = [file for file in [folder / name, *(folder / name).rglob("*")] if file.is_file()]
        size = sum(file.stat().st_size for file in files)
        print(f"{size:8} bytes in {len(files):3} files: {name}")
        assert size < MOST_BYTES, name


def describe(folder: Path) -> None:
    """With which commit and versions they were made, and the digests of all files."""
    commit = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=CHECKOUT, capture_output=True, text=True, check=True
    )
    versions = {
        name: importlib.metadata.version(name) for name in ("numpy", "h5py", "numcodecs", "zstandard", "isal")
    }
    lines = [
        "# Version 1 of the stored form",
        "",
        "Written once, by `scripts/format_one.py`; never to be made again.",
    ]
    lines += ["What is in them says tests/format_one.py; tests/test_format_one.py reads them.", ""]
    lines += [
        f"* commit {commit.stdout.strip()}",
        f"* Python {platform.python_version()}, {platform.machine()}",
    ]
    lines += [f"* {name} {version}" for name, version in versions.items()]
    lines += [
        "",
        *(f"* `{name}`: {' '.join((tell.__doc__ or '').split())}" for name, tell in STORES.items()),
        "",
    ]
    (folder / "MADE.md").write_text("\n".join(lines))
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    digests = [
        f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.relative_to(folder)}\n" for path in files
    ]
    sums = folder.with_name(folder.name + ".sha256")
    sums.write_text("".join(digests))
    print(f"{hashlib.sha256(sums.read_bytes()).hexdigest()}  {sums.name}")


if __name__ == "__main__":
    chosen = Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER
    make(chosen)
    describe(chosen)
