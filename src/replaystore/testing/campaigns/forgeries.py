"""Forged stores: `verify` says that something is not in its place, or nothing has changed that anybody
could see.

Small closed stores of each container and mode are forged, one part at a time
(`replaystore.testing.forging`). A forgery that `verify` does not report must change nothing: all rows,
trajectories and tables of every commit, the commits themselves, the schema and the metadata are what they
were. Of half of the forged archives the manifest, and what is beside it, are made anew: then only the
checksums in the log can tell.

What cannot be known, since it is a store that somebody could have recorded:

* an older copy of a whole store in its place;
* metadata of the user's in a live store, which are not part of a commit, as they were before;
* rows, with every checksum that speaks of them: those in the log, whose records have a checksum, but no
  signature.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice, zip_longest
from pathlib import Path
from typing import Any, Literal
from unittest.mock import patch

import numpy as np

from replaystore.arrays.sealing import MANIFEST, SIDECAR
from replaystore.buffers import create_open as buffers
from replaystore.checking.verify import verify
from replaystore.errors import ReplayStoreError, ReplayStoreWarning
from replaystore.storage.local import Files
from replaystore.storage.zip import pack
from replaystore.testing.campaigns import Tally
from replaystore.testing.contents import Contents
from replaystore.testing.crashes import forked, tiny
from replaystore.testing.forging import Forger, Forgery
from replaystore.testing.interruption import limited
from replaystore.testing.samples import columns, small, storage

__all__ = ["PROMISE", "control", "run"]

PROMISE = "what is not in its place is reported by verify"
SECONDS = 20
"""How long looking at one forged store may take."""


Everything = tuple[dict[int, Contents], str]
"""All that a store shows: each commit, and what is said of the whole."""


@dataclass(frozen=True)
class Mode:
    """A kind of store."""

    name: str
    suffix: str
    layout: Literal["live", "archive"] = "live"
    capacity: int | None = None
    zipped: bool = False
    ragged: bool = False
    """Whether there are fields of any length."""


MODES = (
    Mode("zarr", ".zarr"),
    Mode("ragged zarr", ".zarr", ragged=True),
    Mode("ring", ".zarr", capacity=40),
    Mode("ragged ring", ".zarr", capacity=40, ragged=True),
    Mode("hdf5", ".h5"),
    Mode("ragged hdf5", ".h5", ragged=True),
    Mode("archive", ".zarr", "archive"),
    Mode("ragged archive", ".zarr", "archive", ragged=True),
    Mode("hdf5 archive", ".h5", "archive"),
    Mode("ragged hdf5 archive", ".h5", "archive", ragged=True),
    Mode("zip", ".zarr", "archive", zipped=True),
    Mode("ragged zip", ".zarr", "archive", zipped=True, ragged=True),
)


def run(folder: str, *, count: int, seed: int) -> Tally:
    """Forge so many stores."""
    return _campaign(folder, MODES, count, seed)


def control(folder: str, *, seed: int) -> Tally:
    """A `verify` that does not compare raw rows with their checksums."""
    with patch("replaystore.checking.verify.check_raw", lambda *_: None):
        return _campaign(folder, MODES[:1], 400, seed)


def _campaign(folder: str, modes: Sequence[Mode], count: int, seed: int) -> Tally:
    tally, generator = Tally(), np.random.default_rng(seed)
    for number in range(count):
        left = count - tally.tried
        if left <= 0:
            break
        mode = modes[number % len(modes)]
        place = Path(folder, f"{number}-{mode.name}")
        place.mkdir()
        most = max(40, -(-count // len(modes)))
        tally.add(_forge(mode, place, min(left, most), generator))
        shutil.rmtree(place)
    return tally


def _forge(mode: Mode, folder: Path, count: int, generator: np.random.Generator) -> Tally:
    """Up to so many forgeries of one store, in children."""
    path, other = folder / f"one{mode.suffix}", folder / f"other{mode.suffix}"
    number = int(generator.integers(1 << 20))
    status, told = forked(lambda _: _record_both(mode, path, other, number))
    if status:
        raise AssertionError(f"{mode.name} cannot be recorded: {told[-1]}")
    forger = Forger(path, other)
    chosen = _choose(forger, count, generator)
    sealed_again = generator.random(len(chosen)) < 0.5
    tally, done = Tally(), 0
    while done < len(chosen):
        rest = list(zip(chosen[done:], sealed_again[done:].tolist(), strict=True))
        status, told = forked(partial(_look_at_all, mode, path, forger, rest))
        answers = [message for message in told if isinstance(message, tuple)]
        for at, problem in answers:
            if problem:
                how = " (sealed again)" if rest[at][1] and mode.layout == "archive" else ""
                tally.failures.append(f"{mode.name}: {rest[at][0]}{how}: {problem}")
        if not answers:
            raise AssertionError(f"{mode.name}: {told[-1] if told else status}")
        last = answers[-1][0]
        if status:
            how = " < ".join(str(told[-1]).strip().splitlines()[-1:-8:-1]) if status == 1 else _end(status)
            tally.failures.append(f"{mode.name}: {rest[last][0]}: {how}"[:500])
        done += last + 1
    for forgery in chosen:
        tally.count(forgery.kind)
    return tally


def _choose(forger: Forger, count: int, generator: np.random.Generator) -> list[Forgery]:
    """Up to so many, of each kind as many as there are, or as of the others."""
    forgeries, kinds = list(forger.all()), dict[str, list[Forgery]]()
    for at in generator.permutation(len(forgeries)).tolist():
        kinds.setdefault(forgeries[at].kind, []).append(forgeries[at])
    turns = zip_longest(*(kinds[kind] for kind in sorted(kinds)))
    found = (forgery for turn in turns for forgery in turn if forgery is not None)
    return list(islice((forgery for forgery in found if forger.changes(forgery)), count))


def _end(status: int) -> str:
    return "it hangs" if status == -signal.SIGALRM else f"it kills the interpreter ({status})"


def _record_both(mode: Mode, path: Path, other: Path, seed: int) -> None:
    _record(mode, path, seed)
    _record(mode, other, seed + 1)


def _record(mode: Mode, path: Path, seed: int) -> None:
    """A closed store of some commits, with open trajectories, and chunks and shards that are not full."""
    codec = "gzip:1" if mode.suffix == ".h5" else "zstd:1"
    settings, schema = storage(codec, ragged=mode.ragged), small(ragged=mode.ragged)
    if mode.layout == "archive":
        settings["info/wide"]["codec"] = codec
    origin = {"seed": seed}
    with (
        tiny(),
        buffers.create(
            path,
            schema,
            storage=settings,
            layout=mode.layout,
            capacity=mode.capacity,
            metadata=origin,
            provenance=origin,
        ) as buffer,
    ):
        for number in range(5):
            rows = columns(schema, 11 + number, 100 * seed + number, ends=0.3)
            buffer.append(rows, env=number % 2, split=f"split{number % 2}")
            buffer.commit()
        ended = int((~buffer.trajectories["open"]).sum())
        buffer.set_trajectory_column("score", np.arange(ended) / 3)
        buffer.append(columns(schema, 5, seed + 7, ends=0), env=2)


# --- in a child


def _look_at_all(
    mode: Mode,
    path: Path,
    forger: Forger,
    chosen: Sequence[tuple[Forgery, bool]],
    tell: Callable[[Any], None],
) -> None:
    """Forge, look, and mend, one after another; tells (number, problem) before and after each."""
    files = forger.files
    _write(path, files)  # a child that was killed has left a forged store
    place = Path(f"{path}.zip") if mode.zipped else path
    if mode.zipped:
        _pack(path, place)
    beside = Path(f"{place}{SIDECAR}")
    sidecar = beside.read_bytes() if beside.exists() else None
    alone = patch("replaystore.checking.verify._probe", lambda *_: True)  # in a process of our own already
    with tiny(), alone:
        expected = _everything(place)
        if verify(place).problems:
            raise AssertionError(f"a store that is not forged: {verify(place).problems[0]}")
        for number, (forgery, sealed_again) in enumerate(chosen):
            tell((number, ""))
            limited(SECONDS)
            changes = forger.changes(forgery)
            _write(path, changes)
            if sealed_again:
                _seal_again(path, changes)
            if mode.zipped:
                _pack(path, place)
            if sealed_again and sidecar is not None:
                beside.write_text(f"{hashlib.sha256(place.read_bytes()).hexdigest()}  {place.name}\n")
            elif sidecar is not None:
                beside.write_bytes(sidecar)
            problem = _problem(place, expected)
            if problem:
                tell((number, problem))
            _write(path, {name: files.get(name) for name in (*changes, MANIFEST) if name in files})


def _problem(place: Path, expected: Everything) -> str:
    """What is wrong with how a forged store is treated; empty if nothing is."""
    try:
        if verify(place).problems:
            return ""
    except ReplayStoreError:
        return ""
    try:
        with warnings.catch_warnings(action="ignore", category=ReplayStoreWarning):
            seen = _everything(place)
    except ReplayStoreError as error:
        return f"verify finds nothing, and reading says {type(error).__name__}: {error}"[:300]
    (mine, said), (theirs, says) = expected, seen
    if said != says:
        return f"verify finds nothing, and the document is {says}"[:300]
    if mine.keys() != theirs.keys():
        return f"verify finds nothing, and there are commits {sorted(theirs)} instead of {sorted(mine)}"
    for commit in mine:
        difference = mine[commit].difference(theirs[commit])
        if difference:
            return f"verify finds nothing, and commit {commit} shows {difference}"[:300]
    return ""


def _everything(place: Path) -> Everything:
    """All that a store shows: each commit, and what is said of the whole."""
    with buffers.open(place) as reader:
        newest = reader.commit_id
        commits = {newest: Contents.of(reader)}
        known = [entry.commit for entry in reader._store.commits()]
        said = json.dumps(reader._document.to_json(), sort_keys=True)
    for commit in known:
        if commit not in commits:
            with buffers.open(place, commit=commit) as reader:
                commits[commit] = Contents.of(reader)
    return commits, said


def _write(path: Path, contents: Mapping[str, bytes | None]) -> None:
    for name, data in contents.items():
        place = path / name if name else path
        if data is None:
            place.unlink(missing_ok=True)
        else:
            place.write_bytes(data)


def _seal_again(path: Path, changes: Mapping[str, bytes | None]) -> None:
    """Make the manifest of an archive say what there is now."""
    manifest = path / MANIFEST
    if path.is_file() or not manifest.exists():
        return
    lines = {line[66:]: line[:64] for line in manifest.read_text().splitlines()}
    for name, data in changes.items():
        lines.pop(name, None)
        if data is not None and name != MANIFEST:
            lines[name] = hashlib.sha256(data).hexdigest()
    manifest.write_text("".join(f"{digest}  {name}\n" for name, digest in sorted(lines.items())))


def _pack(folder: Path, target: Path) -> None:
    lock = frozenset({"journal/log/lock"})
    pack(Files(os.fspath(folder), writable=False), os.fspath(target), leave_out=lock)
