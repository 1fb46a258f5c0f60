"""Stores, ways to damage them, and children that look at what is left: a crash of the interpreter or a hang
is a finding like others."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

import h5py
import numpy as np
import zarr
from damages import Damage, Files, choose

import replaystore as rs
from replaystore.errors import FormatError, NotFoundError, ReplayStoreError, ReplayStoreWarning
from replaystore.testing import Contents, samples
from replaystore.testing.crashes import forked, tiny

SECONDS = 30
"""How long looking at one damaged store may take."""


# --- stores


def make(path: Path, layout: str, seed: int = 1) -> None:
    """A closed store with several commits, ended and open trajectories, columns of the user's, and chunks and
    shards that are not full."""
    schema = samples.small()
    codec = "gzip:1" if path.suffix == ".h5" else "zstd:1"
    storage = samples.storage(codec)
    if layout == "archive":
        storage["info/wide"]["codec"] = codec
    with (
        tiny(),
        rs.create(path, schema, layout=layout, storage=storage, metadata={"made": [seed, "é"]}) as buffer,
    ):  # type: ignore[arg-type]
        for env in range(3):
            columns = samples.columns(schema, 13 + env, 10 * seed + env, ends=0.3)
            flags = columns["terminated"] | columns["truncated"]
            touched = int(flags.sum()) + (not flags[-1])
            finals = samples.columns(schema, touched, 10 * seed + env + 5)
            observation = schema.unflatten(
                {name: finals[name] for name in schema.names("observation")}, "observation"
            )
            buffer.append(columns, env=env, final_observation=observation, split=f"split{env}")
            buffer.commit()
        ended = int((~buffer.trajectories["open"]).sum())
        buffer.set_trajectory_column("score", np.arange(ended) / 3)
        last = samples.columns(schema, 1, seed + 7, ends=0)
        following = schema.unflatten(
            {name: last[name] for name in schema.names("observation")}, "observation"
        )
        buffer.append(last, env=3, final_observation=following)


def contents(path: Path) -> tuple[Contents, dict[str, Any]]:
    """All that our reader shows."""
    with warnings.catch_warnings(action="ignore", category=ReplayStoreWarning), rs.open(path) as buffer:
        return Contents.of(buffer), dict(buffer._document.to_json())


def foreign(path: Path) -> dict[str, Any]:
    """All that zarr-python or h5py shows, but for the journal, which is not for them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = _by_h5py(path) if path.suffix == ".h5" else _by_zarr(path)
    return {name: values for name, values in found.items() if not name.startswith("journal")}


def _by_zarr(path: Path) -> dict[str, Any]:
    root = zarr.open_group(str(path), mode="r")
    found: dict[str, Any] = {"": dict(root.attrs)}
    for name, node in root.members(max_depth=None):
        if isinstance(node, zarr.Array):
            values = np.asarray(node[:])
            dimensions = getattr(node.metadata, "dimension_names", None)
            found[name] = values.dtype.str, values.shape, values.tobytes(), dict(node.attrs), dimensions
        else:
            found[name] = dict(node.attrs)
    return found


def _by_h5py(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = {}

    def note(name: str, node: Any) -> None:
        attributes = {key: node.attrs[key] for key in node.attrs}
        shown = {
            key: value.tolist() if isinstance(value, np.ndarray) else value
            for key, value in attributes.items()
            if "REF" not in repr(value)
        }
        found[name] = str(shown)
        if isinstance(node, h5py.Dataset) and not name.startswith("journal"):
            values = node[:]
            found[name] = values.dtype.str, values.shape, values.tobytes(), node.compression, node.chunks

    with h5py.File(path, "r") as file:
        note("", file)
        file.visititems(note)
    return found


# --- looking


@dataclass
class Store:
    """A store that is damaged and mended again and again: all of a folder, or one file in it."""

    path: Path
    files: dict[str, bytes] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.files = self.content()

    def content(self) -> dict[str, bytes]:
        if self.path.is_file():
            return {"": self.path.read_bytes()}
        return {
            str(path.relative_to(self.path)): path.read_bytes()
            for path in sorted(self.path.rglob("*"))
            if path.is_file()
        }

    def change(self, contents: Mapping[str, bytes | None]) -> None:
        for name, data in contents.items():
            place = self.path / name if name else self.path
            if data is None:
                place.unlink()
            else:
                place.write_bytes(data)

    def listed(self) -> list[str]:
        return sorted(os.listdir(self.path.parent)) + sorted(str(path) for path in self.path.rglob("*"))


def campaign(path: Path, others: Files, damages: Sequence[Damage], *, archive: bool) -> list[str]:
    """Do all these damages to a store, one after another, in a child: a line for each that is not treated as
    it should be."""
    findings: list[str] = []
    done = 0
    while done < len(damages):
        status, told = forked(
            lambda tell, done=done: _look_at_all(path, others, damages[done:], archive, tell)
        )  # type: ignore[misc]
        if not told or isinstance(told[-1], str):
            return [*findings, told[-1] if told else f"status {status}"]
        for begun, finding in told:
            if finding:
                findings.append(f"{damages[done + begun]}: {finding}")
        begun, finding = told[-1]
        if status:
            findings.append(
                f"{damages[done + begun]}: "
                + ("it hangs" if status == -signal.SIGALRM else (f"it kills the interpreter ({status})"))
            )
        done += begun + 1
    return findings


def _look_at_all(
    path: Path, others: Files, damages: Sequence[Damage], archive: bool, tell: Callable[[Any], None]
) -> None:
    store = Store(path)
    expected = contents(path), foreign(path)
    for number, damage in enumerate(damages):
        tell((number, ""))
        # Nobody handles it: it ends this process wherever that is.
        signal.setitimer(signal.ITIMER_REAL, SECONDS)
        changed = damage.of(store.files, others)
        store.change(changed)
        listed = store.listed()
        names = (
            (path.name,) if path.is_file() or damage.name.endswith("manifest-sha256.txt") else tuple(changed)
        )
        finding = examine(store, expected, archive=archive, names=names)
        if not finding and store.listed() != listed:
            finding = "looking at it has changed it"
        tell((number, finding))
        store.change({name: store.files[name] for name in changed})
    if store.content() != store.files:
        raise AssertionError("looking at a store has changed it")


def examine(store: Store, expected: tuple[Any, Any], *, archive: bool, names: tuple[str, ...]) -> str:
    """What is wrong with how a damaged store is treated; empty if nothing is."""
    reported, problem = _verified(store)
    if problem:
        return problem
    shown, problem = _read(store, expected[0])
    if problem:
        return problem
    if archive and shown.startswith("wrong"):
        return f"the archive gives {shown}"
    if archive and shown != "right" and not any(name in shown for name in names):
        return f"the file is not named in: {shown}"
    if reported:
        return ""
    if shown != "right":
        return f"verify finds nothing, but reading gives {shown}"
    try:
        shown = foreign(store.path)
        same = shown.keys() == expected[1].keys() and all(
            _as_committed(expected[1][name], shown[name]) for name in shown
        )
    except Exception as error:  # noqa: BLE001  # of any kind
        return f"verify finds nothing, but other software cannot read it: {error!r}"
    return "" if same else "verify finds nothing, but other software sees something else"


def _as_committed(expected: Any, shown: Any) -> bool:
    """Whether other software sees what was committed, or the first rows of it, as it does while nobody has
    published the rest."""
    if expected == shown or not (isinstance(expected, tuple) and isinstance(shown, tuple)):
        return bool(expected == shown)
    (dtype, shape, data, *rest), (kind, short, first, *more) = expected, shown
    return (
        (dtype, shape[1:], rest) == (kind, short[1:], more)
        and short[0] <= shape[0]
        and data.startswith(first)
    )


def _verified(store: Store) -> tuple[bool, str]:
    """Whether verify reports anything, and what is wrong with how it does that."""
    with patch(
        "replaystore.checking.verify._probe", lambda *_: True
    ):  # we are in a process of our own already
        try:
            return bool(rs.verify(store.path).problems), ""
        except (NotFoundError, FormatError) as error:
            return True, _one_line(error)
        except BaseException as error:  # noqa: BLE001  # of any kind
            return True, f"verify raises {_place(error)}"


def _read(store: Store, expected: tuple[Contents, dict[str, Any]]) -> tuple[str, str]:
    """ "right", or what is wrong with the values, or the error; and what is wrong with that error."""
    try:
        found, document = contents(store.path)
    except ReplayStoreError as error:
        kinds = (FormatError, NotFoundError)
        return str(error), _one_line(error) if isinstance(error, kinds) else f"reading raises {_place(error)}"
    except BaseException as error:  # noqa: BLE001  # of any kind
        return "", f"reading raises {_place(error)}"
    difference = expected[0].difference(found) or ("" if document == expected[1] else "wrong document")
    return ("wrong " + difference if difference else "right"), ""


def _one_line(error: BaseException) -> str:
    return f"the message has more than one line: {error}" if "\n" in str(error) else ""


def _place(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    return f"{error!r} at " + " < ".join(
        f"{os.path.basename(frame.filename)}:{frame.lineno}" for frame in frames[:-4:-1]
    )


def main() -> int:
    """Print what was found; the exit status says whether anything was."""
    parser = argparse.ArgumentParser(description="Damage stores, and see that no damage goes unnoticed.")
    parser.add_argument("suffix", choices=[".zarr", ".h5"])
    parser.add_argument("layout", choices=["live", "archive"])
    parser.add_argument("--cases", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path, other = (Path(folder) / name / ("store" + options.suffix) for name in ("one", "other"))
        for seed, place in enumerate((path, other)):
            status, told = forked(lambda _, place=place, seed=seed: make(place, options.layout, seed))  # type: ignore[misc]
            if status:
                sys.stdout.write(told[-1])
                return 1
        files, others = Store(path).files, Store(other).files
        damages = choose(files, others, options.cases, options.seed)
        findings = campaign(path, others, damages, archive=options.layout == "archive")
    sys.stdout.write(
        "".join(f"{finding}\n" for finding in findings)
        + (f"{len(damages)} damages, {len(findings)} findings\n")
    )
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
