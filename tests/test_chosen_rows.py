"""Rows that are chosen beforehand: of all that lie in a chunk, it is decoded once; and a sampler of a store
that does not fit in its memory gives the batches of one that does."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from columns import Coded, ints, random_rows, same

import replaystore as rs
from replaystore.columns import chosen
from replaystore.columns.coded import CodedColumn
from replaystore.columns.slab import Slab
from replaystore.containers.array_spec import ArraySpec
from replaystore.errors import CorruptError, ReplayStoreWarning
from replaystore.storage.memory import MemoryFiles

pytestmark = pytest.mark.filterwarnings("ignore:.*more than slab_bytes")

SPEC = ArraySpec(np.dtype("f4"), (3,), 4, codec="zstd:1")
OTHER = ArraySpec(np.dtype("i8"), (), 4, codec="gzip:1")


def two(
    rows: int, limit: int = 6000, kind: Literal["zarr", "hdf5"] = "hdf5"
) -> tuple[Slab, dict[str, Any], dict[str, Coded]]:
    """A slab of two columns with room for a hundred rows, and what they hold. Chunks of the second one are
    decoded to their places in HDF5 (shuffled), in Zarr to memory of their own."""
    models = {"x": random_rows(SPEC, rows), "y": random_rows(OTHER, rows)}
    stores = {
        "x": Coded(MemoryFiles("x"), "zarr", SPEC, models["x"]),
        "y": Coded(MemoryFiles("y"), kind, OTHER, models["y"]),
    }
    columns = {name: store.column() for name, store in stores.items()}
    return Slab(columns, limit), models, stores


def entries(rows: Any) -> Any:
    """As entries that show one row each."""
    return rows[:, None]


def taken(slab: Slab, rows: Any) -> dict[str, Any]:
    outs = {"x": np.empty((len(rows), 3), "f4"), "y": np.empty(len(rows), "i8")}
    slab.take(rows, outs)
    return outs


def test_each_chunk_is_decoded_once_for_all_rows_of_all_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    slab, models, _ = two(4 * 50 + 3)
    decoded: list[tuple[str, int]] = []
    decode = CodedColumn.decode_job

    def noted(self: CodedColumn, job: Any, out: Any) -> Any:
        decoded.extend((str(self.files), chunk) for chunk, _ in job)
        return decode(self, job, out)

    monkeypatch.setattr(CodedColumn, "decode_job", noted)
    rng = np.random.default_rng(0)
    groups = [rng.integers(0, 4 * 50 + 3, 100) for _ in range(4)]
    for number, rows in enumerate(groups):
        decoded.clear()
        if not number:
            slab.choose_next(entries(rows))
        slab.choose(entries(rows))
        distinct = set((rows[rows < 200] // 4).tolist())
        if not number:
            assert sorted(decoded) == sorted((name, chunk) for name in ("x", "y") for chunk in distinct)
        slab.choose_next(entries(groups[(number + 1) % 4]))
        for some in np.split(rows, 10):
            found = taken(slab, some)
            assert all(same(found[name], models[name][some]) for name in models)
    other = ints(*range(203))  # most of these nobody chose
    found = taken(slab, other)
    assert all(same(found[name], models[name]) for name in models)


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("limit", [100, 1500, 6000])
def test_rows_are_those_of_the_array_as_they_make_room(
    seed: int, limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Groups one after the other, each decoded into what the one before leaves, batches asked for again, and
    rows that nobody chose."""
    monkeypatch.setattr(chosen, "JOB_BYTES", int(np.random.default_rng(seed).integers(1, 400)))
    slab, models, _ = two(4 * 50 + 3, limit)
    rng = np.random.default_rng(seed)

    def compare(rows: Any) -> None:
        found = taken(slab, rows)
        assert all(same(found[name], models[name][rows]) for name in models)

    groups = [rng.integers(0, 203, (rng.integers(1, 40), 2)) for _ in range(6)]
    for number, group in enumerate(groups):
        slab.choose(group)
        if rng.random() < 0.8:
            slab.choose_next(groups[(number + (rng.random() < 0.9)) % 6])
        used = 0
        while used < len(group):
            some = group[used : used + 5]
            compare(some.reshape(-1))
            if rng.random() < 0.3:
                compare(rng.integers(0, 203, 8))
            if rng.random() < 0.3:
                compare(group[:used].reshape(-1))
            slab.chosen.used(len(some))
            used += len(some)


def test_the_next_rows_are_decoded_as_others_leave_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chosen, "JOB_BYTES", 1)
    slab, models, _ = two(4 * 50, (20 + chosen.BESIDE) * 40)
    group, following = entries(ints(*range(0, 160, 4))), entries(ints(*range(1, 161, 4)))
    assert slab.chosen.room == len(group)
    slab.choose(group)
    slab.choose_next(following)
    coming = slab.chosen._next
    assert coming is not None
    for used in range(0, 40, 10):
        assert coming._begun == used
        assert same(taken(slab, group[used:, 0])["y"], models["y"][group[used:, 0]])
        slab.chosen.used(10)
    assert coming._begun == 40
    slab.choose(following)
    assert slab.chosen._now is coming
    assert same(taken(slab, following[:, 0])["x"], models["x"][following[:, 0]])


@pytest.mark.parametrize("kind", ["zarr", "hdf5"])
def test_a_damaged_chunk_is_an_error_where_it_is_taken_alone(kind: Literal["zarr", "hdf5"]) -> None:
    slab, models, stores = two(4 * 20, kind=kind)
    entry = stores["y"].entries[7]
    stores["y"].files.write(entry.object, entry.offset + 3, b"\xff\x00\xff")
    slab.choose(entries(ints(2, 9, 30, 44)))
    assert same(taken(slab, ints(44, 2, 9))["y"], models["y"][[44, 2, 9]])
    with pytest.raises(CorruptError, match="chunk 7 of steps/x"):
        taken(slab, ints(2, 30))


@pytest.mark.parametrize("kind", ["zarr", "hdf5"])
def test_rows_that_moved_are_found_again(kind: Literal["zarr", "hdf5"]) -> None:
    slab, models, stores = two(4 * 20, kind=kind)
    slab.choose(entries(ints(0, 40)))
    store = stores["x"]
    old = store.entries[10]
    store.store(10, models["x"][40:44], gap=7)
    store.files.write(old.object, old.offset, bytes(old.length))
    slab.choose(entries(ints(1, 41)))
    assert same(taken(slab, ints(41, 1))["x"], models["x"][[41, 1]])


def test_what_was_begun_ends_before_its_column_is_closed() -> None:
    slab, _, stores = two(4 * 20)
    slab.choose_next(entries(ints(*range(0, 80, 3))))
    coming = slab.chosen._next
    assert coming is not None
    for column in slab._columns.values():
        column.close()
    assert not coming._jobs
    assert all(future.done() for future in coming._running)
    coming._begun = 0
    slab.chosen.used(1)
    assert not coming._jobs
    assert not coming.finish(slab.chosen._shown)
    del stores


@pytest.mark.parametrize("suffix", ["zarr", "h5"])
@pytest.mark.parametrize(
    "recipe",
    [
        {"batch_size": 16},
        {"batch_size": 5, "frame_stack": 3},
        {"batch_size": 7, "fragment_length": 6},
        {"batch_size": 7, "order": "trajectory", "fragment_length": 6},
        {"batch_size": 9, "n_step": 3, "gamma": 0.9},
        {"batch_size": 9, "n_step": 3, "gamma": 0.9, "frame_stack": 2},
        {"batch_size": 33, "next_observation": False, "where": "length > 20"},
    ],
)
@pytest.mark.parametrize("prefetch", [0, 2])
def test_batches_are_the_same_whatever_memory_there_is(
    tmp_path: Path, suffix: str, recipe: dict[str, Any], prefetch: int
) -> None:
    schema = rs.Schema(
        {
            "observation": rs.Field("uint8", (40, 40), "observation"),
            "reward": rs.Field("float32", (), "reward"),
            "truncated": rs.Field("bool", (), "truncated"),
        }
    )
    rng, count = np.random.default_rng(1), 3000
    steps = {
        "observation": rng.integers(0, 4, (count, 40, 40), np.uint8),
        "reward": np.arange(count, dtype=np.float32),
        "truncated": np.zeros(count, bool),
    }
    ends = np.cumsum(rng.integers(12, 60, 100))
    steps["truncated"][ends[ends < count]] = True
    with rs.create(tmp_path / "live.zarr", schema) as buffer:
        buffer.append(steps)
    rs.convert(tmp_path / "live.zarr", tmp_path / f"a.{suffix}", layout="archive")
    with rs.open(tmp_path / f"a.{suffix}") as buffer:
        small = buffer.sampler(**recipe, seed=3, slab_bytes=1_200_000, prefetch=prefetch)
        large = buffer.sampler(**recipe, seed=3, slab_bytes=1 << 30, prefetch=0)
        assert small._batches.gather.crowded
        assert not large._batches.gather.crowded
        for _ in range(120):
            mine, theirs = small.sample(), large.sample()
            assert mine.keys() == theirs.keys()
            assert all(np.array_equal(mine[name], theirs[name]) for name in mine)
        assert small._batches._chosen > 1
        small.close()


@pytest.mark.parametrize("count", [900, 3000])
def test_fields_of_short_rows_leave_the_memory_to_images(tmp_path: Path, count: int) -> None:
    """Also where few of their rows, or none, are in complete chunks."""
    schema = rs.Schema(
        {
            "observation": rs.Field("uint8", (40, 40), "observation"),
            "reward": rs.Field("float32", (), "reward"),
            "action": rs.Field("int64", (), "action"),
        }
    )
    coded = {
        name: {"codec": "zstd:1", "chunk_rows": rows} for name, rows in (("observation", 8), ("action", 256))
    }
    coded["reward"] = {"codec": "zstd:1", "chunk_rows": 512}
    limit = 500 * 1600
    with rs.create(tmp_path / "a.zarr", schema, storage=coded) as buffer:
        images = np.random.default_rng(1).integers(0, 4, (count, 40, 40), np.uint8)
        numbers = np.arange(count)
        buffer.append(
            {"observation": images, "reward": numbers.astype("f4"), "action": numbers}, ends=[count - 1]
        )
        buffer.commit()
        alone = buffer.sampler(16, seed=3, slab_bytes=limit, fields=["observation"], next_observation=False)
        every = buffer.sampler(16, seed=3, slab_bytes=limit, next_observation=False)
        assert len(every._batches.gather.slabs) == 3
        assert every._batches.at_once >= 0.9 * alone._batches.at_once > 400
        for _ in range(70):
            batch = every.sample()
            assert (batch["action"] == batch["index"]).all()
            assert np.array_equal(batch["observation"], images[batch["index"]])
        every.close()
        alone.close()
        held = [slab.chosen for slab in every._batches.gather.slabs]
        assert every._batches._chosen > 20
        rows = [values for one in held for values in one.items.values()]
        assert sum(values.nbytes + chosen.BESIDE * len(values) for values in rows) <= limit


def test_chunks_of_rows_that_were_not_chosen_take_little_memory() -> None:
    slab, models, _ = two(4 * 500, 80 * 200)
    assert slab.slots == 200
    slab.choose(entries(ints(*range(0, 2000, 50))))
    for begin in range(0, 2000, 400):
        rows = np.arange(begin, begin + 400)
        found = taken(slab, rows)
        assert all(same(found[name], models[name][rows]) for name in models)
        assert not slab.hold(ints(begin), ints(begin + 399))
        slab.expect(ints(0), ints(100))
        assert np.count_nonzero(slab._chunk >= 0) <= 200 // 16
        assert slab._coming is None
    assert slab.chosen.active
    slab.chosen.forget()
    assert slab.hold(ints(0), ints(799))
    assert np.count_nonzero(slab._chunk >= 0) == 200


@pytest.mark.parametrize("apart", [2, 3, 300])
def test_windows_that_are_passed_over_are_let_go(tmp_path: Path, apart: int) -> None:
    """As in the workers of a loader, each of which makes some of the batches."""
    store_of(tmp_path / "live.zarr", 6000)
    rs.convert(tmp_path / "live.zarr", tmp_path / "a.zarr", layout="archive")
    with rs.open(tmp_path / "a.zarr") as buffer:
        some = buffer.sampler(16, seed=3, slab_bytes=300_000, prefetch=0)._batches
        every = buffer.sampler(16, seed=3, slab_bytes=1 << 30, prefetch=0)._batches
        assert some.gather.crowded
        for number in range(0, 700 * apart, apart):
            batch = some.make(0, number)
            assert len(some._later) <= 3
            if not number % 20:
                assert np.array_equal(batch["index"], every.make(0, number)["index"])


@pytest.mark.parametrize(
    "recipe",
    [
        {"batch_size": 64},
        {"batch_size": 50, "order": "trajectory", "fragment_length": 6, "pad": "end"},
        {"batch_size": 50, "frame_stack": 3},
        {"batch_size": 33, "next_observation": False, "weights": "some"},
    ],
)
def test_stores_that_are_sampled_as_one_decode_for_many_batches(
    tmp_path: Path, recipe: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    for number, rows in enumerate((6000, 2000)):
        with rs.create(tmp_path / f"live{number}.zarr", ending()) as buffer:
            ends = [*range(19, rows, 20)]
            finals = rng.normal(size=(len(ends), 50)).astype(np.float32)
            steps = {"observation": rng.normal(size=(rows, 50)).astype(np.float32)}
            buffer.append(steps, ends=ends, final_observation=finals)
        suffix = ("zarr", "h5")[number]
        rs.convert(tmp_path / f"live{number}.zarr", tmp_path / f"a{number}.{suffix}", layout="archive")
    buffers = [rs.open(tmp_path / "a0.zarr"), rs.open(tmp_path / "a1.h5")]
    if "weights" in recipe:
        recipe = recipe | {"weights": rng.random(8000)}
    chunks, decode = [0], CodedColumn.decode_job

    def counted(self: CodedColumn, job: Any, out: Any) -> Any:
        chunks[0] += len(job)
        return decode(self, job, out)

    small = rs.concat(buffers).sampler(**recipe, seed=3, slab_bytes=300_000)
    large = rs.concat(buffers).sampler(**recipe, seed=3, slab_bytes=1 << 30)
    for _ in range(100):
        monkeypatch.setattr(CodedColumn, "decode_job", counted)
        mine = small.sample()
        monkeypatch.setattr(CodedColumn, "decode_job", decode)
        theirs = large.sample()
        assert mine.keys() == theirs.keys()
        assert all(np.array_equal(mine[name], theirs[name]) for name in mine)
    known = buffers[0].stored_column("steps/observation")
    assert isinstance(known, CodedColumn)
    if recipe.get("order", "uniform") == "uniform" and "weights" not in recipe:
        # One by one nearly all chunks would be decoded for each batch.
        assert chunks[0] < 100 * len(np.unique(np.arange(8000) // known.chunk_rows)) / 3


def ending() -> rs.Schema:
    return rs.Schema({"observation": rs.Field("float32", (50,), "observation")})


def store_of(place: Path, rows: int, codec: str = "zstd:1") -> None:
    schema = ending()
    steps = {"observation": np.random.default_rng(0).normal(size=(rows, 50)).astype(np.float32)}
    with rs.create(place, schema, storage={"observation": {"codec": codec}}) as buffer:
        buffer.append(steps, ends=[rows - 1])


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("suffix", ["zarr", "h5"])
def test_too_little_memory_is_said_once_with_what_helps(tmp_path: Path, suffix: str) -> None:
    place = tmp_path / f"a.{suffix}"
    store_of(place, 5000)
    with rs.open(place) as buffer:
        for how in ({}, {"order": "trajectory"}, {"weights": np.ones(5000), "per": "step"}):
            with pytest.warns(ReplayStoreWarning, match="observation: decoded, .* more than") as told:
                sampler = buffer.sampler(16, slab_bytes=1000, **how)  # type: ignore[arg-type]
            assert len(told) == 1
            assert told[0].filename == __file__
            for _ in range(5):
                sampler.sample()
            sampler.refresh()
            sampler.close()
        needed = int(str(told[0].message).split("slab_bytes=")[1].split(",")[0])
        buffer.sampler(16, slab_bytes=needed).close()
        buffer.sampler(16, slab_bytes=1000, order="epoch").close()
    rs.convert(place, tmp_path / f"raw.{suffix}", codec="raw")
    with rs.open(tmp_path / f"raw.{suffix}") as buffer:
        buffer.sampler(16, slab_bytes=1000).close()


@pytest.mark.filterwarnings("error")
def test_a_buffer_that_grows_beyond_the_memory_says_so_then(tmp_path: Path) -> None:
    store_of(tmp_path / "a.zarr", 1000)
    with rs.open(tmp_path / "a.zarr", "r+") as buffer:
        sampler = buffer.sampler(16, slab_bytes=500_000, seed=0)
        for rows in (1000, 5000, 5000):
            steps = {"observation": np.zeros((rows, 50), np.float32)}
            buffer.append(steps, ends=[rows - 1])
            buffer.commit()
            if rows == 5000 and len(buffer) < 10_000:
                with pytest.warns(ReplayStoreWarning, match="more than slab_bytes"):
                    sampler.refresh()
            else:
                sampler.refresh()
