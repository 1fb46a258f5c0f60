"""Version 1 of the format, for ever: the stores of tests/data/format-1 were written once, and every later
version opens them, finds in them what tests/format_one.py says, goes on from them and converts them."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]  # its annotations are a package of their own
import pytest
from format_one import TOLD, Told, agent_space, columns, env, observations, run, seed, split
from independent_reader import Store
from newer_stores import FOREIGN, MORE, NOTES, TOMORROW

import replaystore as rs
from replaystore.errors import UnsupportedError
from replaystore.schema import document
from replaystore.testing.contents import Contents, bits

HERE = Path(__file__).parent
FOLDER = HERE / "data" / "format-1"
SUMS = HERE / "data" / "format-1.sha256"
SHA256 = "025b675504a83f841796689cb7a0597ddfd7ceaf714824e082f5674f83453821"
"""Of the list of the digests of all files."""
TORN = "bytes after commit 2 are no valid record"
NEW = run(22, 5)
"""Steps that are appended to copies."""


@pytest.fixture(params=TOLD)
def place(request: pytest.FixtureRequest) -> Path:
    """Each of the stores, as it lies in the checkout."""
    return FOLDER / request.param


@pytest.fixture
def copied(place: Path, tmp_path: Path) -> Path:
    """A copy of it that may be written to."""
    for found in FOLDER.glob(place.name + "*"):
        copy = shutil.copytree if found.is_dir() else shutil.copyfile
        copy(found, tmp_path / found.name)  # type: ignore[operator]
    return tmp_path / place.name


def test_every_file_is_as_it_was_written() -> None:
    assert hashlib.sha256(SUMS.read_bytes()).hexdigest() == SHA256
    told = dict(reversed(line.split("  ", 1)) for line in SUMS.read_text().splitlines())
    files = [path for path in FOLDER.rglob("*") if path.is_file()]
    assert {path.relative_to(FOLDER).as_posix() for path in files} == told.keys()
    for name, digest in told.items():
        assert hashlib.sha256((FOLDER / name).read_bytes()).hexdigest() == digest, name


def test_they_are_not_made_again() -> None:
    script = HERE.parent / "scripts" / "format_one.py"
    ended = subprocess.run([sys.executable, script], capture_output=True, text=True, check=False)
    assert (ended.returncode, "never made again" in ended.stderr) == (1, True)


# --- what they hold


def differing(told: Told, buffer: Any) -> list[str]:
    """What a buffer shows otherwise than it was told."""
    found, contents = list[str](), Contents.of(buffer)
    for name, declared in buffer.schema.fields.items():
        expected = [bits(told.value(name, declared, step)) for step in told.rows]
        if [bits(value) for value in contents.columns[name]] != expected:
            found.append(f"the steps of {name}")
    found += _table(told, buffer, contents)
    numbers = [*told.ended, *told.going]
    for number, story in zip(numbers, contents.stories, strict=True):
        after = told.after(told.steps(number)[-1])
        for name in buffer.schema.names("observation"):
            declared, final = buffer.schema.fields[name], story.final_observation
            if (final is None) != (after is None):
                found.append(f"whether something follows trajectory {number}")
            elif final is not None and bits(final[name]) != bits(told.value(name, declared, after or 0)):
                found.append(f"what follows trajectory {number} in {name}")
            seen = story.columns[name]
            steps = [bits(told.value(name, declared, step)) for step in told.steps(number)]
            if [bits(value) for value in seen] != steps:
                found.append(f"{name} of trajectory {number}")
    return found


def _table(told: Told, buffer: Any, contents: Contents) -> list[str]:
    """In which columns trajectories are others than they were told."""
    numbers = [*told.ended, *told.going]
    flags = [told.ended.get(number, "").split() for number in numbers]
    expected: dict[str, list[Any]] = {
        "trajectory": numbers,
        "env": [env(number) for number in numbers],
        "length": [told.whole.get(number, len(told.steps(number))) for number in numbers],
        "seed": [seed(number) for number in numbers],
        "split": [split(number) for number in numbers],
        "open": [number in told.going for number in numbers],
        "terminated": ["terminated" in known for known in flags],
        "truncated": ["truncated" in known for known in flags],
    }
    if "return" in contents.table:
        reward, returns = buffer.schema.fields["reward"], []
        for number in numbers:
            whole = run(number, told.whole[number]) if number in told.whole else told.steps(number)
            returns.append(sum(float(told.value("reward", reward, step)) for step in whole))
        expected["return"] = returns
    shown = contents.table
    return [f"{name} of trajectories" for name, rows in expected.items() if shown[name].tolist() != rows]


def test_it_opens_verifies_and_is_what_it_was_told(place: Path) -> None:
    told = TOLD[place.name]
    problems = [problem.what for problem in rs.verify(place).problems]
    assert [TORN in what for what in problems] == ([True] if place.name == "torn.zarr" else []), problems
    with rs.open(place) as buffer:
        assert differing(told, buffer) == []
        if not place.name.startswith("archive"):  # conversions have no older commits
            assert buffer.names == list(told.names)
    for name, rows in told.names.items() if not place.name.startswith("archive") else ():
        with rs.open(place, commit=name) as buffer:
            fields = buffer.schema.fields
            shown = [bits(value) for value in buffer.read(slice(None), ["info/tokens"])["info/tokens"]]
            assert shown == [bits(told.value("info/tokens", fields["info/tokens"], step)) for step in rows]


def test_the_independent_reader_finds_the_same(place: Path) -> None:
    told, store = TOLD[place.name], Store(place)
    store.check()
    fields = rs.open(place).schema.fields
    schema = {**document.json_schema(), "additionalProperties": True}
    if place.name != "strange.zarr":  # which has keys that only a newer version knows
        jsonschema.Draft202012Validator(schema).validate(store.document)
    assert set(store.fields) == set(fields)
    for name, declared in fields.items():
        expected = [bits(told.value(name, declared, step)) for step in told.rows]
        assert [bits(value) for value in store.column(name)] == expected, name
    for name in [name for name, declared in fields.items() if declared.role == "observation"]:
        after, known = store.following(name), {}
        for row, step in enumerate(told.rows, store.first):
            if (number := told.after(step)) is not None:
                known[row] = bits(told.value(name, fields[name], number))
        assert {row: bits(value) for row, value in after.items()} == known, name
    table = store.trajectories()
    ended = [list(table["trajectory"]).index(number) for number in told.ended]
    assert [store.state.extra["splits"][code] for code in table["split"][ended]] == [
        split(n) for n in told.ended
    ]
    assert table["seed"][ended].tolist() == [seed(number) for number in told.ended]
    assert store.open_trajectories()[:, 0].tolist() == told.going


def test_spaces_of_gymnasium_and_what_nobody_knows_of_are_there() -> None:
    with rs.open(FOLDER / "ragged.zarr") as buffer:
        assert buffer.schema.observation_space() == agent_space()
        assert max(buffer["action"].lengths[:]) == 2700
        assert min(buffer["action"].lengths[:]) == 0
    with rs.open(FOLDER / "strange.zarr") as buffer:
        kept = buffer.document.to_json()
        assert kept["format_version"] == "1.7"
        for section in (
            kept,
            kept["schema"],
            kept["layout"],
            kept["schema"]["fields"][0],
            kept["provenance"],
        ):
            assert (FOREIGN | TOMORROW).items() <= section.items()
        assert buffer.store.state.more == MORE
        assert buffer.store.table("notes/a%2Eb/sum").tolist() == [row / 4 for row in range(NOTES)]
    with rs.open(FOLDER / "live.zarr") as buffer:
        assert buffer.metadata == {"made": [1, "é", None]}
        grades = buffer.trajectories["grade"].tolist()
        assert grades[:5] == [0, 0.25, 0.5, 0.75, 1]


# --- going on from them


def test_a_copy_goes_on(copied: Path) -> None:
    if copied.name.startswith("archive"):
        with pytest.raises(UnsupportedError):
            rs.open(copied, "r+")
        return
    told = TOLD[copied.name]
    with rs.open(copied, "r+") as buffer:
        before = buffer.document.to_json()
        buffer.append(
            columns(buffer.schema, NEW, {NEW[-1]: "terminated"}),
            env=env(22),
            split=split(22),
            final_observation=observations(buffer.schema, [NEW[-1] + 1]),
        )
        buffer.commit("new")
    assert rs.verify(copied).problems == []
    with rs.open(copied) as buffer:
        assert buffer.document.to_json() == before
        fields, rows = buffer.schema.fields, (told.rows + NEW)[-(buffer.capacity or 1 << 30) :]
        grown = Told(
            told.rows + NEW, {**told.ended, 22: "terminated"}, told.going, scored=told.scored, late=told.late
        )
        for name, declared in fields.items():
            expected = [bits(grown.value(name, declared, step)) for step in rows]
            assert [bits(value) for value in buffer.read(slice(None), [name])[name]] == expected, name
    assert Store(copied).state.names["new"] == Store(copied).state.commit
    store = Store(copied)
    store.check()


def test_it_is_converted_to_the_other_container(place: Path, tmp_path: Path) -> None:
    target = tmp_path / ("b.zarr" if place.suffix == ".h5" else "b.h5")
    rs.convert(place, target)
    assert rs.verify(target).problems == []
    with rs.open(target) as buffer:
        found = differing(TOLD[place.name], buffer)
    if (
        place.name == "ring.zarr"
    ):  # the rest of trajectories that have lost steps is what they are from now on
        found = [what for what in found if what not in ("length of trajectories", "return of trajectories")]
    assert found == []
