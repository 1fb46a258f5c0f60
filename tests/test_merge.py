"""Several buffers into one: `replaystore.merge`."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from commands import Run

import replaystore as rs
from replaystore import errors
from replaystore.formats.report import changed, made_up
from replaystore.gymnasium import Record
from replaystore.testing import difficult
from replaystore.testing.promises import Things, untrue
from replaystore.testing.trajectories import trajectories

pytest_plugins = ["commands"]

ADDED = {"source": made_up("x"), "source_trajectory": made_up("x")}
CUT = {"open": changed("x")}
SCHEMA = rs.Schema(
    {
        "observation": rs.Field("float32", (2,), "observation"),
        "reward": rs.Field("float64", (), "reward"),
        "terminated": rs.Field("bool", (), "terminated"),
        "truncated": rs.Field("bool", (), "truncated"),
    }
)


class _StoppedError(Exception):
    """The user has stopped it."""


def things(location: object) -> Things:
    with rs.open(str(location)) as buffer:
        return Things.of(buffer)


def store(location: object, *, schema: rs.Schema = SCHEMA, seed: int = 0, count: int = 3, **more: Any) -> str:
    with rs.create(str(location), schema, **more) as buffer:
        for one in trajectories(schema, count, seed):
            one.append(buffer)
    return str(location)


def difficulties(folder: Path, name: str) -> list[str]:
    """Two stores of one kind, which have nothing in common."""
    found = [str(folder / "a.zarr"), str(folder / "b.h5")]
    for place, seed in zip(found, (1, 50), strict=True):
        difficult.made(place, name, seed)
    return found


@pytest.mark.parametrize("target", ["m.zarr", "m.h5", "m.zarr.zip"])
@pytest.mark.parametrize("name", ["everything", "loose", "empty"])
def test_all_that_is_known_of_every_source_is_kept(tmp_path: Path, name: str, target: str) -> None:
    sources, merged = difficulties(tmp_path, name), str(tmp_path / target)

    report = rs.merge(sources, merged)

    found, rest = things(merged), ADDED | (CUT if name != "empty" else {})
    first = 0
    loose = 0
    for source in sources:
        given = things(source)
        loose += len(given.loose["reward"])
        last = first + len(given.lengths)
        part = found.ordered(range(first, last))
        if name != "loose":
            assert untrue(given, part, {}, rest) == []
        first = last
    assert first == len(found.lengths) == report.trajectories
    assert len(found.loose["reward"]) == loose == (6 if name == "loose" else 0)
    assert rs.verify(merged).problems == []
    with rs.open(merged) as buffer:
        assert len(buffer) == report.steps
        assert buffer.metadata == difficult.METADATA
        assert (buffer.environment or {})["id"] == difficult.ENVIRONMENT


@pytest.mark.parametrize("layout", ["live", "archive"])
@pytest.mark.parametrize("codec", [None, "zstd:3"])
def test_sources_and_targets_are_of_any_layout(tmp_path: Path, layout: Any, codec: str | None) -> None:
    """Chunks that are copied as they are end where those of another source begin."""
    schema = difficult.DIFFICULT["everything"].schema()
    sources = [str(tmp_path / f"{number}.zarr") for number in range(3)]
    for number, place in enumerate(sources):
        coded = {"reward": {"codec": "zstd:1", "chunk_rows": 16}, "tokens": {"codec": "zstd:1"}}
        store(place, schema=schema, seed=number * 20, count=12, storage=coded)
    sources.append(str(tmp_path / "archive.h5"))
    store(tmp_path / "d.zarr", schema=schema, seed=90, count=12)
    rs.convert(tmp_path / "d.zarr", sources[-1], layout="archive")

    rs.merge(sources, tmp_path / "m.zarr", layout=layout, codec=codec)

    found, first = things(tmp_path / "m.zarr"), 0
    assert rs.verify(tmp_path / "m.zarr").problems == []
    for source in sources:
        given = things(source)
        last = first + len(given.lengths)
        assert untrue(given, found.ordered(range(first, last)), {}, ADDED) == []
        first = last


def test_a_ring_is_taken_as_its_window(tmp_path: Path) -> None:
    ring = store(tmp_path / "ring.zarr", seed=1, count=40, capacity=60)
    other = store(tmp_path / "b.zarr", seed=99)

    rs.merge([other, ring], tmp_path / "m.zarr")

    given, found = things(ring), things(tmp_path / "m.zarr")
    part = found.ordered(range(len(found.lengths) - len(given.lengths), len(found.lengths)))
    assert untrue(given, part, {}, ADDED) == []
    with rs.open(tmp_path / "m.zarr") as merged, rs.open(ring) as window:
        gone = int(window.parts.offset[0])  # steps of the first trajectory that have left the ring
        assert gone > 0
        assert merged.parts.offset[merged.parts.parts_of(3)].tolist() == [gone]
        assert merged.provenance["source"]["sources"][1]["ring"] == {"capacity": 60}


# --- duplicates


def test_what_an_earlier_source_has_too_is_left_out_and_counted(tmp_path: Path) -> None:
    a = store(tmp_path / "a.zarr", seed=1, count=9)
    b = store(tmp_path / "b.zarr", seed=77, count=4)
    rs.convert(a, tmp_path / "c.h5", layout="archive")
    both = rs.merge([a, b], tmp_path / "ab.zarr")

    report = rs.merge([a, tmp_path / "c.h5", tmp_path / "ab.zarr"], tmp_path / "m.zarr")
    kept = rs.merge([a, tmp_path / "c.h5"], tmp_path / "k.zarr", keep_duplicates=True)

    assert both.trajectories == report.trajectories == 13
    assert kept.trajectories == 18
    assert [note for note in report.notes if "left out" in note] == [
        f"{tmp_path / 'c.h5'}: 9 of 9 trajectories are left out, because an earlier source has them too",
        f"{tmp_path / 'ab.zarr'}: 9 of 13 trajectories are left out, because an earlier source has them too",
    ]


def test_what_happened_twice_in_one_source_did(tmp_path: Path) -> None:
    rows = {"observation": np.ones((2, 2), np.float32), "reward": np.ones(2)}
    rows |= {name: np.array([False, name == "truncated"]) for name in ("terminated", "truncated")}
    with rs.create(tmp_path / "a.zarr", SCHEMA) as buffer:
        for _ in range(3):
            buffer.append(rows)
    store(tmp_path / "b.zarr", seed=5)

    report = rs.merge([tmp_path / "a.zarr", tmp_path / "b.zarr"], tmp_path / "m.zarr")

    assert report.trajectories == 6


@pytest.mark.parametrize(("first", "second", "kept"), [(1, 2, 2), (1, 1, 1), (1, None, 1), (None, 2, 1)])
def test_different_seeds_are_different_trajectories(
    tmp_path: Path, first: int | None, second: int | None, kept: int
) -> None:
    """Of an environment where little happens, two may look the same."""
    rows = {"observation": np.ones((2, 2), np.float32), "reward": np.ones(2)}
    rows |= {name: np.array([False, name == "truncated"]) for name in ("terminated", "truncated")}
    for name, seed in (("a.zarr", first), ("b.zarr", second)):
        with rs.create(tmp_path / name, SCHEMA) as buffer:
            buffer.append(rows, seed=seed)

    report = rs.merge([tmp_path / "a.zarr", tmp_path / "b.zarr"], tmp_path / "m.zarr")

    assert report.trajectories == kept


# --- where it comes from


def test_a_merge_of_merged_stores_names_the_first_sources(tmp_path: Path) -> None:
    a, b, c = (store(tmp_path / f"{name}.zarr", seed=at * 9, count=3) for at, name in enumerate("abc"))
    rs.merge([a, b], tmp_path / "ab.zarr")

    rs.merge([c, tmp_path / "ab.zarr"], tmp_path / "m.h5")

    with rs.open(tmp_path / "m.h5") as merged:
        sources = merged.provenance["source"]["sources"]
        assert [source["location"] for source in sources] == [c, a, b]
        assert sources[1]["provenance"]["created"]
        assert merged.trajectories["source"].tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
        assert merged.trajectories["source_trajectory"].tolist() == [0, 1, 2] * 3
        assert merged.trajectories["trajectory"].tolist() == list(range(9))


def test_columns_of_the_users_of_that_name_stay(tmp_path: Path) -> None:
    a, b = store(tmp_path / "a.zarr", seed=1), store(tmp_path / "b.zarr", seed=2)
    with rs.open(a, "r+") as buffer:
        buffer.set_trajectory_columns({"source": np.arange(3.0), "good": np.ones(3, bool)})

    report = rs.merge([a, b], tmp_path / "m.zarr")

    with rs.open(tmp_path / "m.zarr") as merged:
        np.testing.assert_array_equal(merged.trajectories["source"], [0.0, 1, 2, np.nan, np.nan, np.nan])
        assert merged.trajectories["good"].tolist() == [True] * 3 + [False] * 3
        assert "source_trajectory" not in merged.trajectories
    assert any("of their own" in note for note in report.notes)
    assert any(note.startswith(f"{b}: no column") for note in report.notes)


def test_recordings_of_an_environment_stay_recordings_of_it(tmp_path: Path) -> None:
    """The seeds, the environment and the spaces."""
    for name, seed in (("a.zarr", 7), ("b.zarr", 8)):
        env = gymnasium.make("CartPole-v1")
        with rs.create(tmp_path / name, env) as buffer:
            recorded = Record(env, buffer)
            recorded.reset(seed=seed)
            for _ in range(40):
                *_, terminated, truncated, _ = recorded.step(0)
                if terminated or truncated:
                    recorded.reset(seed=seed + 100)

    report = rs.merge([tmp_path / "a.zarr", tmp_path / "b.zarr"], tmp_path / "m.zarr")

    with rs.open(tmp_path / "a.zarr") as a, rs.open(tmp_path / "m.zarr") as merged:
        assert merged.environment == a.environment
        assert merged.schema == a.schema
        seeds = merged.trajectories["seed"].tolist()
        assert seeds[:2] == [7, 107]
        assert 8 in seeds
    assert "environment" not in report.rest


def test_what_is_not_common_is_said_and_kept_in_the_provenance(tmp_path: Path) -> None:
    a = store(tmp_path / "a.zarr", seed=1, environment="Pendulum-v1", metadata={"run": 1, "who": "me"})
    b = store(tmp_path / "b.zarr", seed=2, environment="CartPole-v1", metadata={"run": 2, "who": "me"})

    report = rs.merge([a, b], tmp_path / "m.zarr")

    with rs.open(tmp_path / "m.zarr") as merged:
        assert merged.environment is None
        assert merged.metadata == {"who": "me"}
        sources = merged.provenance["source"]["sources"]
        assert [source["environment"]["id"] for source in sources] == ["Pendulum-v1", "CartPole-v1"]
        assert [source["metadata"]["run"] for source in sources] == [1, 2]
    assert report.rest["environment"].kind == report.rest["metadata"].kind == "changed"


def test_files_of_other_software_are_sources_too(tmp_path: Path) -> None:
    file = tmp_path / "velora" / "buffer_state.safetensors"
    a = store(tmp_path / "a.zarr", seed=1, schema=difficult.DIFFICULT["plain"].schema())
    rs.convert(a, file, target_format="velora")
    rs.convert(file, tmp_path / "v.zarr")

    report = rs.merge([tmp_path / "v.zarr", file], tmp_path / "m.zarr")

    with rs.open(tmp_path / "v.zarr") as given, rs.open(tmp_path / "m.zarr") as merged:
        assert len(merged) == len(given) == report.steps
        assert merged.provenance["source"]["sources"][1]["location"].endswith("buffer_state.safetensors")
    assert sorted(os.listdir(tmp_path)) == ["a.zarr", "m.zarr", "v.zarr", "velora"]


# --- what is refused


def _other(name: str, field: rs.Field) -> rs.Schema:
    return rs.Schema({**SCHEMA.fields, name: field})


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        (_other("reward", rs.Field("float32", (), "reward")), r"'reward' has dtype float64 in .*a.zarr, and"),
        (
            _other("observation", rs.Field("float32", (3,), "observation")),
            r"'observation' has shape \(2,\)",
        ),
        (_other("extra", rs.Field("int8", (), "extra")), r"b.zarr has field 'extra', which .*a.zarr has not"),
        (rs.Schema(dict(list(SCHEMA.fields.items())[:3])), r"a.zarr has field 'truncated', which"),
    ],
)
def test_fields_that_differ_are_named(tmp_path: Path, schema: rs.Schema, message: str) -> None:
    a, b = store(tmp_path / "a.zarr"), store(tmp_path / "b.zarr", schema=schema)

    with pytest.raises(errors.SchemaError, match=message):
        rs.merge([a, b], tmp_path / "m.zarr")

    assert not (tmp_path / "m.zarr").exists()


def test_columns_that_differ_are_named(tmp_path: Path) -> None:
    places = [store(tmp_path / f"{at}.zarr", seed=at) for at in range(2)]
    for place, dtype in zip(places, ("f4", "i8"), strict=True):
        with rs.open(place, "r+") as buffer:
            buffer.set_trajectory_column("score", np.ones(3, dtype))

    with pytest.raises(errors.SchemaError, match="column 'score' of the trajectories is float32 in"):
        rs.merge(places, tmp_path / "m.zarr")


@pytest.mark.parametrize("sources", [[], ["a"], "a"])
def test_there_are_two_sources_or_more(tmp_path: Path, sources: Any) -> None:
    with pytest.raises(errors.ArgumentError, match="two sources or more"):
        rs.merge(sources, tmp_path / "m.zarr")


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_target_among_the_sources_is_left_alone(tmp_path: Path, overwrite: bool) -> None:
    a, b = store(tmp_path / "a.zarr", seed=1), store(tmp_path / "b.zarr", seed=2)
    (tmp_path / "link.zarr").symlink_to(b)
    before = things(b)

    for target in (b, tmp_path / "link.zarr"):
        with pytest.raises(errors.ArgumentError, match="one of the sources: name a new store last"):
            rs.merge([a, b], target, overwrite=overwrite)

    assert untrue(before, things(b), {}, {}) == []


def test_a_target_in_a_source_or_around_one_is_refused(tmp_path: Path) -> None:
    a = store(tmp_path / "a.zarr", seed=1)
    b = store(tmp_path / "a.zarr" / "b.zarr", seed=2)
    c, before = store(tmp_path / "c.zarr", seed=3), things(b)

    with pytest.raises(errors.SchemaError, match=r"m\.zarr lies in the source, .*a\.zarr: choose"):
        rs.merge([c, a], tmp_path / "a.zarr" / "m.zarr")
    with pytest.raises(errors.SchemaError, match=r"the source .*b\.zarr lies in .*a\.zarr, which would be"):
        rs.merge([c, b], a, overwrite=True)

    assert not (tmp_path / "a.zarr" / "m.zarr").exists()
    assert untrue(before, things(b), {}, {}) == []


@pytest.mark.parametrize("name", ["m.parquet", "m.safetensors", "m.csv"])
def test_a_target_named_as_a_file_is_refused_before_anything_is_read(tmp_path: Path, name: str) -> None:
    with pytest.raises(errors.ArgumentError, match=rf"{name} names .*, and merge makes stores: name a new"):
        rs.merge([tmp_path / "a.zarr", tmp_path / "b.zarr"], tmp_path / name)


def test_a_store_that_is_there_is_replaced_only_if_that_is_wanted(tmp_path: Path) -> None:
    a, b, c = (store(tmp_path / f"{name}.zarr", seed=at) for at, name in enumerate("abc"))

    with pytest.raises(errors.AlreadyExistsError, match="steps in 3 trajectories, which would be replaced"):
        rs.merge([a, b], c)
    report = rs.merge([a, b], c, overwrite=True)

    assert any("is replaced: " in note and "in 3 trajectories" in note for note in report.notes)
    assert report.trajectories == 6


def test_an_interrupted_merge_leaves_nothing(tmp_path: Path) -> None:
    a, b = store(tmp_path / "a.zarr", seed=1), store(tmp_path / "b.zarr", seed=2)
    calls = []

    def stop(done: int, total: int) -> None:
        calls.append((done, total))
        if len(calls) > 6:
            raise _StoppedError

    with pytest.raises(_StoppedError):
        rs.merge([a, b], tmp_path / "m.zarr", progress=stop)

    assert sorted(os.listdir(tmp_path)) == ["a.zarr", "b.zarr"]
    assert calls == sorted(calls)
    assert {total for _, total in calls} == {calls[0][1]}


# --- the command


def test_the_command_says_what_it_did(tmp_path: Path, run: Run, facts: Callable[..., Any]) -> None:
    a, b = store(tmp_path / "a.zarr", seed=1), store(tmp_path / "b.zarr", seed=2)

    found = facts("merge", a, b, tmp_path / "m.zarr")
    code, out, err = run("merge", a, b, a, tmp_path / "n.zarr")

    assert found["trajectories"] == 6
    assert (code, err) == (0, "")
    assert "note: " in out
    assert "3 of 3 trajectories are left out" in out


@pytest.mark.parametrize("more", [(), ("--overwrite",)])
def test_a_forgotten_target_replaces_nothing(tmp_path: Path, run: Run, more: tuple[str, ...]) -> None:
    a, b = store(tmp_path / "a.zarr", seed=1), store(tmp_path / "b.zarr", seed=2)

    code, _, err = run("merge", a, b, *more)

    assert code == 2
    assert "two sources or more, and then the target: 2 given" in err
    assert things(b).lengths.shape == (3,)
