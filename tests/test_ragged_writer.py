"""Writers record values of any length as they record numbers: beside each value lies the number that it is
made of, and is where that is, whatever is reset, left out, flushed and committed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import count
from typing import Any

import numbered_values
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

import replaystore as rs
from replaystore.buffers import staging
from replaystore.buffers.buffer import Buffer
from replaystore.buffers.pool import Pool
from replaystore.errors import SchemaError
from replaystore.schema import tree
from replaystore.testing.contents import final_by_field

SCHEMA = numbered_values.SCHEMA.select(["observation", "action", "reward", "terminated", "truncated"])
places = count()


def tokens(number: int) -> NDArray[np.int32]:
    return np.arange(number % 7, dtype=np.int32) + number


def text(number: int) -> str:
    return "" if number % 5 == 0 else f"{number}é🙂"[: 1 + number % 9]


def moves(number: int) -> NDArray[np.float32]:
    return np.full((number % 3, 2), number, np.float32)


def observations(ids: Sequence[int]) -> dict[str, Any]:
    return {
        "id": np.array(ids),
        "text": [text(number) for number in ids],
        "tokens": [tokens(number) for number in ids],
    }


def created(**options: Any) -> Buffer:
    return rs.create(f"memory:ragged-writer-{next(places) % 4}", SCHEMA, overwrite=True, **options)


def values_are_those_of_their_numbers(columns: Mapping[str, Any]) -> None:
    for place, number in enumerate(columns["observation/id"].tolist()):
        assert columns["observation/tokens"][place].tolist() == tokens(number).tolist()
        assert columns["observation/text"][place] == text(number)
    for place, number in enumerate(columns["action/id"].tolist()):
        assert np.array_equal(columns["action/moves"][place], moves(number))


def check(buffer: Buffer) -> list[tuple[list[int], int | None]]:
    """Look at all values; of each trajectory the numbers of its observations, and of that after the last."""
    columns = buffer.read(slice(None))
    values_are_those_of_their_numbers(columns)
    for name in ("observation/tokens", "observation/text", "action/moves"):
        begins = buffer.rows(name, slice(None))[:, 0]
        assert (np.diff(begins) >= 0).all()
    found = list[tuple[list[int], int | None]]()
    for trajectory in map(buffer.trajectory, range(buffer.num_trajectories)):
        values_are_those_of_their_numbers(trajectory.columns)
        final = final_by_field(trajectory)
        if final is not None:
            number = int(final["observation/id"])
            assert final["observation/tokens"].tolist() == tokens(number).tolist()
            assert final["observation/text"] == text(number)
        found.append((trajectory.columns["observation/id"].tolist(), None if final is None else number))
    return found


class World:
    """Steps of some environments, whose observations have numbers of their own, and what has to come of
    them."""

    def __init__(self, num_envs: int, buffer: Buffer) -> None:
        self.num_envs, self.buffer = num_envs, buffer
        self.ids, self.actions = count(1), count(1)
        self.seen = [0] * num_envs
        self.happened: list[list[tuple[list[int], int]]] = [[] for _ in range(num_envs)]
        self.ended = [True] * num_envs
        self.begin()

    def begin(self) -> None:
        self.writer = self.buffer.writer(self.num_envs)
        self.reset(None)

    def reset(self, mask: list[bool] | None) -> None:
        new = [next(self.ids) for _ in range(self.num_envs)]
        mask_array = None if mask is None else np.array(mask)
        self.writer.reset(observations(new), mask=mask_array)
        for env in range(self.num_envs):
            if mask is None or mask[env]:
                self.seen[env], self.ended[env] = new[env], False
                self.happened[env].append(([], new[env]))

    def step(self, mask: list[bool] | None, done: list[bool]) -> None:
        new, acts = ([next(ids) for _ in range(self.num_envs)] for ids in (self.ids, self.actions))
        recorded = [mask is None or mask[env] for env in range(self.num_envs)]
        ended = np.array([one and there for one, there in zip(done, recorded, strict=True)])
        self.writer.step(
            {"id": np.array(acts), "moves": [moves(number) for number in acts]},
            np.zeros(self.num_envs),
            ended,
            np.zeros(self.num_envs, bool),
            observations(new),
            mask=None if mask is None else np.array(mask),
        )
        for env in range(self.num_envs):
            if recorded[env]:
                if self.ended[env]:  # what ended a trajectory is also the first of the next
                    self.happened[env].append(([], self.seen[env]))
                self.happened[env][-1][0].append(self.seen[env])
                self.happened[env][-1] = self.happened[env][-1][0], new[env]
                self.seen[env], self.ended[env] = new[env], bool(ended[env])

    def expected(self) -> list[tuple[list[int], int]]:
        return sorted(story for stories in self.happened for story in stories if story[0])


ends = st.lists(st.sampled_from([False] * 4 + [True]), min_size=3, max_size=3)
masks = st.none() | st.lists(st.booleans(), min_size=3, max_size=3)
moves_of = st.one_of(
    st.tuples(st.just("step"), masks, ends),
    st.tuples(st.just("step"), st.none(), st.just([False] * 3)),
    st.tuples(st.just("reset"), masks, st.none()),
    st.tuples(st.sampled_from(["flush", "commit", "writer"]), st.none(), st.none()),
)


@given(st.lists(moves_of, max_size=30), st.sampled_from([1, 3]), st.booleans())
def test_values_lie_where_their_numbers_lie(steps: list[Any], num_envs: int, ring: bool) -> None:
    with created(capacity=1000 if ring else None) as buffer:
        world = World(num_envs, buffer)
        for name, given_mask, done in steps:
            mask = given_mask and given_mask[:num_envs]
            if name == "step":
                world.step(mask, done[:num_envs])
            elif name == "reset":
                world.reset(mask)
            elif name == "writer":
                world.writer.close()
                world.begin()
            else:
                getattr(buffer, name)()
        world.writer.close()
        buffer.commit()

        assert sorted(check(buffer)) == world.expected()


@given(st.data(), st.lists(st.lists(st.booleans(), min_size=3, max_size=3), min_size=1, max_size=12))
def test_when_steps_are_handed_over_changes_no_value(data: st.DataObject, done: list[list[bool]]) -> None:
    contents = list[tuple[Any, Mapping[str, Any]]]()
    for often in (False, True):
        with created() as buffer:
            world = World(3, buffer)
            for ended in done:
                world.step(None, ended)
                if often:
                    getattr(buffer, data.draw(st.sampled_from(["flush", "commit", "look"])))()
            world.writer.close()
            buffer.commit()
            contents.append((check(buffer), buffer.read(slice(None))))
    (stories, columns), (other_stories, others) = contents
    assert stories == other_stories
    for name, rows in columns.items():
        assert rows == others[name] if isinstance(rows, rs.Ragged) else np.array_equal(rows, others[name])


@pytest.mark.parametrize("num_envs", [1, 3])
def test_an_observation_is_written_once(num_envs: int) -> None:
    """Though it is what follows a step before it is that of the next one, at each commit."""
    with created() as buffer:
        world = World(num_envs, buffer)
        for number in range(20):
            world.step(None, [number % 6 == 5] * num_envs)
            buffer.commit()
        stored = buffer._store
        for name in ("observation/tokens", "observation/text"):
            rows = int(np.diff(buffer.rows(name, slice(None))).sum())
            finals = [final_by_field(buffer.trajectory(place)) for place in range(buffer.num_trajectories)]
            kept = sum(len(_bytes(final[name])) for final in finals if final)
            last = sum(len(_bytes(text(one) if "text" in name else tokens(one))) for one in world.seen)
            assert stored.rows(tree.values(name)) <= rows + kept + last


def _bytes(value: Any) -> Any:
    return value.encode() if isinstance(value, str) else value


def test_what_is_staged_is_bounded_by_its_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(staging, "STAGE_BYTES", 20_000)  # of hundreds of steps, but for their values
    with created() as buffer:
        writer, staged, no = buffer.writer(1), [], np.zeros(1, bool)
        long = observations([7]) | {"tokens": [np.arange(1000, dtype=np.int32)]}
        writer.reset(long)
        for _ in range(40):
            writer.step({"id": np.ones(1, int), "moves": [moves(1)]}, np.zeros(1), no, no, long)
            staged.append(writer.staged)
        assert 2 <= max(staged) <= 6
        writer.close()
        buffer.commit()
        assert buffer["observation/tokens"].lengths[:].tolist() == [1000] * 40


def test_a_ring_keeps_what_follows_a_reset_that_no_step_did_yet() -> None:
    with created(capacity=5) as buffer:
        world = World(2, buffer)
        buffer.commit()
        world.step(None, [False, True])
        world.writer.close()
        buffer.commit()
        assert sorted(check(buffer)) == world.expected()


def test_what_was_given_is_the_callers() -> None:
    with created() as buffer:
        writer = buffer.writer(2)
        given = observations([1, 2])
        writer.reset(given)
        writer.step(
            {"id": np.zeros(2, int), "moves": np.zeros((2, 1, 2), np.float32)},
            np.zeros(2),
            np.zeros(2, bool),
            np.zeros(2, bool),
            given,
        )
        for array in given["tokens"]:
            array[:] = 99
        buffer.commit()
        assert buffer["observation/tokens"][1].tolist() == tokens(2).tolist()


BAD: list[tuple[dict[str, Any], str]] = [
    ({"text": ["a", b"b"]}, "'observation/text', value 1: expected a text, came bytes"),
    ({"text": "ab"}, "'observation/text': expected a list with a text for each step"),
    ({"text": ["a"]}, "'observation/text' has 1 rows|one row of each"),
    ({"tokens": [[1], [0.5]]}, "'observation/tokens', value 1"),
    ({"tokens": np.array([1, 2])}, "'observation/tokens'.*a single value is"),
    ({"tokens": np.array([0, 0], np.int64)}, "'observation/tokens'"),
]


@pytest.mark.parametrize(("wrong", "said"), BAD)
def test_what_does_not_fit_leaves_nothing(wrong: dict[str, Any], said: str) -> None:
    act = {"id": np.zeros(2, int), "moves": [np.zeros((0, 2), np.float32)] * 2}
    rest = np.zeros(2), np.zeros(2, bool), np.zeros(2, bool)
    with created() as buffer:
        writer = buffer.writer(2)
        with pytest.raises(SchemaError, match=said):
            writer.reset(observations([1, 2]) | wrong)
        writer.reset(observations([1, 2]))
        with pytest.raises(SchemaError, match=said):
            writer.step(act, *rest, observations([3, 4]) | wrong)
        assert buffer.rows_recorded == 0
        writer.step(act, *rest, observations([3, 4]))
        writer.close()
        buffer.commit()
        assert check(buffer) == [([1], 3), ([2], 4)]


def test_a_pool_keeps_copies_and_gives_them_in_any_order() -> None:
    pool = Pool({"x": rs.Field("int32", (None,), "extra"), "t": rs.Field.of_text("extra")})
    given = np.array([1, 2, 3], np.int32)

    first = pool.put({"x": rs.Ragged(given, [0, 1, 3]), "t": rs.Ragged.of(["a", "é"], text=True)})
    given[:] = 9
    second = pool.put({"x": rs.Ragged(np.array([7, 8], np.int32), [1, 2])})

    assert pool.take("x", first["x"]).tolist() == [[1], [2, 3]]
    assert pool.take("x", np.concatenate([second["x"], first["x"][::-1]])).tolist() == [[8], [2, 3], [1]]
    assert pool.take("x", np.zeros(2, np.int64)).tolist() == [[], []]
    assert pool.take("t", first["t"][1:]).tolist() == ["é"]
    assert pool.take("t", np.zeros(0, np.int64)).tolist() == []
    assert pool.bytes > 0
