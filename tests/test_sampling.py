"""Sampling against a plain loop over trajectories: what may be drawn, how often, and what a batch shows."""

from __future__ import annotations

import base64
import copy
import json
import pickle
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import replaystore as rs
from replaystore.columns.coded import CodedColumn
from replaystore.columns.slab import Slab
from replaystore.errors import ConflictError, SchemaError
from replaystore.schema.fields import Field

FLAG = Field("?", (), "terminated")


def schema(shape: tuple[int, ...] = (2,)) -> rs.Schema:
    """The observation of a step says which trajectory and which step it is."""
    return rs.Schema(
        {
            "observation": Field("i4", shape, "observation"),
            "action": Field("i2", (), "action"),
            "reward": Field("f4", (), "reward"),
            "terminated": FLAG,
            "truncated": Field("?", (), "truncated"),
        }
    )


@dataclass
class Life:
    """A trajectory in plain lists."""

    number: int
    observations: list[np.ndarray[Any, Any]] = field(default_factory=list)
    rewards: list[float] = field(default_factory=list)
    terminated: list[bool] = field(default_factory=list)
    truncated: list[bool] = field(default_factory=list)
    after: np.ndarray[Any, Any] | None = None
    rows: list[int] = field(default_factory=list)
    split: str = ""

    def following(self, at: int) -> np.ndarray[Any, Any] | None:
        return self.observations[at + 1] if at + 1 < len(self.observations) else self.after


def observation(shape: tuple[int, ...], trajectory: int, step: int) -> np.ndarray[Any, Any]:
    values = np.zeros(shape, "i4")
    values.reshape(-1)[:2] = trajectory, step
    return values


def fill(buffer: rs.Buffer, plan: list[tuple[int, int, bool, bool]], *, commit_every: int = 1) -> list[Life]:
    """Pieces of trajectories: (environment, steps, whether it ends, whether what follows is known); the
    trajectories in plain lists."""
    shape = buffer.schema.fields["observation"].shape
    lives: list[Life] = []
    opened: dict[int, Life] = {}
    row = 0
    for number, (env, count, ends, known) in enumerate(plan):
        life = opened.get(env)
        if life is None:
            life = opened[env] = Life(len(lives), split=f"s{env % 2}")
            lives.append(life)
        begin = len(life.rows)
        rows = [observation(shape, life.number, begin + step) for step in range(count)]
        terminated = [ends and step == count - 1 and number % 3 != 1 for step in range(count)]
        truncated = [ends and step == count - 1 and number % 3 != 0 for step in range(count)]
        rewards = [float((life.number * 7 + begin + step) % 11) for step in range(count)]
        after = observation(shape, life.number, begin + count)
        followed = known or not ends
        buffer.append(
            {
                "observation": np.array(rows, "i4"),
                "action": np.arange(begin, begin + count).astype("i2"),
                "reward": np.array(rewards, "f4"),
                "terminated": np.array(terminated),
                "truncated": np.array(truncated),
            },
            env=env,
            final_observation=after if followed else None,
            split=life.split,
        )
        life.observations += rows
        life.rewards += rewards
        life.terminated += terminated
        life.truncated += truncated
        life.rows += range(row, row + count)
        life.after = after if followed else None
        row += count
        if ends:
            del opened[env]
        if number % commit_every == commit_every - 1:
            buffer.commit()
    buffer.commit()
    return lives


PLANS = st.lists(
    st.tuples(st.integers(0, 2), st.integers(1, 9), st.booleans(), st.booleans()), min_size=1, max_size=14
)
STORES = {
    ".zarr": {},
    ".h5": {},
    ".zarr ": {
        "storage": {
            "observation": {"codec": "zstd:1", "chunk_rows": 4},
            "action": {"codec": "zstd:1", "chunk_rows": 8},
        }
    },
    ".h5 ": {
        "storage": {
            "observation": {"codec": "gzip:1", "chunk_rows": 4},
            "reward": {"codec": "zstd:1", "chunk_rows": 4},
        }
    },
}


@pytest.fixture
def stored(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[rs.Buffer, list[Life]]]:
    """A buffer with trajectories of many lengths, in parts, some open; and the plain lists."""
    plan = [
        (0, 9, True, True),
        (1, 3, False, True),
        (0, 4, False, True),
        (1, 5, True, True),
        (2, 1, True, True),
        (0, 30, True, True),
    ]
    plan += [(2, 12, False, True), (1, 7, True, True), (0, 2, False, True), (2, 8, False, True)]
    suffix = getattr(request, "param", ".zarr")
    with rs.create(tmp_path / f"a{suffix.strip()}", schema(), **STORES[suffix]) as buffer:
        lives = fill(buffer, plan)
    with rs.open(tmp_path / f"a{suffix.strip()}") as buffer:
        yield buffer, lives


every_store = pytest.mark.parametrize("stored", STORES, indirect=True)


def place_of(lives: list[Life], shown: np.ndarray[Any, Any]) -> tuple[Life, int]:
    trajectory, step = shown.reshape(-1)[:2].tolist()
    return lives[trajectory], step


# --- what is drawn, and what it shows


@settings(max_examples=60, deadline=None)
@given(PLANS, st.sampled_from(list(STORES)), st.integers(1, 5), st.integers(0, 2**32), st.data())
def test_any_buffer_is_sampled_as_a_plain_loop_says(
    plan: Any, suffix: str, commit_every: int, seed: int, data: st.DataObject
) -> None:
    kind = data.draw(st.sampled_from(["transitions", "fragments", "stacks", "n_step", "stacked n_step"]))
    order = data.draw(st.sampled_from(["uniform", "trajectory", "epoch", "weights", "trajectory weights"]))
    split = data.draw(st.sampled_from([None, "s0", "s1"]))
    following = data.draw(st.booleans())
    depth, size = data.draw(st.integers(1, 6)), data.draw(st.integers(1, 20))
    with (
        tempfile.TemporaryDirectory() as folder,
        rs.create(f"{folder}/a{suffix.strip()}", schema(), **STORES[suffix]) as buffer,
    ):
        lives = fill(buffer, plan, commit_every=commit_every)
        chosen: dict[str, Any] = {"next_observation": following, "split": split, "seed": seed, "prefetch": 0}
        span = 1
        if kind == "fragments":
            chosen["fragment_length"] = span = depth
        if "stack" in kind:
            chosen["frame_stack"] = depth
        if "n_step" in kind:
            chosen |= {"n_step": depth, "gamma": 0.5}
        items = [
            (life, at)
            for life in lives
            if split is None or life.split == split
            for at in range(len(life.rows) - span + 1)
            if not following or life.following(at + span - 1) is not None
        ]
        if order.endswith("weights"):
            count = buffer.num_trajectories if "trajectory" in order else len(buffer)
            chosen["order"] = np.random.default_rng(seed).random(count) + 0.1
        else:
            chosen["order"] = order
        if not items:
            with pytest.raises(SchemaError, match="no "):
                buffer.sampler(size, **chosen)
            return
        sampler = buffer.sampler(size, **chosen)
        assert sampler.num_items == len(items)
        seen: Counter[tuple[int, int]] = Counter()
        for batch in list(sampler) if order == "epoch" else [sampler.sample() for _ in range(4)]:
            for number in range(len(batch["action"])):
                seen[
                    check(
                        lives,
                        {name: values[number] for name, values in batch.items()},
                        kind,
                        depth,
                        following,
                    )
                ] += 1
        assert seen.keys() <= {(life.number, at) for life, at in items}
        if order == "epoch":
            assert seen == Counter((life.number, at) for life, at in items)


def check(lives: list[Life], item: dict[str, Any], kind: str, depth: int, following: bool) -> tuple[int, int]:
    """Compare one item of a batch with the lists; which trajectory and step it is."""
    if kind == "fragments":
        life, at = place_of(lives, item["observation"][0])
        for step in range(depth):
            assert np.array_equal(item["observation"][step], life.observations[at + step])
            assert item["action"][step] == at + step
            assert item["reward"][step] == life.rewards[at + step]
            assert (item["terminated"][step], item["truncated"][step]) == (
                life.terminated[at + step],
                life.truncated[at + step],
            )
            if following:
                assert np.array_equal(item["next_observation"][step], life.following(at + step))
        return life.number, at
    stacked = "stack" in kind
    life, at = place_of(lives, item["observation"][-1] if stacked else item["observation"])
    assert item["action"] == at
    last = at
    if "n_step" in kind and depth > 1:
        known = len(life.rows) - (following and life.after is None)
        last = min(at + depth, known) - 1
        expected = sum(0.5 ** (step - at) * life.rewards[step] for step in range(at, last + 1))
        assert item["reward"] == np.float32(expected)
        assert item["discount"] == (0 if life.terminated[last] else 0.5 ** (last + 1 - at))
    else:
        assert item["reward"] == life.rewards[at]
    assert (item["terminated"], item["truncated"]) == (life.terminated[last], life.truncated[last])
    if stacked:
        for back in range(depth):
            assert np.array_equal(item["observation"][depth - 1 - back], life.observations[max(0, at - back)])
    else:
        assert np.array_equal(item["observation"], life.observations[at])
    if following:
        shown = item["next_observation"]
        assert np.array_equal(shown[-1] if stacked else shown, life.following(last))
        for back in range(1, depth if stacked else 0):
            assert np.array_equal(shown[depth - 1 - back], life.observations[max(0, last + 1 - back)])
    return life.number, at


@pytest.mark.parametrize("capacity", [40, 64])
@pytest.mark.parametrize("kind", ["transitions", "fragments", "stacks", "n_step"])
def test_rings_show_only_what_is_left(tmp_path: Path, capacity: int, kind: str) -> None:
    depth = 4
    chosen: dict[str, Any] = {
        "fragments": {"fragment_length": depth},
        "stacks": {"frame_stack": depth},
        "n_step": {"n_step": depth, "gamma": 0.5},
    }
    plan = [(number % 3, 1 + number * 5 % 11, number % 4 == 3, True) for number in range(60)]
    with rs.create(tmp_path / "a.zarr", schema(), capacity=capacity) as buffer:
        lives = fill(buffer, plan)
        assert sum(len(life.rows) for life in lives) > len(buffer) >= capacity
        kept = sum(len(life.rows) for life in lives) - len(buffer)
        sampler = buffer.sampler(16, order="epoch", seed=0, **chosen.get(kind, {}))
        seen = set()
        for batch in sampler:
            for number in range(len(batch["action"])):
                seen.add(
                    check(lives, {name: values[number] for name, values in batch.items()}, kind, depth, True)
                )
    expected = set()
    for life in lives:
        for at, row in enumerate(life.rows):
            first = at - depth + 1 if kind == "stacks" else at
            shown = life.rows[max(first, 0)] >= kept
            known = life.following(at + (depth - 1 if kind == "fragments" else 0)) is not None
            if row >= kept and shown and known and (kind != "fragments" or at + depth <= len(life.rows)):
                expected.add((life.number, at))
    assert seen == expected


# --- how often


def chi_square(counts: np.ndarray[Any, Any], expected: np.ndarray[Any, Any]) -> float:
    """Standard deviations from what is expected of a sum of squares with so many degrees of freedom."""
    degrees = len(counts) - 1
    return float((((counts - expected) ** 2 / expected).sum() - degrees) / np.sqrt(2 * degrees))


def drawn(buffer: rs.Buffer, batches: int, **settings: Any) -> np.ndarray[Any, Any]:
    """How often each row was drawn."""
    sampler = buffer.sampler(512, fields=["observation", "action"], seed=5, **settings)
    where = {tuple(row): number for number, row in enumerate(buffer["observation"][:].tolist())}
    counts = np.zeros(len(buffer))
    for _ in range(batches):
        rows = [where[tuple(row)] for row in sampler.sample()["observation"].tolist()]
        counts += np.bincount(rows, minlength=len(buffer))
    return counts


@every_store
def test_uniform_draws_are_uniform_over_steps(stored: tuple[rs.Buffer, list[Life]]) -> None:
    counts = drawn(stored[0], 40)

    assert abs(chi_square(counts, np.full(len(counts), counts.mean()))) < 5


def test_trajectories_are_drawn_alike_whatever_their_lengths(stored: tuple[rs.Buffer, list[Life]]) -> None:
    buffer, lives = stored
    counts = drawn(buffer, 40, order="trajectory")
    of = np.array([counts[life.rows].sum() for life in lives])

    assert abs(chi_square(of, np.full(len(of), of.mean()))) < 5
    longest = max(lives, key=lambda life: len(life.rows))
    inside = counts[longest.rows]
    assert abs(chi_square(inside, np.full(len(inside), inside.mean()))) < 5


def test_weighted_draws_are_in_proportion(stored: tuple[rs.Buffer, list[Life]]) -> None:
    weights = np.random.default_rng(0).random(len(stored[0]))
    weights[[3, 17]] = 0
    counts = drawn(stored[0], 60, order=weights)

    assert counts[[3, 17]].tolist() == [0, 0]
    some = weights > 0
    assert abs(chi_square(counts[some], counts.sum() * weights[some] / weights.sum())) < 5


def test_weights_of_trajectories_are_in_proportion(stored: tuple[rs.Buffer, list[Life]]) -> None:
    buffer, lives = stored
    weights = np.arange(buffer.num_trajectories, dtype=float)
    counts = drawn(buffer, 60, order=weights)
    of = np.array([counts[lives[number].rows].sum() for number in buffer.trajectories["trajectory"].tolist()])

    assert of[0] == 0
    assert abs(chi_square(of[1:], of.sum() * weights[1:] / weights.sum())) < 5


# --- weights


@pytest.mark.parametrize("count", [1, 15, 16, 17, 4096, 100_000])
def test_weights_can_be_changed(count: int) -> None:
    from replaystore.sampling.weights import WeightTree

    generator = np.random.default_rng(count)
    plain = generator.random(count) * (generator.random(count) < 0.5)
    plain[0] = 1
    tree = WeightTree(plain)
    for _ in range(5):
        at = generator.integers(0, count, 50)
        new = generator.random(50) * (generator.random(50) < 0.7)
        tree.update(at, new)
        for place, value in zip(at.tolist(), new.tolist(), strict=True):
            plain[place] = value
        plain[0] = 1
        tree.update(np.array([0]), np.array([1.0]))
        assert np.array_equal(tree.values, plain)
        assert tree.total == pytest.approx(plain.sum(), rel=1e-12)
        assert tree.smallest == plain[plain > 0].min()
        uniform = np.append(generator.random(200), [0.0, np.nextafter(1, 0)])
        found, weights = tree.draw(uniform)
        assert (weights > 0).all()
        assert np.array_equal(weights, plain[found])
        cumulated = np.cumsum(plain)
        target = uniform * cumulated[-1]
        slack = 1e-9 * cumulated[-1]
        assert (cumulated[found] >= target - slack).all()
        assert (cumulated[found] - plain[found] <= target + slack).all()


def test_importance_weights_make_up_for_how_likely_steps_are(stored: tuple[rs.Buffer, list[Life]]) -> None:
    buffer, _ = stored
    weights = np.random.default_rng(0).random(len(buffer)) + 0.01
    sampler = buffer.sampler(64, order=weights, beta=0.7, seed=0)
    batch = sampler.sample()

    expected = (weights[batch["index"]] / weights.min()) ** -0.7
    assert batch["weight"] == pytest.approx(expected)
    sampler.update_weights(batch["index"], np.zeros(64))
    assert not set(sampler.sample()["index"]) & set(batch["index"])
    assert (sampler.weights[batch["index"]] == 0).all()


# --- order


@every_store
@pytest.mark.parametrize("order", ["uniform", "trajectory", "epoch"])
@pytest.mark.parametrize("chosen", [{}, {"fragment_length": 3}, {"frame_stack": 3}, {"n_step": 3}], ids=str)
def test_the_same_seed_gives_the_same_batches_however_many_are_made_ahead(
    stored: tuple[rs.Buffer, list[Life]], order: Any, chosen: dict[str, int]
) -> None:
    buffer, _ = stored
    samplers = [buffer.sampler(7, order=order, seed=3, prefetch=prefetch, **chosen) for prefetch in (0, 1, 3)]
    other = buffer.sampler(7, order=order, seed=4, **chosen)
    differs = False
    for number in range(50):
        batches = [sampler.sample() for sampler in samplers]
        for batch in batches[1:]:
            assert batch.keys() == batches[0].keys()
            assert all(np.array_equal(batch[name], batches[0][name]) for name in batch)
        differs |= not np.array_equal(other.sample()["observation"], batches[0]["observation"])
        if number == 20:
            state = samplers[2].state_dict()
            again = buffer.sampler(7, order=order, seed=9, **chosen)
            again.load_state_dict(state)
            samplers.append(again)
    assert differs
    for sampler in samplers:
        sampler.close()


def test_weighted_sampling_goes_on_where_it_was(stored: tuple[rs.Buffer, list[Life]]) -> None:
    buffer, _ = stored
    sampler = buffer.sampler(7, order=np.ones(len(buffer)), seed=3)
    for _ in range(10):
        batch = sampler.sample()
        sampler.update_weights(batch["index"], batch["index"] % 5)
    again = buffer.sampler(7, order=np.ones(len(buffer)))
    again.load_state_dict(sampler.state_dict())
    for _ in range(10):
        assert np.array_equal(again.sample()["index"], sampler.sample()["index"])


def through_torch(state: dict[str, Any], folder: Path) -> Any:
    torch.save({"model": torch.nn.Linear(2, 2).state_dict(), "sampler": state}, folder / "checkpoint.pt")
    return torch.load(folder / "checkpoint.pt")["sampler"]


def as_once(state: dict[str, Any], _: Path) -> Any:
    """As states were before they were of Python's own types alone."""
    older = copy.deepcopy(state)
    older["settings"]["names"] = tuple(older["settings"]["names"])
    if "weights" in older:
        older["weights"] = np.frombuffer(base64.b64decode(older["weights"]))
    return older


WAYS = {
    "torch": through_torch,
    "json": lambda state, _: json.loads(json.dumps(state, allow_nan=False)),
    "pickle": lambda state, _: pickle.loads(pickle.dumps(state)),
    "as once": as_once,
}


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize(
    "chosen",
    [
        {},
        {
            "batch_size": np.int64(5),
            "gamma": np.float32(0.5),
            "n_step": np.int32(2),
            "where": np.str_("length > 0"),
        },
    ],
    ids=["plain", "NumPy's numbers"],
)
@pytest.mark.parametrize(
    "order", ["uniform", "trajectory", "epoch", "weights of steps", "weights of trajectories"]
)
def test_every_state_passes_through_what_checkpoints_are_made_of(
    stored: tuple[rs.Buffer, list[Life]],
    tmp_path: Path,
    order: str,
    chosen: dict[str, Any],
    way: Callable[[dict[str, Any], Path], Any],
) -> None:
    buffer, _ = stored
    weights = {"weights of steps": len(buffer), "weights of trajectories": buffer.num_trajectories}
    settings: dict[str, Any] = {
        "batch_size": 7,
        "order": np.arange(1.0, weights[order] + 1) / 3 if order in weights else order,
        **chosen,
    }
    sampler = buffer.sampler(seed=1 << 100, **settings)
    batch = sampler.sample()
    if order in weights:
        sampler.update_weights(batch["index"], batch["index"] % 5 + 0.1)

    again = buffer.sampler(**settings)
    again.load_state_dict(way(sampler.state_dict(), tmp_path))

    for _ in range(3):
        expected, found = sampler.sample(), again.sample()
        assert expected.keys() == found.keys()
        assert all(np.array_equal(expected[name], found[name]) for name in expected)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": "1"}, "seed is '1', not a number"),
        ({"batch": None}, "batch is None"),
        ({"epoch": -1}, "epoch is -1"),
        ({"commit": 0.5}, "commit is 0.5"),
        ({"settings": [1]}, "settings is a list, not a dict"),
        ({"weights": "?"}, "not the weights of a sampler's state"),
        ({"weights": "AAAA"}, "not the weights of a sampler's state"),
        ({"weights": [1.0]}, "weights have shape"),
    ],
    ids=str,
)
def test_a_state_that_is_none_changes_nothing(
    stored: tuple[rs.Buffer, list[Life]], change: dict[str, Any], message: str
) -> None:
    buffer, _ = stored
    sampler = buffer.sampler(7, order=np.ones(len(buffer)), seed=3)
    sampler.sample()
    before = sampler.state_dict()
    with pytest.raises(SchemaError, match=message):
        sampler.load_state_dict(buffer.sampler(7, order=np.ones(len(buffer)), seed=4).state_dict() | change)
    assert sampler.state_dict() == before
    with pytest.raises(SchemaError, match="are missing"):
        sampler.load_state_dict(None)  # type: ignore[arg-type]


def test_a_state_belongs_to_its_settings(stored: tuple[rs.Buffer, list[Life]]) -> None:
    buffer, _ = stored
    state = json.loads(json.dumps(buffer.sampler(7, n_step=3, seed=3).state_dict()))
    buffer.sampler(7, n_step=3).load_state_dict(state)
    for chosen, message in (
        ({"n_step": 2}, "n_step 3; this one has 2"),
        ({"n_step": 3, "fields": ["action"]}, "sampler with names"),
    ):
        with pytest.raises(SchemaError, match=message):
            buffer.sampler(7, **chosen).load_state_dict(state)
    with pytest.raises(SchemaError, match="weights are missing"):
        buffer.sampler(7, order=np.ones(len(buffer))).load_state_dict(state)


def test_weights_that_have_all_become_0_are_an_error(stored: tuple[rs.Buffer, list[Life]]) -> None:
    buffer, _ = stored
    sampler = buffer.sampler(7, order=np.ones(len(buffer)))
    sampler.update_weights(np.arange(len(buffer)), np.zeros(len(buffer)))
    with pytest.raises(SchemaError, match="all weights have become 0"):
        sampler.sample()
    sampler.update_weights([3], [1.0])
    assert set(sampler.sample()["index"]) == {3}


def test_each_epoch_is_another_permutation(stored: tuple[rs.Buffer, list[Life]]) -> None:
    sampler = stored[0].sampler(7, order="epoch", seed=0)
    assert len(sampler) == -(-sampler.num_items // 7)
    first, second = list(sampler), list(sampler)
    assert sampler.epoch == 2
    assert [len(batch["action"]) for batch in first] == [7] * (len(sampler) - 1) + [
        sampler.num_items - 7 * (len(sampler) - 1)
    ]
    orders = [np.concatenate([batch["observation"] for batch in epoch]).tolist() for epoch in (first, second)]
    assert orders[0] != orders[1]
    assert sorted(orders[0]) == sorted(orders[1])


def test_an_epoch_decodes_each_chunk_once_and_looks_once_for_each_pool(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    columns = {
        "observation": np.arange(6000 * 64, dtype="i4").reshape(-1, 64),
        "terminated": np.arange(6000) % 100 == 99,
    }
    fields = {"observation": Field("i4", (64,), "observation"), "terminated": FLAG}
    with rs.create(
        tmp_path / "a.zarr", rs.Schema(fields), storage={"observation": {"codec": "zstd:1", "chunk_rows": 16}}
    ) as writer:
        writer.append(columns)
        writer.commit()
        decoded, looked, decode, hold = list[int](), list[int](), CodedColumn.decode, Slab.hold
        monkeypatch.setattr(
            CodedColumn,
            "decode",
            lambda self, chunks, *more: decoded.append(len(chunks)) or decode(self, chunks, *more),
        )
        monkeypatch.setattr(Slab, "hold", lambda self, *rows: looked.append(1) or hold(self, *rows))
        third = columns["observation"].nbytes // 3
        sampler = writer.sampler(
            4,
            order="epoch",
            fields=["observation"],
            next_observation=False,
            slab_bytes=third,
            seed=0,
            prefetch=0,
        )
        shown = np.sort(np.concatenate([batch["observation"][:, 0] for batch in sampler]))
        assert (shown == columns["observation"][:, 0]).all()
        assert sum(decoded) == 375
        pools = -(-375 // sampler._batches.order._pool_blocks)
        assert 5 < pools <= len(looked) <= 2 * pools  # one more where batches begin to show the next pool


def test_endless_orders_have_no_length(stored: tuple[rs.Buffer, list[Life]]) -> None:
    with pytest.raises(TypeError, match="num_items"):
        len(stored[0].sampler(7))


@every_store
@pytest.mark.parametrize("chosen", [{}, {"fragment_length": 3}, {"frame_stack": 3}, {"n_step": 3}], ids=str)
def test_arrays_are_used_again_if_asked(stored: tuple[rs.Buffer, list[Life]], chosen: dict[str, int]) -> None:
    sampler, other = (stored[0].sampler(9, seed=1, prefetch=0, **chosen) for _ in range(2))
    first = {name: values.copy() for name, values in sampler.sample().items()}
    other.sample()
    kept = dict(first)
    for _ in range(5):
        filled, expected = sampler.sample(out=first), other.sample()
        assert all(filled[name] is kept[name] for name in kept)
        assert all(np.array_equal(filled[name], expected[name]) for name in expected)


# --- a store that grows


@every_store
@pytest.mark.parametrize("prefetch", [0, 2])
def test_a_sampler_shows_one_commit_until_it_is_refreshed(
    tmp_path: Path, stored: Any, prefetch: int, request: pytest.FixtureRequest
) -> None:
    suffix = request.node.callspec.params["stored"].strip()
    name = tmp_path / f"a{suffix}"
    reader, _ = stored
    sampler = reader.sampler(64, seed=1, prefetch=prefetch)
    before = {tuple(row) for _ in range(30) for row in sampler.sample()["observation"].tolist()}
    with rs.open(name, "r+") as writer:
        writer.append(
            {
                "observation": np.array([observation((2,), 1000, step) for step in range(90)]),
                "action": np.zeros(90, "i2"),
                "reward": np.zeros(90, "f4"),
                "terminated": np.arange(90) == 89,
                "truncated": np.zeros(90, bool),
            },
            env=77,
            final_observation=observation((2,), 1000, 90),
        )
        writer.commit()
        assert not {1000} & {row[0] for _ in range(10) for row in sampler.sample()["observation"].tolist()}
        state = sampler.state_dict()
        assert sampler.refresh()
        assert not sampler.refresh()
        assert {1000} & {row[0] for _ in range(10) for row in sampler.sample()["observation"].tolist()}
        with pytest.raises(ConflictError, match="commit="):
            sampler.load_state_dict(state)
    assert len(before) > 60


def test_refreshing_gives_new_steps_the_largest_weight(tmp_path: Path) -> None:
    with rs.create(tmp_path / "a.zarr", schema()) as buffer:
        fill(buffer, [(0, 9, True, True)])
        sampler = buffer.sampler(4, order=np.arange(9.0))
        trajectories = buffer.sampler(4, order=np.array([3.0]))
        fill(buffer, [(0, 5, True, True)])
        assert sampler.refresh()
        assert trajectories.refresh()
        assert sampler.weights.tolist() == [*range(9), *[8] * 5]
        assert trajectories.weights.tolist() == [3, 3]
        epoch = buffer.sampler(4, order="epoch")
        epoch.sample()
        fill(buffer, [(0, 5, True, True)])
        epoch.refresh()
        assert (epoch.epoch, sum(len(batch["action"]) for batch in epoch)) == (1, 19)


# --- what cannot be


def test_what_cannot_be_is_one_clear_error(stored: tuple[rs.Buffer, list[Life]]) -> None:
    buffer, _ = stored
    steps = len(buffer)
    cases: list[tuple[dict[str, Any], str]] = [
        ({"fragment_length": 35}, "no trajectory has 35 steps; the longest has 34"),
        (
            {"fragment_length": 31, "split": "s1"},
            "no trajectory with split 's1' has 31 steps; the longest has 8",
        ),
        ({"split": "nope"}, "no trajectory has split 'nope'"),
        ({"where": "length > 1000"}, "no trajectory has where 'length > 1000'"),
        ({"where": "size > 1000"}, 'no column "size"'),
        ({"fields": ["nope"]}, "nope"),
        ({"order": "shuffled"}, '"uniform", "trajectory", "epoch" or an array of weights'),
        ({"order": np.full(steps, np.nan)}, "weight 0 is nan"),
        ({"order": -np.ones(steps)}, "weight 0 is -1"),
        ({"order": np.zeros(steps)}, "all weights are 0"),
        ({"order": np.ones(3)}, f"one for each of {steps} steps, or for each of 7 trajectories"),
        ({"order": np.ones(steps), "prefetch": 2}, "leave out prefetch"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"frame_stack": 0}, "frame_stack must be at least 1"),
        ({"n_step": 2.5}, "n_step must be at least 1"),
        ({"gamma": 1.5}, "gamma must lie between 0 and 1"),
        ({"beta": np.nan}, "beta"),
        ({"seed": -1}, "seed must be"),
        ({"prefetch": -1}, "prefetch must be"),
        ({"fragment_length": 3, "n_step": 2}, "leave out frame_stack and n_step"),
        ({"device": "toaster"}, "device 'toaster' is none of PyTorch's"),
        *(
            ({"device": name}, " use device='cpu'")
            for name in (f"cuda:{torch.cuda.device_count()}", "meta", "xla")
        ),
    ]
    for chosen, message in cases:
        with pytest.raises(SchemaError) as caught:
            buffer.sampler(**chosen)
        assert message in str(caught.value), str(caught.value)
        assert "\n" not in str(caught.value)


def test_arrays_that_do_not_fit_are_refused(stored: tuple[rs.Buffer, list[Life]]) -> None:
    sampler = stored[0].sampler(5)
    batch = sampler.sample()
    for wrong in ({}, batch | {"action": np.zeros(5)}, batch | {"observation": np.zeros((5, 3), "i4")}):
        with pytest.raises(SchemaError, match=r"out\['\w+'\] is .* it has to be"):
            sampler.sample(out=wrong)
    with pytest.raises(SchemaError, match="leave out `out`"):
        stored[0].sampler(5, prefetch=1).sample(out=batch)


def test_batches_become_tensors(stored: tuple[rs.Buffer, list[Life]]) -> None:
    import torch

    batch, plain = stored[0].sampler(5, seed=1, device="cpu").sample(), stored[0].sampler(5, seed=1).sample()
    assert {name: value.dtype for name, value in batch.items()}["reward"] == torch.float32
    assert all(np.array_equal(batch[name].numpy(), plain[name]) for name in plain)


def test_it_says_how_it_reads(stored: tuple[rs.Buffer, list[Life]]) -> None:
    told = stored[0].sampler(5, seed=1).explain()
    assert told.splitlines()[0] == (
        f"uniform: batches of 5 out of {len(stored[0])} steps of commit {stored[0].commit_id}, seed 1"
    )
    assert "observation: raw, mapped: one take" in told


def test_a_closed_buffer_gives_no_more_batches(tmp_path: Path) -> None:
    with rs.create(tmp_path / "a.zarr", schema()) as buffer:
        fill(buffer, [(0, 9, True, True)])
        sampler = buffer.sampler(4)
    with pytest.raises(ConflictError, match="closed"):
        sampler.sample()


def test_a_writer_that_went_back_is_noticed(tmp_path: Path) -> None:
    with rs.create(tmp_path / "a.zarr", schema()) as buffer:
        fill(buffer, [(0, 9, True, True)])
        commit = buffer.commit_id
        fill(buffer, [(0, 9, True, True)])
        sampler = buffer.sampler(4)
        buffer.rollback(commit)
        with pytest.raises(ConflictError, match="refresh"):
            sampler.sample()
        assert sampler.refresh()
        assert sampler.num_items == 9
        sampler.sample()
