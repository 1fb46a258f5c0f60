"""Text, Sequence and Graph of Gymnasium are recorded as environments give them."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv
from scripted import MODES, Script, Trail, buffer_for, plain, trails_of

from replaystore.errors import SchemaError, UnsupportedError
from replaystore.gymnasium import Record, RecordVector
from replaystore.schema.fields import Field, Schema

BOX = spaces.Box(-1, 1, (2,))
SPACES: dict[str, spaces.Space[Any]] = {
    "text": spaces.Text(6, min_length=0, charset="añ日🙂"),
    "sequence": spaces.Sequence(BOX),
    "stacked": spaces.Sequence(spaces.Discrete(9), stack=True),
    "graph": spaces.Graph(BOX, spaces.Discrete(3)),
    "nodes": spaces.Graph(spaces.Discrete(4), None),
}
SPACES["dict"] = spaces.Dict({**SPACES, "plain": BOX})
SPACES["tuple"] = spaces.Tuple([spaces.Tuple([SPACES["text"], SPACES["text"]]), SPACES["graph"], BOX])
SPACES["nested"] = spaces.Dict(
    {"deep": spaces.Tuple([spaces.Dict({"nodes": SPACES["nodes"]}), SPACES["text"]])}
)
SCRIPTS: list[Script] = [[(1, "end"), (3, "cut")], [(2, "both"), (1, "cut")], [(5, "end")]]


class Told(gymnasium.Env[Any, Any]):
    """Observations are samples that say where they are; what happened is kept in `trails`."""

    def __init__(self, index: int, observed: spaces.Space[Any], acted: spaces.Space[Any]) -> None:
        self.observation_space, self.action_space = observed, acted
        self.schema = Schema.from_spaces(observed, acted)
        self.index, self.episode, self.t = index, -1, 0
        self.trails: list[Trail] = []
        self.seen: dict[str, Any] = {}

    def observe(self) -> Any:
        self.observation_space.seed(10_000 * self.index + 100 * self.episode + self.t)
        observation = self.observation_space.sample()
        self.seen = self.leaves(observation, "observation")
        return observation

    def leaves(self, value: Any, role: str) -> dict[str, Any]:
        fields = self.schema.fields
        return {
            name: plain(leaf if fields[name].text else np.asarray(leaf).reshape(-1, *fields[name].inner))
            if fields[name].ragged
            else plain(leaf)
            for name, leaf in self.schema.flatten(value, role).items()
        }

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        self.episode, self.t = self.episode + 1, 0
        observation = self.observe()
        self.trails.append(Trail(self.index, -1 if seed is None else seed, final=self.seen))
        return observation, {}

    def step(self, action: Any) -> Any:
        script = SCRIPTS[self.index]
        length, ending = script[self.episode % len(script)]
        self.t += 1
        before, trail = self.seen, self.trails[-1]
        observation, over = self.observe(), self.t == length
        trail.terminated, trail.truncated = over and ending != "cut", over and ending != "end"
        values = {
            "reward": float(self.t),
            "terminated": trail.terminated,
            "truncated": trail.truncated,
        }
        trail.rows.append({**before, **self.leaves(action, "action"), **values})
        trail.final = self.seen
        return observation, float(self.t), trail.terminated, trail.truncated, {}


def by_env(trails: Sequence[Trail]) -> dict[int, list[Trail]]:
    found: dict[int, list[Trail]] = {}
    for trail in trails:
        if trail.rows:
            found.setdefault(trail.env, []).append(trail)
    return found


def drive(env: Any, mode: AutoresetMode, turns: int) -> None:
    env.reset(seed=100)
    env.action_space.seed(5)
    ended = np.zeros(env.num_envs, dtype=bool)
    for turn in range(turns):
        if turn == 7:  # in the middle of trajectories
            env.reset(options={"reset_mask": np.array([True, False, False])})
            ended[0] = False
        if mode == AutoresetMode.DISABLED and ended.any():
            env.reset(options={"reset_mask": ended})
        _, _, terminated, truncated, _ = env.step(env.action_space.sample())
        ended = terminated | truncated
    env.close()


def makers(name: str) -> list[Callable[[], Told]]:
    return [partial(Told, index, SPACES[name], SPACES[name]) for index in range(3)]


KINDS = ["model", "real"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.value)
@pytest.mark.parametrize("name", SPACES)
def test_a_vector_of_environments(name: str, mode: AutoresetMode, kind: str) -> None:
    envs = SyncVectorEnv(makers(name), autoreset_mode=mode)
    buffer = buffer_for(envs, kind)

    drive(RecordVector(envs, buffer), mode, 14)

    happened: Any = [trail for env in envs.envs for trail in env.trails]  # type: ignore[attr-defined]
    assert trails_of(buffer) == by_env(happened)
    assert buffer.schema.observation_space() == SPACES[name] == buffer.schema.action_space()


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.value)
@pytest.mark.parametrize("name", ["text", "dict", "nested"])
def test_a_vector_of_processes(name: str, mode: AutoresetMode) -> None:
    twins = SyncVectorEnv(makers(name), autoreset_mode=mode)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # processes beside threads
        envs = AsyncVectorEnv(makers(name), autoreset_mode=mode, shared_memory=False)
    buffer = buffer_for(envs)

    drive(RecordVector(envs, buffer), mode, 14)
    drive(twins, mode, 14)

    happened: Any = [trail for env in twins.envs for trail in env.trails]  # type: ignore[attr-defined]
    found = trails_of(buffer)
    if mode == AutoresetMode.NEXT_STEP:  # a worker resets once more after the reset by hand
        found, happened = {env: found[env] for env in (1, 2)}, [one for one in happened if one.env]
    assert found == by_env(happened)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", SPACES)
def test_a_single_environment(name: str, kind: str) -> None:
    env = Told(1, SPACES[name], SPACES[name])
    buffer = buffer_for(env, kind)

    recorded = Record(env, buffer)
    recorded.action_space.seed(5)
    for _ in range(4):
        recorded.reset()
        over = False
        while not over:
            _, _, terminated, truncated, _ = recorded.step(recorded.action_space.sample())
            over = terminated or truncated
    recorded.close()

    for trail in env.trails:
        trail.env = 0
    assert trails_of(buffer) == by_env(env.trails)


# --- values that are not quite those of the space


class Giving(gymnasium.Env[Any, Any]):
    """Gives what it is told to."""

    action_space: Any = spaces.Discrete(2)

    def __init__(self, space: spaces.Space[Any], first: Any, then: Any) -> None:
        self.observation_space, self.first, self.then = space, first, then

    def reset(self, **_: Any) -> Any:
        return self.first, {}

    def step(self, action: Any) -> Any:
        return self.then, 0.0, True, False, {}


def recorded(space: spaces.Space[Any], first: Any, then: Any) -> Trail:
    env = Giving(space, first, then)
    buffer = buffer_for(env)
    record = Record(env, buffer)
    record.reset()
    record.step(1)
    record.close()
    return trails_of(buffer)[0][0]


def test_values_of_other_types_are_taken_where_nothing_changes() -> None:
    trail = recorded(SPACES["sequence"], [], [np.ones(2), [0.5, 0.25]])
    assert trail.rows[0]["observation"] == []
    assert trail.final["observation"] == [[1.0, 1.0], [0.5, 0.25]]

    graph = spaces.GraphInstance(np.ones((1, 2)), np.array([2], np.int8), np.array([[0, 0]]))
    trail = recorded(SPACES["graph"], graph, graph._replace(edges=None, edge_links=None))
    assert trail.rows[0]["observation/edge_links"] == [[0, 0]]
    assert trail.final == {
        "observation/nodes": [[1.0, 1.0]],
        "observation/edges": [],
        "observation/edge_links": [],
    }


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("text", b"a", "'observation', value 0: expected a text, came bytes"),
        ("text", None, "'observation', value 0: expected a text, came a NoneType"),
        ("text", "a\ud800", "'observation', value 0: .*half a character"),
        ("sequence", np.array([[0.1, 0.2]]), "'observation', value 0: .*nothing is cast"),
        ("sequence", (np.array([0.1, 0.2]),), "'observation', value 0: .*nothing is cast"),
        (
            "sequence",
            np.ones(2, np.float32),
            r"'observation', value 0: expected float32 of shape \(length, 2\)",
        ),
        ("graph", (BOX.sample(),), "'observation': expected a GraphInstance"),
        ("dict", {"text": "a"}, "missing"),
        (
            "nodes",
            spaces.GraphInstance(np.array([1]), np.array([1]), np.array([[0, 0]])),
            "'observation/edge.*' is not in the schema",
        ),
    ],
)
def test_values_that_would_change_are_refused(name: str, value: Any, said: str) -> None:
    with pytest.raises(SchemaError, match=said):
        recorded(SPACES[name], value, value)


def test_final_observations_that_would_change_are_refused() -> None:
    envs = SyncVectorEnv(
        [lambda: Giving(SPACES["text"], "a", b"no")] * 2, autoreset_mode=AutoresetMode.SAME_STEP
    )
    record = RecordVector(envs, buffer_for(envs))
    record.reset()
    with pytest.raises(SchemaError, match="'final observation', value 0: expected a text"):
        record.step(np.array([0, 0]))


class Whole(gymnasium.vector.VectorEnv[Any, Any, Any]):
    """A vector of its own kind, whose final observations come as a batch."""

    metadata = {"autoreset_mode": AutoresetMode.SAME_STEP}  # noqa: RUF012
    num_envs = 2
    single_observation_space = SPACES["text"]
    single_action_space = spaces.Discrete(2)
    observation_space = spaces.Tuple([SPACES["text"]] * 2)
    action_space = spaces.MultiDiscrete([2, 2])

    def reset(self, **_: Any) -> Any:
        return ("a", "añ"), {}

    def step(self, actions: Any) -> Any:
        ended = np.array([False, True])
        return ("aa", "a"), np.zeros(2), ended, ~ended & False, {"final_obs": ("", "日")}


@pytest.mark.parametrize("kind", KINDS)
def test_final_observations_in_a_batch(kind: str) -> None:
    envs = Whole()
    buffer = buffer_for(envs, kind)
    record = RecordVector(envs, buffer, info=False)
    record.reset()
    record.step(np.array([0, 0]))
    record.close()

    found = trails_of(buffer)
    assert [found[env][0].final["observation"] for env in (0, 1)] == ["aa", "日"]


# --- fields of the agent's, infos, and what is refused


@pytest.mark.parametrize("kind", KINDS)
def test_fields_of_the_agent_may_be_of_any_length(kind: str) -> None:
    envs = SyncVectorEnv(makers("text"))
    extra = {"tokens": Field("int32", (None,), "extra"), "notes/why": Field.of_text("extra")}
    buffer = buffer_for(envs, kind, extra)
    record = RecordVector(envs, buffer)
    record.reset(seed=0)
    tokens = [np.array([1, 2], np.int32), np.zeros(0, np.int32), np.array([3], np.int32)]
    given: Mapping[str, Any] = {"tokens": tokens, "notes": {"why": ("x", "", "y")}}
    record.step(("a", "a", "a"), extra=given)
    tokens[0][:] = 9  # what was given is the caller's
    record.close()

    rows = [trails_of(buffer)[env][0].rows[0] for env in range(3)]
    assert [row["tokens"] for row in rows] == [[1, 2], [], [3]]
    assert [row["notes/why"] for row in rows] == ["x", "", "y"]
    with pytest.raises(SchemaError, match="'tokens' has 1 values, not 3"):
        RecordVector(SyncVectorEnv(makers("text")), buffer_for(envs, "model", extra)).step(
            ("a", "a", "a"), extra={"tokens": [[1]], "notes/why": ["", "", ""]}
        )


def test_infos_of_any_length_are_refused_where_they_are_declared() -> None:
    env = Giving(BOX, BOX.sample(), BOX.sample())
    schema = Schema.from_env(env).with_field("info/why", Field.of_text("info"))
    buffer = buffer_for(env)
    buffer.schema = schema  # type: ignore[misc]
    with pytest.raises(SchemaError, match=r"'info/why' is of any length.*role 'extra'"):
        Record(env, buffer)


def test_a_buffer_of_another_environment_is_refused() -> None:
    env = Giving(spaces.Text(3, charset="ab"), "a", "b")
    other = Giving(spaces.Text(3, charset="ba"), "a", "b")
    numbers = Giving(spaces.Sequence(spaces.Box(0, 255, (), np.uint8)), (), ())
    graph, parts = SPACES["nodes"], spaces.Dict({"nodes": spaces.Sequence(spaces.Discrete(4), stack=True)})

    Record(env, buffer_for(other))  # the same characters
    with pytest.raises(SchemaError, match="has the text False in the buffer and True"):
        Record(env, buffer_for(numbers))
    with pytest.raises(SchemaError, match="is a graph in only one of buffer and environment"):
        Record(Giving(graph, None, None), buffer_for(Giving(parts, None, None)))


def texts_of_processes(shared: bool) -> AsyncVectorEnv:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return AsyncVectorEnv(
            [lambda: Giving(SPACES["dict"]["text"], "a", "日")] * 2,  # type: ignore[index]
            shared_memory=shared,
        )


def test_texts_in_shared_memory_are_refused() -> None:
    """Asked of Gymnasium itself: the day that it brings them, they need not be refused."""
    envs = texts_of_processes(shared=True)
    try:
        observation, _ = envs.reset()
        assert observation != ("a", "a")
        with pytest.raises(UnsupportedError, match="shared_memory=False"):
            RecordVector(envs, buffer_for(envs))
    finally:
        envs.close()
    envs = texts_of_processes(shared=False)
    try:
        assert envs.reset()[0] == ("a", "a")
        RecordVector(envs, buffer_for(envs))
    finally:
        envs.close()
