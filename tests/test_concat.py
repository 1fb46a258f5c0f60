"""Several stores that are sampled as one: which steps come, how often, and what they say."""

from __future__ import annotations

import itertools
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sampled_buffers import fill, schema
from test_live_sampling import SCHEMA, Loop

import replaystore as rs
from replaystore.errors import ArgumentError, ConflictError
from replaystore.sampling.weights import from_text

numbers = itertools.count()


def stores(tmp_path: Path, *sizes: int) -> list[rs.Buffer]:
    """Buffers whose trajectories have 10 steps, in turn Zarr and HDF5."""
    found = []
    for number, size in enumerate(sizes):
        with rs.create(tmp_path / f"a{number}.{('zarr', 'h5')[number % 2]}", schema()) as buffer:
            fill(buffer, [(0, 10, True, True)] * (size // 10), commit_every=5)
        found.append(rs.open(buffer.whereabouts))
    return found


def check(buffers: list[rs.Buffer], batch: dict[str, Any]) -> None:
    """Each entry is the step that it says."""
    for store, buffer in enumerate(buffers):
        mine = batch["store"] == store
        rows = batch["index"][mine]
        for name in ("observation", "action", "reward"):
            assert np.array_equal(batch[name][mine], buffer[name][:][rows - buffer.first_row])
        assert (batch["next_observation"][mine] == batch["observation"][mine] + [0, 1]).all()


@pytest.mark.parametrize("chosen", [{}, {"fragment_length": 3, "pad": "end"}, {"frame_stack": 2}], ids=str)
def test_short_and_long_entries_are_put_to_the_same_places(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chosen: dict[str, Any]
) -> None:
    buffers = stores(tmp_path, 100, 30, 10)
    made = []
    for short in (0, 1 << 20):
        monkeypatch.setattr("replaystore.sampling.joined.SHORT", short)
        sampler = rs.concat(buffers).sampler(8, seed=5, **chosen)  # some batches are of two stores, or one
        made.append([sampler.sample() for _ in range(40)])
    for one, other in zip(*made, strict=True):
        assert one.keys() == other.keys()
        assert all(np.array_equal(one[name], other[name]) for name in one)
        if not chosen:
            check(buffers, one)
    assert {len(np.unique(batch["store"])) for batch in made[0]} >= {1, 2, 3}


@pytest.mark.parametrize("prefetch", [0, 2])
@pytest.mark.parametrize("order", ["uniform", "trajectory", "prioritized"])
def test_steps_of_all_stores_are_equally_likely(tmp_path: Path, order: Any, prefetch: int) -> None:
    buffers = stores(tmp_path, 100, 300, 50)
    chosen: dict[str, Any] = {"order": order, "prefetch": prefetch if order != "prioritized" else 0}
    sampler = rs.concat(buffers).sampler(256, seed=3, **chosen)
    seen: Counter[tuple[int, int]] = Counter()
    for _ in range(60):
        batch = sampler.sample()
        check(buffers, batch)
        seen.update(zip(batch["store"].tolist(), batch["index"].tolist(), strict=True))
    sampler.close()
    assert sampler.num_items == len(rs.concat(buffers)) == len(seen) == 450
    counts = np.array(list(seen.values()))
    expected = 60 * 256 / 450
    assert abs(((counts - expected) ** 2 / expected).sum() - 449) < 5 * np.sqrt(2 * 449)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=4), st.integers(1, 30), st.integers(0, 99))
def test_an_epoch_has_each_step_once(sizes: list[int], size: int, seed: int) -> None:
    buffers = []
    for count in sizes:
        buffers.append(rs.create(f"memory:concat-{next(numbers)}", schema()))
        fill(buffers[-1], [(0, count, True, True)])
    sampler = rs.concat(buffers).sampler(size, order="epoch", seed=seed)
    expected = Counter((store, row) for store, count in enumerate(sizes) for row in range(count))
    orders = []
    for epoch in range(2):
        assert sampler.epoch == epoch
        batches = list(sampler)
        assert len(batches) == len(sampler) == -(-sum(sizes) // size)
        assert [len(batch["index"]) for batch in batches[:-1]] == [size] * (len(batches) - 1)
        drawn = [
            (store, row)
            for b in batches
            for store, row in zip(b["store"].tolist(), b["index"].tolist(), strict=True)
        ]
        assert Counter(drawn) == expected
        for batch in batches:
            check(buffers, batch)
        orders.append(drawn)
    again = [b["index"].tolist() for b in rs.concat(buffers).sampler(size, order="epoch", seed=seed)]
    assert list(itertools.chain(*again)) == [row for _, row in orders[0]]


def test_runs_of_an_epoch_may_be_longer_than_a_step(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("replaystore.sampling.joined.RUNS", 20)
    buffers = stores(tmp_path, 100, 30)
    for size in (1, 4, 7, 50, 200):
        drawn = [
            pair
            for batch in rs.concat(buffers).sampler(size, order="epoch", seed=1)
            for pair in zip(batch["store"].tolist(), batch["index"].tolist(), strict=True)
        ]
        assert len(drawn) == len(set(drawn)) == 130


def test_priorities_are_set_across_stores(tmp_path: Path) -> None:
    buffers = stores(tmp_path, 100, 200)
    sampler = rs.concat(buffers).sampler(64, seed=0, order="prioritized", alpha=1.0, beta=1.0)
    batch = sampler.sample()
    assert np.allclose(batch["weight"], 1)
    for store, count in ((0, 100), (1, 200)):
        every = np.arange(count)
        sampler.update_priorities(every, np.where(every == 5, 50.0, 0.5), np.full(count, store))
    seen: Counter[tuple[int, int]] = Counter()
    for _ in range(40):
        batch = sampler.sample()
        check(buffers, batch)
        high = batch["index"] == 5
        assert np.allclose(batch["weight"], np.where(high, 0.01, 1.0))
        seen.update(zip(batch["store"].tolist(), batch["index"].tolist(), strict=True))
    share = (seen[0, 5] + seen[1, 5]) / sum(seen.values())
    assert abs(share - 100 / (100 + 298 * 0.5)) < 0.05
    for wrong in ([2], [-1], [0.5]):
        with pytest.raises(ArgumentError, match="store says which of 2 buffers"):
            sampler.update_priorities([1], [1.0], wrong)
    with pytest.raises(ArgumentError, match="flat arrays of one length"):
        sampler.update_priorities([1, 2], [1.0, 1.0], [0])


def test_none_is_set_if_one_is_wrong(tmp_path: Path) -> None:
    buffers = stores(tmp_path, 10, 20)
    prioritized = rs.concat(buffers).sampler(4, order="prioritized", alpha=1.0)
    weighted = rs.concat(buffers).sampler(4, weights=np.ones(30))
    wrong: list[tuple[Any, Any, Any]] = [
        ([1, 1], [2.0, np.nan], [0, 1]),
        ([1, 20], [2.0, 2.0], [0, 1]),
        ([1, 1], [2.0, 2.0], [0, 2]),
        (1, 2.0, 0),
        ([1.0], [2.0], [0]),
    ]
    for index, values, store in wrong:
        for update in (prioritized.update_priorities, weighted.update_weights):
            with pytest.raises(ArgumentError):
                update(index, values, store)
    for sampler in (prioritized, weighted):
        states = sampler.state_dict()["stores"]
        assert all((from_text(state["weights"]) == 1).all() for state in states)
    prioritized.update_priorities([], [], [])
    with pytest.raises(ArgumentError, match="no priorities"):
        weighted.update_priorities([1], [1.0], [0])


def test_weights_are_given_store_by_store(tmp_path: Path) -> None:
    buffers = stores(tmp_path, 30, 50)
    weights = np.zeros(80)
    weights[[3, 40]] = 1, 3
    batch = rs.concat(buffers).sampler(512, weights=weights, beta=1.0, seed=0).sample()
    assert set(zip(batch["store"].tolist(), batch["index"].tolist(), strict=True)) == {(0, 3), (1, 10)}
    assert abs((batch["store"] == 1).mean() - 0.75) < 0.1
    assert np.allclose(batch["weight"], np.where(batch["store"] == 1, 1 / 3, 1))
    with pytest.raises(ArgumentError, match="one for each step of all stores, 80"):
        rs.concat(buffers).sampler(4, weights=np.ones(30))


@pytest.mark.parametrize("order", ["uniform", "epoch", "prioritized"])
def test_it_follows_all_stores_and_resumes(tmp_path: Path, order: Any) -> None:
    writers = [rs.create(tmp_path / f"{name}", SCHEMA, durability="none") for name in ("a.zarr", "b.zarr")]
    loops = [Loop(writer, 2) for writer in writers]
    for _ in range(20):
        loops[0].step()
    writers[0].commit()
    readers = [rs.open(tmp_path / name) for name in ("a.zarr", "b.zarr")]
    sampler = rs.concat(readers).sampler(16, seed=1, order=order)
    assert not sampler.sample()["store"].any()
    assert not sampler.refresh()
    for _ in range(30):
        loops[1].step()
    writers[1].commit()
    assert sampler.refresh()
    assert sampler.num_items == 100
    shown = np.concatenate([sampler.sample()["store"] for _ in range(6)])
    assert 0 < shown.mean() < 1
    if order == "prioritized":
        batch = sampler.sample()
        sampler.update_priorities(batch["index"], np.arange(16) + 0.5, batch["store"])
    state = sampler.state_dict()
    expected = [sampler.sample() for _ in range(3)]
    again = [rs.open(tmp_path / name) for name in ("a.zarr", "b.zarr")]
    other = rs.concat(again).sampler(16, order=order)
    other.load_state_dict(state)
    for batch in expected:
        assert all(np.array_equal(batch[name], values) for name, values in other.sample().items())
    loops[0].step()
    writers[0].commit()
    other.refresh()
    with pytest.raises(ConflictError, match="commit"):
        other.load_state_dict(state)
    with pytest.raises(ArgumentError, match="the state is of 2 stores"):
        rs.concat(again[:1]).sampler(16, order=order).load_state_dict(state)


@pytest.mark.parametrize("order", ["uniform", "prioritized"])
def test_stores_that_are_written_here_are_sampled_live(tmp_path: Path, order: Any) -> None:
    buffers = [
        rs.create(tmp_path / "a.zarr", SCHEMA, capacity=60, durability="none"),
        rs.create(tmp_path / "b.h5", SCHEMA, durability="none"),
    ]
    loops = [Loop(buffer, 3) for buffer in buffers]
    loops[0].step()
    sampler = rs.concat(buffers).sampler(32, live=True, seed=0, order=order)
    for number in range(60):
        loops[0].step()
        if number > 20:
            loops[1].step()
        batch = sampler.sample()
        assert (batch["store"].max() == 1) == (number > 20)
        assert (batch["next_observation"] == batch["observation"] + [0, 1]).all()
        for store, buffer in enumerate(buffers):
            rows = batch["index"][batch["store"] == store]
            low = max(0, buffer.rows_recorded - (buffer.capacity or buffer.rows_recorded))
            assert not len(rows) or low <= rows.min() <= rows.max() < buffer.rows_recorded
        if order == "prioritized":
            sampler.update_priorities(batch["index"], np.ones(32), batch["store"])


def test_what_cannot_be_is_one_clear_error(tmp_path: Path) -> None:
    buffers = stores(tmp_path, 10, 20)
    other = rs.create("memory:concat-other", schema((3,)))
    empty = rs.create("memory:concat-empty", schema())
    with pytest.raises(ArgumentError, match=r"'observation' is int32 \(2,\).*int32 \(3,\).*concat-other"):
        rs.concat([buffers[0], other])
    assert len(rs.concat(one for one in buffers)) == 30  # type: ignore[arg-type]
    for wrong in ([], buffers[0], ["a.zarr"], None, "a.zarr", 3):
        with pytest.raises(ArgumentError, match="concat takes"):
            rs.concat(wrong)  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="the buffer is empty"):
        rs.concat([empty]).sampler(4)
    with pytest.raises(ArgumentError, match="leave out prefetch"):
        rs.concat(buffers).sampler(4, order="prioritized", prefetch=2)
    with pytest.raises(ArgumentError, match="leave out burn_in"):
        rs.concat(buffers).sampler(4, fragment_length=3, burn_in=2, pad="start")
    for chosen, message in (({"seed": -1}, "seed must be"), ({"prefetch": -1}, "prefetch must be")):
        with pytest.raises(ArgumentError, match=message):
            rs.concat(buffers).sampler(4, **chosen)  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match=r"buffer\.sampler\(32\)"):
        rs.concat(buffers).sampler(4).sample(32)
    told = rs.concat([*buffers, empty]).sampler(4, seed=5).explain().splitlines()
    assert told[0] == "30 items of 3 stores, seed 5"
    assert told[-1].endswith("nothing to draw yet")


def test_fragments_of_all_stores(tmp_path: Path) -> None:
    buffers = stores(tmp_path, 50, 50)
    batch = rs.concat(buffers).sampler(16, fragment_length=12, pad="end", frame_stack=2, seed=0).sample()
    assert batch["observation"].shape == (16, 12, 2, 2)
    assert (batch["observation"][:, :, 1, 1][batch["mask"]] == batch["action"][batch["mask"]]).all()


def two_of_which_one_is_empty(tmp_path: Path) -> tuple[list[rs.Buffer], list[rs.Buffer]]:
    """Writers and readers of two stores."""
    writers = [rs.create(tmp_path / name, schema()) for name in ("a.zarr", "b.h5")]
    fill(writers[0], [(0, 10, True, True)] * 5)
    for writer in writers:
        writer.commit()
    return writers, [rs.open(writer.whereabouts) for writer in writers]


@pytest.mark.parametrize(
    "chosen", [{}, {"order": "prioritized"}, {"fields": ["observation", "action", "reward"]}]
)
def test_a_store_that_has_something_later_shows_the_fields_of_the_others(
    tmp_path: Path, chosen: dict[str, Any]
) -> None:
    writers, readers = two_of_which_one_is_empty(tmp_path)
    sampler = rs.concat(readers).sampler(64, seed=0, **chosen)
    names = sampler.sample().keys()
    fill(writers[1], [(0, 10, True, True)] * 5)
    writers[1].add_field("value", rs.Field("f8", (), "extra"), fill=7)
    writers[1].commit()
    assert sampler.refresh()
    batch = sampler.sample()
    assert batch.keys() == names
    assert set(batch["store"].tolist()) == {0, 1}
    check(readers, batch)


@pytest.mark.parametrize("order", ["uniform", "prioritized", "epoch"])
def test_a_store_whose_buffer_was_refreshed_by_others_is_taken_up(tmp_path: Path, order: Any) -> None:
    writers, readers = two_of_which_one_is_empty(tmp_path)
    both = rs.concat(readers)
    sampler = both.sampler(64, seed=0, order=order)
    assert not sampler.refresh()
    fill(writers[1], [(0, 10, True, True)] * 5)
    writers[1].commit()
    assert both.refresh()
    assert sampler.refresh()
    assert not sampler.refresh()
    assert sampler.num_items == len(both) == 100
    check(readers, sampler.sample())


@pytest.mark.parametrize("order", ["uniform", "prioritized", "epoch"])
def test_what_is_drawn_is_right_after_a_refresh_that_failed(
    tmp_path: Path, order: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    writers, readers = two_of_which_one_is_empty(tmp_path)
    fill(writers[1], [(0, 10, True, True)] * 5)
    writers[1].commit()
    readers[1].refresh()
    sampler = rs.concat(readers).sampler(20, seed=0, order=order)
    if order == "prioritized":
        sampler.update_priorities([3], [9.0], [1])
    sampler.sample()
    fill(writers[0], [(0, 10, True, True)] * 5)
    writers[0].commit()
    with monkeypatch.context() as patch:

        def refused() -> bool:
            raise OSError(5, "the disk")

        patch.setattr(readers[1], "refresh", refused)
        with pytest.raises(OSError, match="disk"):
            sampler.refresh()
    assert sampler.num_items == 150
    if order == "epoch":
        drawn = [
            pair
            for batch in sampler
            for pair in zip(batch["store"].tolist(), batch["index"].tolist(), strict=True)
        ]
        assert len(drawn) == len(set(drawn)) == 150
    else:
        seen = np.concatenate([sampler.sample()["index"] for _ in range(40)])
        assert seen.max() == 99
    if order == "prioritized":
        assert len({one.largest for one in sampler._joined.there}) == 1


@pytest.mark.parametrize("order", ["uniform", "prioritized"])
@pytest.mark.parametrize(
    "change",
    [
        {"stores": 5},
        {"stores": None},
        {"stores": "ab"},
        {"batch": "x"},
        {"epoch": -1},
        {"seed": None},
        {"seed": "1"},
        {"of": {"seed": "x"}},
        {"of": {"commit": 10_000}},
        {"of": {"settings": None}},
        {"of": {"weights": "?"}, "order": "prioritized"},
        {"of": {"settings": {"names": ["action"]}}},
    ],
    ids=str,
)
def test_a_state_that_is_refused_changes_nothing(tmp_path: Path, change: dict[str, Any], order: Any) -> None:
    buffers = stores(tmp_path, 50, 80)
    if change.get("order", order) != order:
        return
    given = rs.concat(buffers).sampler(16, seed=1, order=order)
    for _ in range(3):
        given.sample()
    state: Any = given.state_dict()
    if "of" in change:
        mine = state["stores"][1]
        names = change["of"].get("settings")
        settings = mine["settings"] | names if isinstance(names, dict) else names
        state["stores"][1] = (
            mine | change["of"] | ({"settings": settings} if "settings" in change["of"] else {})
        )
    else:
        state |= change
    mine, untouched = (rs.concat(buffers).sampler(16, seed=2, order=order) for _ in range(2))
    for _ in range(2):
        mine.sample()
        untouched.sample()
    with pytest.raises((ArgumentError, ConflictError)):
        mine.load_state_dict(state)
    assert mine.state_dict() == untouched.state_dict()
    for _ in range(3):
        found, expected = mine.sample(), untouched.sample()
        assert all(np.array_equal(found[name], expected[name]) for name in expected)
    with pytest.raises(ArgumentError, match="no seed or stores"):
        mine.load_state_dict(None)  # type: ignore[arg-type]
