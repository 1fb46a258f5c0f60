"""Analysis of buffers: blocks, epochs of fragments, statistics and pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from analysed_rings import Ring, Run
from hypothesis import given
from hypothesis import strategies as st

from replaystore.analysis import plots
from replaystore.analysis.fragments import Fragments, blocks, places, random_rows, statistics, unowned
from replaystore.errors import SchemaError


@st.composite
def rings(draw: st.DrawFn) -> Ring:
    """Trajectories side by side round a ring, with gaps; the last one may reach round the end."""
    lengths = draw(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 12)), max_size=6))
    total = sum(gap + length for gap, length in lengths)
    capacity = max(1, total + draw(st.integers(0, 3)))
    place, runs = draw(st.integers(0, capacity - 1)), []
    for gap, length in lengths:
        runs.append(Run((place + gap) % capacity, length))
        place += gap + length
    return Ring(capacity, runs)


@given(rings(), st.integers(1, 7))
def test_blocks_are_the_rows_of_trajectories_in_order(ring: Ring, block: int) -> None:
    expected = [
        (run.start_pos + step) % ring.capacity for run in ring.trajectories for step in range(run.length)
    ]

    found = list(places(ring, ring.trajectories, block))

    assert [row for rows in found for row in rows.tolist()] == expected
    assert all(0 < len(rows) <= block for rows in found)


@given(rings())
def test_rows_of_no_trajectory_are_all_the_others(ring: Ring) -> None:
    owned = {
        (run.start_pos + step) % ring.capacity for run in ring.trajectories for step in range(run.length)
    }

    rest = [run.start_pos + step for run in unowned(ring) for step in range(run.length)]

    assert sorted(rest) == sorted(set(range(ring.size)) - owned)


@given(rings(), st.integers(1, 6), st.integers(1, 5), st.integers(0, 9))
def test_an_epoch_goes_over_whole_fragments_once(ring: Ring, length: int, batch_size: int, seed: int) -> None:
    if not any(run.length >= length for run in ring.trajectories):
        with pytest.raises(SchemaError, match="fragment"):
            Fragments(ring, ring.trajectories, length)
        return
    data = Fragments(ring, ring.trajectories, length)
    owner = {
        (run.start_pos + step) % ring.capacity: run for run in ring.trajectories for step in range(run.length)
    }

    for batches in (data.epoch(batch_size, np.random.default_rng(seed)), data.in_order(batch_size)):
        fragments = [rows for batch in batches for rows in batch[:, :, 0].long().tolist()]
        assert all(rows == [(rows[0] + step) % ring.capacity for step in range(length)] for rows in fragments)
        assert all(owner[rows[0]] is owner[rows[-1]] for rows in fragments)
        assert len({row for rows in fragments for row in rows}) == length * len(fragments), (
            "no row comes twice"
        )
    assert len(fragments) == len(data) == sum(run.length // length for run in ring.trajectories)
    assert len(data.draw(3, np.random.default_rng(seed))) == min(3, len(data))


def test_every_step_is_at_every_place_of_a_fragment_after_some_epochs() -> None:
    data = Fragments(Ring(40, [Run(0, 40)]), [Run(0, 40)], 8)
    generator = np.random.default_rng(0)

    begins = {
        int(fragment[0, 0]) % 8 for _ in range(60) for batch in data.epoch(4, generator) for fragment in batch
    }

    assert begins == set(range(8))


def test_a_few_fragments_stand_for_many() -> None:
    ring = Ring(1000, [Run(0, 1000)])

    found = torch.cat(list(Fragments(ring, ring.trajectories, 10).in_order(4, at_most=5)))

    assert found[:, 0, 0].tolist() == [0, 240, 490, 740, 990]


def test_statistics_and_random_rows_are_of_the_trajectories_only() -> None:
    ring = Ring(100, [Run(10, 20), Run(95, 10)], width=1)
    rows = [*range(10, 30), *range(95, 100), *range(5)]

    found = statistics(ring, "obs", ring.trajectories)
    drawn = random_rows(ring, "obs", ring.trajectories, 1000, np.random.default_rng(0))

    assert (found.count, found.mean[0], found.std[0]) == (
        30,
        pytest.approx(np.mean(rows)),
        pytest.approx(np.std(rows)),
    )
    assert sorted(drawn[:, 0].tolist()) == sorted(rows)
    assert len(random_rows(ring, "obs", ring.trajectories, 7, np.random.default_rng(0))) == 7


def test_pictures_need_a_block_of_rows_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("replaystore.analysis.fragments.BLOCK_BYTES", 4 * 50 * 2)
    monkeypatch.setattr("replaystore.analysis.plots.SAMPLE", 60)
    ring = Ring(1000, [Run(0, 300), Run(300, 300, "val"), Run(700, 200, "")])

    written = plots.draw_all(ring, tmp_path / "analysis", "numbers")

    assert len(written) == 5
    assert ring.obs.most == 60
    assert ring.rews.most == ring.dones.most == 100
    assert [len(block) for block in blocks(ring, "obs", ring.trajectories)] == [50] * 16


@pytest.mark.parametrize(
    "ring",
    [
        Ring(10, [], size=0),
        Ring(10, [Run(0, 0)], size=0),
        Ring(50, [], size=20),
        Ring(60, [Run(3, 50)], width=50),
    ],
)
def test_pictures_of_odd_buffers_are_drawn_too(ring: Ring, tmp_path: Path) -> None:
    assert all(path.stat().st_size > 5000 for path in plots.draw_all(ring, tmp_path, "odd"))
