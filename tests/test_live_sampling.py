"""Samplers that show steps before any commit has them: what they show, and that nothing else makes a
difference."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import replaystore as rs
from replaystore.errors import ArgumentError, ConflictError
from replaystore.schema.fields import Field

CODED = {"observation": {"codec": "zstd:1", "chunk_rows": 16}, "action": {"codec": "zstd:1", "chunk_rows": 8}}
GZIPPED = {"observation": {"codec": "gzip:1", "chunk_rows": 16}}
KINDS: dict[str, dict[str, Any]] = {
    "a.zarr": {},
    "coded.zarr": {"storage": CODED},
    "a.h5": {},
    "coded.h5": {"storage": GZIPPED},
    "ring.zarr": {"capacity": 60},
    "coded ring.zarr": {"capacity": 60, "storage": CODED},
}
RECIPES: list[dict[str, Any]] = [
    {},
    {"next_observation": False},
    {"fragment_length": 3},
    {"fragment_length": 9, "pad": "end", "frame_stack": 2},
    {"fragment_length": 4, "pad": "start"},
    {"fragment_length": 3, "burn_in": 2},
    {"frame_stack": 3},
    {"frame_stack": 2, "n_step": 2},
    {"n_step": 3, "trajectory": True},
    {"order": "trajectory"},
    {"order": "prioritized", "beta": 0.5},
]
SEVERAL = {"fragment_length", "frame_stack", "n_step"}
"""Settings with which an item is more than a transition."""
SCHEMA = rs.Schema(
    {
        "observation": Field("i8", (2,), "observation"),
        "action": Field("i8", (), "action"),
        "reward": Field("f4", (), "reward"),
        "terminated": Field("?", (), "terminated"),
    }
)


class Loop:
    """Environments whose observations say which they are and how far they have come."""

    def __init__(self, buffer: rs.Buffer, envs: int = 3, *, often: float = 0.15) -> None:
        """`often`: how often a trajectory ends."""
        self.buffer, self.envs, self.often = buffer, envs, often
        self.writer = buffer.writer(envs)
        self.random = np.random.default_rng(0)
        self.at = np.zeros((envs, 2), "i8")
        self.at[:, 0] = np.arange(envs) * 1_000_000
        self.writer.reset(self.at)

    def step(self, *, masked: bool = False) -> None:
        mask = self.random.random(self.envs) < 0.7 if masked else np.ones(self.envs, np.bool_)
        self.at[mask, 1] += 1
        ends = (self.random.random(self.envs) < self.often) & mask
        reward = self.at[:, 1].astype("f4")
        self.writer.step(
            self.at[:, 1].copy(), reward, ends, None, self.at.copy(), mask=mask if masked else None
        )
        if ends.any():
            self.at[ends, 0] += 1
            self.at[ends, 1] = 0
            self.writer.reset(self.at, mask=ends)


def check(batch: dict[str, Any], recipe: dict[str, Any]) -> None:
    """What a batch shows follows what it shows it after."""
    if "mask" in batch:
        mask = batch["mask"]
        assert (mask.any(axis=1) & (np.diff(mask, axis=1).sum(axis=1) <= 2)).all()
        newest = np.s_[:, :, -1] if "frame_stack" in recipe else np.s_[:]
        seen, after = batch["observation"][newest], batch["next_observation"][newest]
        assert (after[mask] == seen[mask] + [0, 1]).all()
        inside = mask[:, 1:] & mask[:, :-1]
        assert (seen[:, 1:][inside] == seen[:, :-1][inside] + [0, 1]).all()
        assert not seen[~mask].any()
        assert not after[~mask].any()
        return
    seen = batch["observation"]
    if "frame_stack" in recipe:
        assert (seen[..., 0] == seen[:, -1:, 0]).all()
        steps = np.diff(seen[..., 1], axis=1)
        assert ((steps == 1) | ((steps == 0) & (seen[:, :-1, 1] == 0))).all()
    if "fragment_length" in recipe:
        assert (np.diff(seen[..., 1], axis=1) == 1).all()
        assert (seen[..., 0] == seen[:, :1, 0]).all()
    if recipe.get("next_observation", True) and "n_step" not in recipe:
        after = batch["next_observation"]
        assert (seen[..., 0] == after[..., 0]).all()
        newest = seen[..., 1] if "frame_stack" not in recipe else seen[:, -1, 1]
        assert (newest + 1 == (after[..., 1] if "frame_stack" not in recipe else after[:, -1, 1])).all()


@pytest.mark.parametrize("recipe", RECIPES, ids=str)
@pytest.mark.parametrize("name", KINDS)
def test_steps_are_shown_before_any_commit_has_them(
    tmp_path: Path, name: str, recipe: dict[str, Any]
) -> None:
    with rs.create(tmp_path / name, SCHEMA, durability="none", **KINDS[name]) as buffer:
        loop = Loop(buffer)
        for _ in range(5):
            loop.step()
        sampler = buffer.sampler(16, seed=1, live=True, **recipe)
        for number in range(120):
            loop.step(masked=number % 7 == 3)
            batch = sampler.sample()
            check(batch, recipe)
            low = max(0, buffer.rows_recorded - (buffer.capacity or buffer.rows_recorded))
            assert low <= batch["index"].min() <= batch["index"].max() < buffer.rows_recorded
            if number % 30 == 29:
                buffer.commit()
        shown = np.concatenate([sampler.sample()["index"] for _ in range(40)])
        assert shown.max() >= buffer.rows_recorded - 3 * 4


@pytest.mark.parametrize("recipe", RECIPES, ids=str)
@pytest.mark.parametrize("name", KINDS)
def test_the_same_steps_give_the_same_batches_live_or_not(
    tmp_path: Path, name: str, recipe: dict[str, Any]
) -> None:
    with rs.create(tmp_path / name, SCHEMA, durability="none", **KINDS[name]) as buffer:
        loop = Loop(buffer)
        for _ in range(8):
            loop.step()
        sampler = buffer.sampler(16, seed=1, live=True, **recipe)
        buffer.commit()
        with rs.open(tmp_path / name) as reader:
            other = reader.sampler(16, seed=1, prefetch=0, **recipe)
            for number in range(60):
                loop.step(masked=number % 5 == 3)
                if number % 3 == 0:
                    sampler.sample()  # live ones draw in between
                if number % 10 == 9:
                    buffer.commit()
                    other.refresh()
                    state = sampler.state_dict()
                    state = {name: value for name, value in state.items() if name != "rows"}
                    other.load_state_dict(
                        state | {"commit": reader.shows, "settings": other.recipe.to_json()}
                    )
                    found, expected = sampler.sample(), other.sample()
                    for field, values in expected.items():
                        assert np.array_equal(found[field], values), field


@pytest.mark.parametrize("others", [False, True])
@pytest.mark.parametrize("recipe", [recipe for recipe in RECIPES if not recipe.keys() & SEVERAL], ids=str)
@pytest.mark.parametrize("name", KINDS)
def test_what_is_staged_is_drawn_as_if_it_were_written(
    tmp_path: Path, name: str, recipe: dict[str, Any], others: bool
) -> None:
    """`others`: an open trajectory of no environment of the writer."""
    left = drawn = 0
    with rs.create(tmp_path / name, SCHEMA, durability="none", **KINDS[name]) as buffer:
        loop = Loop(buffer, often=0.02)
        loop.step()
        if others:
            rows = np.ones((2, 2), "i8")
            steps = {"action": rows[0], "reward": np.ones(2, "f4"), "terminated": np.zeros(2, "?")}
            buffer.append({"observation": rows, **steps}, env=5)
        sampler, other = (buffer.sampler(4, seed=2, live=True, trajectory=True, **recipe) for _ in range(2))
        for number in range(120):
            loop.step(masked=number % 40 == 30)
            buffer.commit() if number % 50 == 45 else None
            written = buffer.rows_recorded - loop.writer.staged
            rows, found = sampler.state_dict()["rows"], sampler.sample()
            drawn += int(found["index"].max()) >= written
            left += loop.writer.staged > 0
            buffer.flush()
            expected = other.sample()
            assert (
                rows == other.state_dict()["rows"] == [other._batches.steps.first_row, buffer.rows_recorded]
            )
            assert found.keys() == expected.keys()
            assert all(np.array_equal(found[field], expected[field]) for field in found)
    assert drawn > 3
    assert (left == 0) == others


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rhythm=st.lists(st.sampled_from(["step", "step", "flush", "commit", "look", "refresh"]), max_size=30))
def test_no_rhythm_makes_a_difference(tmp_path_factory: pytest.TempPathFactory, rhythm: list[str]) -> None:
    found = []
    for way in (rhythm, [kind for kind in rhythm if kind == "step"]):
        with rs.create(tmp_path_factory.mktemp("live") / "a.zarr", SCHEMA, durability="none") as buffer:
            loop = Loop(buffer)
            loop.step()
            sampler = buffer.sampler(8, seed=5, live=True)
            for kind in way:
                if kind == "step":
                    loop.step()
                elif kind == "flush":
                    loop.writer.flush()
                elif kind == "commit":
                    buffer.commit()
                elif kind == "look":
                    sampler.sample()
                else:
                    sampler.refresh()
            state = sampler.state_dict() | {"batch": 100}
            sampler.load_state_dict(state)
            found.append(sampler.sample())
    assert found[0].keys() == found[1].keys()
    assert all(np.array_equal(found[0][field], found[1][field]) for field in found[0])


@pytest.mark.parametrize("recipe", [{}, {"order": "prioritized", "beta": 0.4}], ids=str)
def test_a_live_sampler_goes_on_after_a_rollback_as_it_did(tmp_path: Path, recipe: dict[str, Any]) -> None:
    with rs.create(tmp_path / "a.zarr", SCHEMA) as buffer:
        loop = Loop(buffer)
        for _ in range(30):
            loop.step()
        sampler = buffer.sampler(16, seed=1, live=True, **recipe)
        batch = sampler.sample()
        if recipe:
            sampler.update_priorities(batch["index"], np.arange(16) + 0.5)
        buffer.commit("here")
        state = sampler.state_dict()
        expected = [sampler.sample() for _ in range(3)]
        for _ in range(30):
            loop.step()
        sampler.sample()
        loop.writer.close()
        buffer.rollback("here")
        with pytest.raises(ConflictError, match=r"call its refresh\(\)"):
            sampler.sample()
        assert sampler.refresh()
        sampler.load_state_dict(state)
        for batch in expected:
            again = sampler.sample()
            assert all(np.array_equal(again[field], batch[field]) for field in batch)
        other = buffer.sampler(16, live=True, **recipe)
        other.load_state_dict(state)
        again = other.sample()
        assert all(np.array_equal(again[field], expected[0][field]) for field in again)
        loop = Loop(buffer)
        loop.step()
        with pytest.raises(ConflictError, match="rows"):
            other.load_state_dict(state)


def test_a_state_of_a_history_that_was_given_up_is_refused(tmp_path: Path) -> None:
    with rs.create(tmp_path / "a.zarr", SCHEMA) as buffer:
        loop = Loop(buffer)
        loop.step()
        buffer.commit("here")
        for _ in range(10):
            loop.step()
        buffer.commit()
        sampler = buffer.sampler(16, seed=1, live=True)
        state = sampler.state_dict()
        sampler.load_state_dict(state)
        loop.writer.close()
        buffer.rollback("here")
        loop = Loop(buffer)
        for _ in range(10):
            loop.step()
        buffer.commit()
        assert sampler.refresh()
        assert sampler.state_dict()["rows"] == state["rows"]
        with pytest.raises(ConflictError, match="a rollback has given up"):
            sampler.load_state_dict(state)


def test_priorities_of_what_has_left_the_ring_are_passed_over(tmp_path: Path) -> None:
    with rs.create(tmp_path / "a.zarr", SCHEMA, capacity=90, durability="none") as buffer:
        loop = Loop(buffer)
        for _ in range(30):
            loop.step()
        sampler = buffer.sampler(64, seed=1, live=True, order="prioritized", alpha=1.0)
        batch = sampler.sample()
        for _ in range(15):
            loop.step()
        sampler.sample()
        gone = int((batch["index"] < buffer.rows_recorded - 90).sum())
        assert 0 < gone < 64
        sampler.update_priorities(batch["index"], np.full(64, 7.0))
        assert sampler.ignored == gone
        weights, first = sampler.weights, buffer.rows_recorded - 90
        kept = batch["index"][batch["index"] >= first]
        assert set(np.flatnonzero(weights == 7) + first) == set(kept.tolist())
        loop.step()
        sampler.sample()
        assert (sampler.weights[-3:] == 7).all()  # what is new weighs as much as anything did


def test_what_cannot_be_live_is_said(tmp_path: Path) -> None:
    with rs.create(tmp_path / "a.zarr", SCHEMA) as buffer:
        sampler = buffer.sampler(4, live=True)
        with pytest.raises(ArgumentError, match="no step to sample yet"):
            sampler.sample()
        for settings_ in (
            {"order": "epoch"},
            {"where": "length > 1"},
            {"split": "train"},
            {"prefetch": 2},
        ):
            with pytest.raises(ArgumentError, match="leave out live"):
                buffer.sampler(4, live=True, **settings_)
        loop = Loop(buffer)
        loop.step()
        assert sampler.sample()["index"].max() < 3
        buffer.commit()
        with rs.open(tmp_path / "a.zarr") as reader, pytest.raises(ArgumentError, match=r"mode=.r\+"):
            reader.sampler(4, live=True)
    with pytest.raises(ConflictError, match="closed"):
        sampler.sample()


def test_who_leaves_out_most_steps_is_told(tmp_path: Path) -> None:
    with rs.create(tmp_path / "a.zarr", SCHEMA) as buffer:
        loop = Loop(buffer)
        for _ in range(600):
            loop.step()
        buffer.commit()
        with pytest.warns(rs.errors.ReplayStoreWarning, match="cannot be drawn"):
            buffer.sampler(4, fragment_length=8)


@pytest.mark.parametrize("name", ["a.zarr", "a.h5"])
@pytest.mark.parametrize("live", [True, False])
def test_a_field_that_a_rollback_takes_is_told(name: str, live: bool, tmp_path: Path) -> None:
    with rs.create(tmp_path / name, rs.Schema({"reward": Field("f8", (), "reward")})) as buffer:
        buffer.append({"reward": np.arange(10.0)})
        buffer.commit("before")
        buffer.add_field("info/late", Field("i4", (), "info"))
        buffer.commit()
        sampler = buffer.sampler(4, live=live, seed=0)
        assert "info/late" in sampler.sample()
        buffer.rollback("before")
        with pytest.raises(ConflictError, match=r"call its refresh\(\)"):
            sampler.sample()
        for _ in range(2):
            with pytest.raises(ConflictError, match=r"without 'info/late'.*make another sampler"):
                sampler.refresh()
        with pytest.raises(ConflictError):
            sampler.sample()
        assert buffer.sampler(4, live=live, seed=0).sample()["reward"].shape == (4,)


@pytest.mark.parametrize(
    "recipe",
    [{"order": "trajectory"}, {"order": "prioritized"}, {"fragment_length": 2}],
    ids=str,
)
def test_parts_that_are_let_go_of_between_two_batches_are_not_drawn(
    recipe: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a look has nothing new to tell but that the others have got other numbers."""
    monkeypatch.setattr("replaystore.sampling.part_tables.DEAD", 20)
    every = recipe.get("fragment_length", 1)
    stop = 0
    with rs.create(f"memory:let-go-{recipe}", SCHEMA, capacity=100) as buffer:

        def append(count: int, env: int = 0, **ends: Any) -> None:
            nonlocal stop
            rows = np.arange(stop, stop + count)
            steps = {"observation": np.stack([rows, rows], 1), "action": rows, "reward": rows.astype("f4")}
            buffer.append(steps | {"terminated": np.zeros(count, np.bool_)}, env=env, **ends)
            stop += count

        append(100, ends=[*range(every - 1, 100, every)])
        sampler = buffer.sampler(64, seed=0, live=True, next_observation=False, **recipe)
        versions = set()
        for _ in range(40):
            append(20, ends=[*range(every - 1, 20, every)])
            append(2, env=1)
            for _ in range(3):
                batch = sampler.sample()
                assert (batch["index"] >= stop - 100).all()
                assert (batch["action"].reshape(64, -1)[:, 0] == batch["index"]).all()
                assert batch["action"].max() < stop
                versions.add(sampler._batches.steps.version)
                assert sampler._batches.steps.take_changes() is None
        assert len(versions) > 2
