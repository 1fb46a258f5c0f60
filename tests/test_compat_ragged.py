"""The drop-in buffers hold rows of numbers: stores, spaces and rows of any length are refused in words, and
before anything is written; further fields of any length in a store do no harm."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

import replaystore as rs
from replaystore.compat import active_rlhf, velora
from replaystore.errors import SchemaError, UnsupportedError

PLAIN = {
    "observation": rs.Field("float32", (3,), "observation"),
    "action": rs.Field("float32", (2,), "action"),
    "reward": rs.Field("float32", (), "reward"),
    "terminated": rs.Field("bool", (), "terminated"),
}
WITHOUT = {name: declared for name, declared in PLAIN.items() if name != "observation"}
REFUSED: dict[str, dict[str, rs.Field]] = {
    "observation": PLAIN | {"observation": rs.Field.of_text("observation")},
    "action": PLAIN | {"action": rs.Field("float32", (None, 2), "action")},
    "observation/text": WITHOUT
    | {
        "observation/at": rs.Field("float32", (3,), "observation"),
        "observation/text": rs.Field.of_text("observation"),
    },
}
LOADS: list[Callable[..., Any]] = [
    lambda place, mode: active_rlhf.ReplayBuffer.load(place, None, device="cpu", mode=mode),
    lambda place, mode: velora.ReplayBuffer.load(place, mode=mode),
]


def recorded(place: Path, fields: dict[str, rs.Field]) -> np.ndarray[Any, Any]:
    """A store of five steps; its observations, if they are plain."""
    columns: dict[str, Any] = {}
    for name, declared in fields.items():
        if declared.text:
            columns[name] = ["é" * number for number in range(5)]
        elif declared.ragged:
            columns[name] = [np.ones((n, *declared.inner), declared.dtype) for n in range(5)]
        else:
            size = 5 * int(np.prod(declared.shape))
            columns[name] = (np.arange(size) % 7).reshape(5, *declared.shape).astype(declared.dtype)
    columns["terminated"] = np.arange(5) == 4
    with rs.create(place, rs.Schema(fields)) as buffer:
        buffer.append(columns)
    return np.asarray(columns.get("observation"))


@pytest.mark.parametrize("suffix", [".zarr", ".h5"])
@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("load", LOADS, ids=["active_rlhf", "velora"])
def test_a_store_of_them_is_refused(load: Callable[..., Any], name: str, suffix: str, tmp_path: Path) -> None:
    place = tmp_path / f"a{suffix}"
    recorded(place, REFUSED[name])
    for mode in ("r", "r+"):
        with pytest.raises(
            UnsupportedError, match=rf"the values of '{name}' have different lengths.*replaystore\.open"
        ):
            load(place, mode)
    with rs.open(place, "r+") as buffer:  # nobody holds it, and what was advised works
        assert len(buffer) == 5
        assert name in buffer.sampler(3, seed=0).sample()


@pytest.mark.parametrize("load", LOADS, ids=["active_rlhf", "velora"])
def test_further_fields_do_no_harm(load: Callable[..., Any], tmp_path: Path) -> None:
    """Such as one that has the name of a tensor of theirs."""
    more = {
        "info/text": rs.Field.of_text("info"),
        "hiddens": rs.Field("float32", (None,), "extra"),
        "next_states": rs.Field("float32", (None,), "extra"),
    }
    observation = recorded(tmp_path / "a.zarr", PLAIN | more)
    buffer = load(tmp_path / "a.zarr", "r")
    found = buffer.obs if hasattr(buffer, "obs") else buffer.states
    assert np.array_equal(found[:4].numpy(), observation[:4])
    buffer.close()


@pytest.mark.parametrize("role", ["observation", "action"])
@pytest.mark.parametrize(
    "space",
    [
        spaces.Sequence(spaces.Box(-1, 1, (2,))),
        spaces.Graph(spaces.Box(-1, 1, (2,)), None),
        spaces.Dict({"a": spaces.Sequence(spaces.Discrete(3))}),
    ],
    ids=["sequence", "graph", "dict"],
)
def test_a_space_of_them_is_refused(space: Any, role: str) -> None:
    box = spaces.Box(-1, 1, (2,))
    envs = SimpleNamespace(single_observation_space=box, single_action_space=box)
    setattr(envs, f"single_{role}_space", space)
    for make in (
        lambda: active_rlhf.ReplayBuffer(envs, 10, device="cpu"),
        lambda: active_rlhf.RolloutBuffer(10, 1, envs),
    ):
        with pytest.raises(SchemaError, match=rf"the {role} space .* of any length.*RecordVector"):
            make()


def test_a_text_space_can_be_flattened_as_is_advised() -> None:
    class Talk(gymnasium.Env[Any, Any]):
        observation_space = spaces.Text(4)
        action_space = spaces.Box(-1, 1, (2,))

        def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
            return "ab", {}

    def envs(*wrappers: Any) -> Any:
        def make() -> Any:
            env: Any = Talk()
            for wrapper in wrappers:
                env = wrapper(env)
            return env

        return gymnasium.vector.SyncVectorEnv([make])

    with pytest.raises(SchemaError, match="flatten it"):
        active_rlhf.ReplayBuffer(envs(), 10, device="cpu")
    flat = envs(gymnasium.wrappers.FlattenObservation)
    assert active_rlhf.ReplayBuffer(flat, 10, device="cpu").obs.shape == (10, 4)


def test_rows_of_them_are_refused() -> None:
    box = spaces.Box(-1, 1, (2,))
    buffer = active_rlhf.ReplayBuffer(
        SimpleNamespace(single_observation_space=box, single_action_space=box), 10, device="cpu"
    )
    one = np.zeros((2, 1), np.float32)
    apart = rs.Ragged.of([np.zeros(2, np.float32), np.zeros(1, np.float32)])
    with pytest.raises(SchemaError, match=r"obs: values of different lengths .*\(2, 2\): pad them"):
        buffer.add(apart, np.zeros((2, 2), np.float32), one, one)
    buffer.add(apart.to_padded()[0], np.zeros((2, 2), np.float32), one, one)
    assert buffer.size == 2
