"""Values on their way in: whatever holds the numbers of a field is taken wherever values are taken, and all
else is refused by name."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces

import replaystore as rs
from replaystore.compat import active_rlhf, velora
from replaystore.errors import ReplayStoreError, SchemaError
from replaystore.gymnasium import Record, RecordVector
from replaystore.schema.values import array_of, exactly

NUMBERS = np.arange(1, 7, dtype=np.float32).reshape(3, 2)
"""All of them are exact in every form below."""


def graph(dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """The result of a computation that could be differentiated."""
    return torch.tensor(NUMBERS / 2, dtype=dtype, requires_grad=True) * 2


FORMS: dict[str, Callable[[], Any]] = {
    "an array": NUMBERS.copy,
    "columns first": lambda: np.asfortranarray(NUMBERS),
    "backwards": lambda: NUMBERS[::-1, ::-1].copy()[::-1, ::-1],
    "every second": lambda: np.repeat(NUMBERS, 2, axis=0)[::2],
    "read-only": lambda: np.frombuffer(NUMBERS.tobytes(), np.float32).reshape(3, 2),
    "a subclass": lambda: NUMBERS.view(np.recarray),
    "a tensor": lambda: torch.tensor(NUMBERS),
    "a tensor with a graph": graph,
    "a parameter": lambda: torch.nn.Parameter(torch.tensor(NUMBERS)),
    "a transposed tensor": lambda: torch.tensor(NUMBERS.T.copy()).T,
    "a tensor of bfloat16": lambda: graph(torch.bfloat16),
    "a negated view": lambda: torch.complex(torch.zeros(3, 2), -torch.tensor(NUMBERS)).conj().imag,
}


class Refusing:
    """As arrays of other devices do."""

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        raise TypeError("Implicit conversion to a NumPy array is not allowed.\nUse get()")

    def __len__(self) -> int:
        return 3


WRONG: dict[str, Callable[[], Any]] = {
    "no numbers": lambda: torch.zeros((3, 2), device="meta"),
    "sparse": lambda: torch.tensor(NUMBERS).to_sparse(),
    "ragged": lambda: [[1.0], [1.0, 2.0], [3.0]],
    "tensors of unequal lengths": lambda: [graph()[0], graph()[0, :1]],
    "text": lambda: "text",
    "an object": object,
    "masked": lambda: np.ma.masked_array(NUMBERS, NUMBERS > 2),
    "refuses to be an array": Refusing,
}

SCHEMA = rs.Schema({name: rs.Field(np.dtype(np.float32), (2,), name) for name in ("observation", "action")})


@pytest.fixture(params=[".zarr", ".h5"])
def buffer(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    made = rs.create(tmp_path / f"a{request.param}", SCHEMA)
    yield made
    made.abandon()


def started(buffer: rs.Buffer) -> Any:
    writer = buffer.writer(3)
    writer.reset(NUMBERS)
    return writer


def stepped(buffer: rs.Buffer, **given: Any) -> Any:
    writer = started(buffer)
    writer.step(**{"action": NUMBERS, "observation": NUMBERS, **given})
    return writer


class Env(gymnasium.Env[Any, Any]):
    """Three numbers as one observation."""

    observation_space = action_space = spaces.Box(-9, 9, (3, 2), np.float32)

    def __init__(self, observation: Any) -> None:
        self.observation = observation

    def reset(self, **_: Any) -> Any:
        return self.observation, {}

    def step(self, action: Any) -> Any:
        return self.observation, 1.0, False, False, {}


class VectorEnv(gymnasium.vector.VectorEnv[Any, Any, Any]):
    """Whose arrays are whatever it is told, as those of environments on a GPU are tensors."""

    def __init__(self, observation: Any) -> None:
        self.num_envs, self.observation, self.metadata = 3, observation, {"autoreset_mode": "NextStep"}
        self.single_observation_space = self.single_action_space = spaces.Box(-9, 9, (2,), np.float32)
        self.observation_space = self.action_space = spaces.Box(-9, 9, (3, 2), np.float32)

    def reset(self, **_: Any) -> Any:
        return self.observation, {}

    def step(self, actions: Any) -> Any:
        flags = torch.zeros(3, dtype=torch.bool)
        return self.observation, torch.ones(3, requires_grad=True), flags, flags, {}


def recorded(tmp_path: Any, env: Any, action: Any) -> Any:
    with rs.create(tmp_path, env, overwrite=True) as buffer:
        wrapped: Any = Record(env, buffer) if isinstance(env, Env) else RecordVector(env, buffer)
        wrapped.reset()
        wrapped.step(action)
        wrapped.close()
        found = buffer.read(slice(None))
    return {name: values.reshape(3, 2) for name, values in found.items() if name in ("observation", "action")}


# --- every way in


def append(buffer: rs.Buffer, value: Any) -> Any:
    buffer.append({"observation": value, "action": NUMBERS})
    buffer.commit()
    return buffer["observation"][:]


def final_observation(buffer: rs.Buffer, value: Any) -> Any:
    buffer.append({"observation": NUMBERS, "action": NUMBERS}, ends=[0, 1, 2], final_observation=value)
    buffer.commit()
    return np.stack([buffer.trajectory(number).final_observation for number in range(3)])


def write_action(buffer: rs.Buffer, value: Any) -> Any:
    stepped(buffer, action=value).close()
    buffer.commit()
    return buffer["action"][:]


def write_observation(buffer: rs.Buffer, value: Any) -> Any:
    writer = stepped(buffer, observation=value)
    writer.step(NUMBERS, observation=NUMBERS)
    writer.close()
    buffer.commit()
    return buffer["observation"][3:]  # the second step of all three


def write_first(buffer: rs.Buffer, value: Any) -> Any:
    writer = buffer.writer(3)
    writer.reset(value)
    writer.step(NUMBERS, observation=NUMBERS)
    writer.close()
    buffer.commit()
    return buffer["observation"][:]


WAYS: dict[str, tuple[str, Callable[[rs.Buffer, Any], Any]]] = {
    "append": ("observation", append),
    "final_observation": ("observation", final_observation),
    "step: action": ("action", write_action),
    "step: observation": ("observation", write_observation),
    "reset": ("observation", write_first),
    "Record: action": (
        "action",
        lambda buffer, value: recorded(f"{buffer.location}-r.zarr", Env(NUMBERS), value)["action"],
    ),
    "Record: observation": (
        "observation",
        lambda buffer, value: recorded(f"{buffer.location}-r.zarr", Env(value), NUMBERS)["observation"],
    ),
    "RecordVector: actions": (
        "action",
        lambda buffer, value: recorded(f"{buffer.location}-r.zarr", VectorEnv(NUMBERS), value)["action"],
    ),
    "RecordVector: observations": (
        "observation",
        lambda buffer, value: recorded(f"{buffer.location}-r.zarr", VectorEnv(value), NUMBERS)["observation"],
    ),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("way", WAYS)
def test_every_form_of_the_same_numbers_is_taken(buffer: rs.Buffer, way: str, form: str) -> None:
    value = FORMS[form]()

    found = WAYS[way][1](buffer, value)

    assert found.dtype == np.float32
    assert found.tolist() == NUMBERS.tolist()
    if isinstance(value, torch.Tensor) and not value.is_leaf:
        assert value.requires_grad  # what is the caller's stays as it was


@pytest.mark.parametrize("kind", WRONG)
@pytest.mark.parametrize("way", WAYS)
def test_whatever_has_no_such_numbers_is_refused_by_name(buffer: rs.Buffer, way: str, kind: str) -> None:
    name, take = WAYS[way]

    with pytest.raises(SchemaError) as refused:
        take(buffer, WRONG[kind]())

    message = str(refused.value)
    assert name in message
    assert "\n" not in message
    assert len(message) < 500
    buffer.append({"observation": NUMBERS, "action": NUMBERS}, env=7)  # and nothing else is harmed
    buffer.commit()
    assert len(buffer) == 3


@pytest.mark.parametrize("way", ["append", "final_observation", "step: action", "step: observation", "reset"])
@pytest.mark.parametrize(
    ("dtype", "came"),
    [(torch.float64, "torch.float64"), (torch.float16, "torch.float16"), (torch.int64, "torch.int64")],
)
def test_a_tensor_of_another_dtype_is_refused_with_advice_for_tensors(
    buffer: rs.Buffer, way: str, dtype: torch.dtype, came: str
) -> None:
    name, take = WAYS[way]

    with pytest.raises(
        SchemaError,
        match=(f"{name}.*expected dtype float32, came a tensor of {came}: .*use .to\\(torch.float32\\)"),
    ):
        take(buffer, torch.tensor(NUMBERS).to(dtype))
    if way in ("append", "final_observation"):
        assert take(buffer, torch.tensor(NUMBERS).to(dtype).to(torch.float32)).tolist() == NUMBERS.tolist()


def test_bfloat16_is_not_narrowed(tmp_path: Path) -> None:
    """It has the range of float32, which float16 does not have."""
    schema = rs.Schema({"x": rs.Field(np.dtype(np.float16), (), "extra")})
    expected = r"'x': expected dtype float16, came a tensor of torch.bfloat16"
    with rs.create(tmp_path / "a.zarr", schema) as buffer, pytest.raises(SchemaError, match=expected):
        buffer.append({"x": torch.ones(3, dtype=torch.bfloat16)})
    assert exactly(array_of("x", torch.tensor([1e30], dtype=torch.bfloat16)), np.dtype(np.float16)) is None


@pytest.mark.parametrize(
    "dtype",
    ["float8_e4m3fn", "float8_e5m2", "bfloat16", "float16", "float64", "complex64", "bool", "uint8", "int32"],
)
def test_every_dtype_of_tensors_has_an_array_of_the_same_numbers(dtype: str) -> None:
    tensor = torch.tensor([0, 1, 1.5, 448] if "loat" in dtype else [0, 1, 1, 0]).to(getattr(torch, dtype))

    assert array_of("x", tensor).tolist() == tensor.tolist()


def test_masks_ends_columns_rows_and_weights_may_be_tensors(buffer: rs.Buffer) -> None:
    buffer.append({"observation": NUMBERS, "action": NUMBERS}, ends=torch.tensor([1, 2]), env=9)  # type: ignore[arg-type]
    buffer.set_trajectory_column("score", torch.tensor([1.0, 2.0], requires_grad=True) * 2)
    writer = buffer.writer(3)
    writer.reset(NUMBERS, seed=np.array([1, 2, 3]))
    writer.step(NUMBERS, observation=NUMBERS)
    writer.reset(NUMBERS, mask=torch.tensor([True, False, False]))  # type: ignore[arg-type]
    writer.close()
    buffer.commit()

    assert buffer.trajectories["score"].tolist()[:2] == [2, 4]
    assert buffer.trajectories["seed"].tolist() == [-1, -1, 1, 2, 3]
    assert buffer.read(torch.tensor([2, 0]))["observation"].tolist() == NUMBERS[[2, 0]].tolist()  # type: ignore[arg-type]
    sampler = buffer.sampler(2, weights=torch.ones(6, requires_grad=True) * 2, next_observation=False)
    errors = torch.tensor([0.5, 0.25], requires_grad=True) * 2
    sampler.update_weights(torch.tensor([0, 1]), errors.abs())
    assert sampler.weights[:2].tolist() == [1, 0.5]

    meta = torch.ones(2, device="meta")
    refused: dict[str, Callable[[], Any]] = {
        "column 'score'": lambda: buffer.set_trajectory_column("score", meta),
        "rows": lambda: buffer.read(meta),  # type: ignore[arg-type]
        "weights": lambda: sampler.update_weights([0, 1], meta),
        "index": lambda: sampler.update_weights(meta, [0, 1]),
        "ends": lambda: buffer.append({"observation": NUMBERS, "action": NUMBERS}, ends=meta),  # type: ignore[arg-type]
    }
    for name, call in refused.items():
        with pytest.raises(SchemaError, match=f"^{name}: a tensor on the device 'meta'"):
            call()
    with pytest.raises(SchemaError, match="weights must be numbers"):
        sampler.update_weights([0, 1], ["a", "b"])
    with pytest.raises(SchemaError, match="ends are the places of last steps"):
        buffer.append({"observation": NUMBERS, "action": NUMBERS}, ends=3)  # type: ignore[arg-type]


# --- the drop-ins


class Envs:
    """What a buffer of active_rlhf asks of an environment."""

    single_observation_space = single_action_space = spaces.Box(-9, 9, (2,))


def add_to_active(buffer: active_rlhf.ReplayBuffer, value: Any) -> None:
    buffer.add(value, value, torch.ones(3), torch.zeros(3))


def add_to_velora(buffer: velora.ReplayBuffer, value: Any) -> None:
    value = torch.tensor(np.array(value)) if isinstance(value, np.ndarray) else value
    buffer.add_multi(value, value, torch.ones(3), value, torch.zeros(3), value.to(torch.float32))
    buffer.add(value[0], value[0], value[0, 0], value[0], False, value[0].to(torch.float32))


def saved(buffer: Any, where: str) -> Any:
    """The buffer after it was saved and loaded again."""
    buffer.save(where)
    if isinstance(buffer, velora.ReplayBuffer):
        loaded: Any = velora.ReplayBuffer.load(where if "." in Path(where).name else f"{where}/buffer_state")
    else:
        loaded = active_rlhf.ReplayBuffer.load(where, device="cpu")
    return loaded


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("place", ["a.zarr", "a.h5", "a.pkl", "a"])
def test_the_drop_ins_keep_numbers_and_no_graph(tmp_path: Path, place: str, form: str) -> None:
    buffers: list[tuple[Any, Any]] = []
    if place != "a":
        buffers.append((active_rlhf.ReplayBuffer(Envs, 10, 2, "cpu"), add_to_active))
    if place != "a.pkl":
        buffers.append((velora.ReplayBuffer(10, 2, 2, 2), add_to_velora))
    for number, (memory, add) in enumerate(buffers):
        add(memory, FORMS[form]())
        name = "obs" if add is add_to_active else "states"
        assert not getattr(memory, name).requires_grad
        (tmp_path / str(number)).mkdir()
        loaded = saved(memory, str(tmp_path / str(number) / place))
        assert getattr(loaded, name)[:3].tolist() == NUMBERS.tolist()
        if place in ("a.zarr", "a.h5"):
            loaded.close()
            with type(loaded).load(str(tmp_path / str(number) / place), mode="r+", device="cpu") as lazy:
                add(lazy, FORMS[form]())
                assert getattr(lazy, name)[:3].tolist() == NUMBERS.tolist()
                getattr(lazy, name)[0] = graph()[1]
                assert getattr(lazy, name)[0].tolist() == NUMBERS[1].tolist()
                torch.save(lazy.state_dict() if name == "states" else lazy.obs, io.BytesIO())


# Of which torch takes what is under the mask, as in the original.
@pytest.mark.parametrize("kind", sorted(WRONG.keys() - {"masked"}))
@pytest.mark.parametrize("lazy", [False, True])
def test_active_rlhf_refuses_what_has_no_numbers(tmp_path: Path, kind: str, lazy: bool) -> None:
    buffer = active_rlhf.ReplayBuffer(Envs, 10, 2, "cpu")
    add_to_active(buffer, NUMBERS)
    if lazy:
        buffer.save(tmp_path / "a.zarr")
        buffer = active_rlhf.ReplayBuffer.load(tmp_path / "a.zarr", device="cpu", mode="r+")

    with pytest.raises(ReplayStoreError, match="obs") as refused:
        buffer.add(WRONG[kind](), NUMBERS, torch.ones(3), torch.zeros(3))
    assert "\n" not in str(refused.value)
    assert buffer.size == 3
    buffer.close()


@pytest.mark.parametrize("place", ["a.zarr", "a.h5", "a"])
def test_a_buffer_whose_tensors_were_replaced_by_others_of_the_same_numbers_is_saved(
    tmp_path: Path, place: str
) -> None:
    memory = velora.ReplayBuffer(3, 2, 2, 2)
    tensor = torch.tensor(NUMBERS)
    memory.add_multi(tensor, tensor, torch.ones(3), tensor, torch.zeros(3))
    memory.states, memory.actions, memory.hiddens = (
        graph(),
        torch.nn.Parameter(torch.tensor(NUMBERS)),
        graph().detach().bfloat16(),
    )

    loaded = saved(memory, str(tmp_path / place))

    for name in ("states", "actions", "hiddens"):
        assert getattr(loaded, name)[:].tolist() == NUMBERS.tolist()
