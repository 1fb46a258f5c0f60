"""The drop-in buffer for velora is velora's own, step for step, in memory and in a store."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from replaystore.buffers.buffer import open as open_buffer
from replaystore.compat.lazy import LazyTensor
from replaystore.compat.velora import BatchExperience, ReplayBuffer
from replaystore.errors import ConflictError, FormatError, NotFoundError, SchemaError, UnsupportedError

FIELDS = ("states", "actions", "rewards", "next_states", "dones", "hiddens")
SIZES = {"state_dim": 3, "action_dim": 2, "hidden_dim": 4}
STORES = (".zarr", ".h5")


def real_class() -> Any:
    """The ReplayBuffer of velora."""
    pytest.importorskip("velora.models", reason="velora is not installed: pip install velora==0.2.0")
    from velora.buffer import ReplayBuffer as Real

    return Real


def rows(seed: int, count: int, *, vector: bool = False) -> list[torch.Tensor]:
    """Rows of steps that follow each other, or of environments that take turns."""
    generator = torch.Generator().manual_seed(seed)
    states = torch.randn(count + 1, SIZES["state_dim"], generator=generator)
    after = torch.randn(count, SIZES["state_dim"], generator=generator) if vector else states[1:]
    dones = (torch.rand(count, 1, generator=generator) < 0.2).float()
    made = [torch.randn(count, width, generator=generator) for width in (SIZES["action_dim"], 1)]
    return [
        states[:-1],
        made[0],
        made[1],
        after,
        dones,
        torch.randn(count, SIZES["hidden_dim"], generator=generator),
    ]


def filled(capacity: int, *counts: int) -> ReplayBuffer:
    buffer = ReplayBuffer(capacity, **SIZES)
    for seed, count in enumerate(counts):
        buffer.add_multi(*rows(seed, count))
    return buffer


def state(buffer: Any) -> dict[str, torch.Tensor]:
    return {name: getattr(buffer, name)[:].clone() for name in FIELDS}


def assert_equal(ours: Any, real: Any) -> None:
    """Equal numbers, equal rows, and equal batches from equal seeds."""
    assert (ours.position, ours.size, len(ours)) == (real.position, real.size, len(real))
    theirs = state(real)
    for name, tensor in state(ours).items():
        assert tensor.dtype == theirs[name].dtype
        assert torch.equal(tensor, theirs[name]), name
    if len(ours):
        torch.manual_seed(5)
        mine = ours.sample(len(ours))
        torch.manual_seed(5)
        other = real.sample(len(real))
        assert all(torch.equal(getattr(mine, name), getattr(other, name)) for name in FIELDS)


def raised(function: Callable[[], object]) -> type[BaseException] | None:
    try:
        function()
    except (AttributeError, IndexError, RuntimeError, TypeError, ValueError) as error:
        return type(error)
    return None


one = st.tuples(st.just("add"), st.integers(0, 99), st.just(1))
many = st.tuples(st.sampled_from(["add_multi", "vector"]), st.integers(0, 99), st.integers(0, 25))
saving = st.tuples(st.sampled_from(["save", "save", "write"]), st.just(0), st.just(0))


def apply(buffer: Any, kind: str, seed: int, count: int) -> None:
    values = rows(seed, count, vector=kind == "vector")
    if kind == "add":
        state_, action, reward, after, done, hidden = (value[0] for value in values)
        buffer.add(state_, action, float(reward), after, bool(done), hidden)
    else:
        buffer.add_multi(*values)


# --- the same as velora


@settings(max_examples=60)
@given(capacity=st.integers(1, 12), operations=st.lists(one | many, max_size=8))
def test_the_same_operations_give_the_same_state_as_veloras_own(
    capacity: int, operations: list[tuple[str, int, int]]
) -> None:
    ours, real = ReplayBuffer(capacity, **SIZES), real_class()(capacity, *SIZES.values())
    for operation in operations:
        apply(ours, *operation)
        apply(real, *operation)
        assert_equal(ours, real)
        assert ours.metadata() == real.metadata()


WRONG = {
    "a state too long": (torch.zeros(9), torch.zeros(2), 1.0, torch.zeros(3), False, torch.zeros(4)),
    "an action too long": (torch.zeros(3), torch.zeros(5), 1.0, torch.zeros(3), False, torch.zeros(4)),
    "a reward of two": (
        torch.zeros(3),
        torch.zeros(2),
        torch.zeros(2),
        torch.zeros(3),
        False,
        torch.zeros(4),
    ),
    "a state that is no tensor": ([0.0] * 3, torch.zeros(2), 1.0, torch.zeros(3), False, torch.zeros(4)),
    "a hidden state too long": (torch.zeros(3), torch.zeros(2), 1.0, torch.zeros(3), False, torch.zeros(9)),
    "a done that is text": (torch.zeros(3), torch.zeros(2), 1.0, torch.zeros(3), "yes", torch.zeros(4)),
}


@pytest.mark.parametrize("values", WRONG.values(), ids=WRONG)
def test_add_raises_what_velora_raises_and_leaves_the_buffer_as_it_was(values: tuple[Any, ...]) -> None:
    buffer = filled(5, 4)
    before = state(buffer)
    expected = raised(lambda: real_class()(5, *SIZES.values()).add(*values))

    assert expected is not None
    assert raised(lambda: buffer.add(*values)) is expected
    assert all(torch.equal(before[name], tensor) for name, tensor in state(buffer).items())
    assert (buffer.position, buffer.size) == (4, 4)


@pytest.mark.parametrize("place", range(6))
def test_add_multi_raises_what_velora_raises_and_leaves_the_buffer_as_it_was(place: int) -> None:
    buffer, values = filled(5, 4), rows(1, 3)
    values[place] = values[place].double() if place == 5 else torch.zeros(3, 9)
    before = state(buffer)
    expected = raised(lambda: real_class()(5, *SIZES.values()).add_multi(*values))

    assert expected is not None
    assert raised(lambda: buffer.add_multi(*values)) is expected
    assert all(torch.equal(before[name], tensor) for name, tensor in state(buffer).items())


def test_sampling_more_than_there_is_says_how_many_there_are() -> None:
    real = real_class()(5, *SIZES.values())
    buffer = ReplayBuffer(5, **SIZES)

    for count in (1, 7):
        with pytest.raises(ValueError, match="Available: 0") as theirs:
            real.sample(count)
        with pytest.raises(ValueError, match="Available: 0") as ours:
            buffer.sample(count)
        assert str(ours.value) == str(theirs.value)
    assert raised(lambda: buffer.sample(0)) is raised(lambda: real.sample(0))


def test_hidden_states_may_be_left_out() -> None:
    buffer = ReplayBuffer(5, **SIZES)
    values = rows(0, 2)

    buffer.add_multi(*values[:5])
    buffer.add(*(value[0] for value in values[:5]))

    assert len(buffer) == 3
    assert not buffer.hiddens.any()
    assert isinstance(buffer.sample(2), BatchExperience)


def test_a_config_is_veloras_own() -> None:
    assert ReplayBuffer(5, **SIZES).config() == real_class()(5, *SIZES.values()).config()


KINDS: dict[str, tuple[Any, ...]] = {
    "plain": (torch.rand(3), torch.rand(2), 1.5, torch.rand(3), True, torch.rand(4)),
    "rows": (
        torch.rand(1, 3),
        torch.rand(1, 2),
        torch.rand(1, 1),
        torch.rand(1, 3),
        torch.ones(1, 1),
        torch.rand(1, 4),
    ),
    "one for all": (torch.rand(1), torch.tensor(3), torch.rand(()), torch.rand(()), torch.tensor(True), 0.5),
    "other dtypes": (
        torch.rand(3).double(),
        torch.tensor([1, 2]),
        np.float64(0.1),
        torch.rand(3).half(),
        True,
        torch.rand(1, 4).double(),
    ),
    "not in order": (
        torch.rand(6)[::2],
        torch.rand(2, 3)[:, 1],
        2,
        torch.rand(3, 3).T[0],
        0,
        torch.rand(8)[::2],
    ),
    "what is no number": (
        torch.full((3,), torch.nan),
        torch.rand(2),
        float("inf"),
        torch.rand(3),
        float("nan"),
        torch.rand(4),
    ),
    "numbers beyond float32": (
        torch.full((3,), 1e300, dtype=torch.float64),
        torch.rand(2),
        1.0,
        torch.rand(3),
        False,
        torch.rand(4),
    ),
    "integers beyond float32": (
        torch.tensor([2**60 + 1] * 3),
        2**60 + 1,
        16_777_217,
        torch.rand(3),
        1,
        torch.rand(4),
    ),
}


@pytest.mark.parametrize("where", ["memory", "inference", *STORES])
@pytest.mark.parametrize("kind", KINDS)
def test_values_of_every_kind_become_what_velora_makes_of_them(kind: str, where: str, tmp_path: Path) -> None:
    real, ours = real_class()(5, *SIZES.values()), ReplayBuffer(5, **SIZES)
    if where in STORES:
        ours.save(tmp_path / f"b{where}")
        ours = ReplayBuffer.load(tmp_path / f"b{where}", mode="r+")
    with ours, torch.inference_mode(where == "inference"):
        # The first of a store, and one that goes round the end, are written another way.
        for number in range(7):
            values = KINDS[kind if number % 3 else "plain"]
            real.add(*values)
            ours.add(*values)
        assert (ours.position, ours.size) == (real.position, real.size)
        for name, expected in state(real).items():
            assert torch.equal(torch.nan_to_num(state(ours)[name], 7.5), torch.nan_to_num(expected, 7.5)), (
                name
            )


@pytest.mark.parametrize("kind", ["add", "add_multi"])
@pytest.mark.parametrize("inference", [False, True])
def test_a_change_behind_the_buffers_back_is_noticed_between_any_rows(
    kind: str, inference: bool, tmp_path: Path
) -> None:
    buffer = filled(50, 5)
    buffer.save(tmp_path / "b.zarr")
    with torch.inference_mode(inference):
        apply(buffer, kind, 1, 1)
    buffer.save(tmp_path / "b.zarr")
    assert buffer._ring.changes == 0  # so that was no reason to write the store anew
    apply(buffer, kind, 2, 1)
    buffer.rewards[2] = 9.0
    apply(buffer, kind, 3, 1)
    buffer.save(tmp_path / "b.zarr")

    assert buffer._ring.changes == 1
    with ReplayBuffer.load(tmp_path / "b.zarr") as lazy:
        assert_equal(lazy, buffer)


# --- files


def test_files_are_byte_for_byte_those_of_velora(tmp_path: Path) -> None:
    for name, capacity, counts in (("partial", 50, (20,)), ("wrapped", 8, (5, 6)), ("empty", 3, ())):
        real = real_class()(capacity, *SIZES.values())
        for seed, count in enumerate(counts):
            real.add_multi(*rows(seed, count))
        real.save(tmp_path / name / "real")
        ours = filled(capacity, *counts)
        ours.save(tmp_path / name / "ours")
        ours.save(tmp_path / f"{name}.zarr")
        lazy = ReplayBuffer.load(tmp_path / f"{name}.zarr")
        lazy.device = None
        lazy.save(tmp_path / name / "stored")

        for file in ("buffer_state.safetensors", "buffer_metadata.json"):
            expected = (tmp_path / name / "real" / file).read_bytes()
            assert (tmp_path / name / "ours" / file).read_bytes() == expected
            assert (tmp_path / name / "stored" / file).read_bytes() == expected


def test_velora_loads_what_we_save_and_goes_on_with_it(tmp_path: Path) -> None:
    ours = filled(10, 6, 7)
    ours.save(tmp_path)
    metadata = json.loads((tmp_path / "buffer_metadata.json").read_text())
    real = real_class().load(tmp_path / "buffer_state", metadata)

    for buffer in (ours, real):
        buffer.add_multi(*rows(9, 4))

    assert_equal(ours, real)


SAMPLES = Path(__file__).parent / "data" / "velora"


def sample_names() -> list[str]:
    file = SAMPLES / "expected.json"
    return sorted(json.loads(file.read_text())["samples"]) if file.exists() else []


@pytest.mark.parametrize("name", sample_names())
@pytest.mark.parametrize("suffix", ["", *STORES])
def test_files_of_velora_are_loaded_and_sampled_as_velora_does(
    name: str, suffix: str, tmp_path: Path
) -> None:
    expected = json.loads((SAMPLES / "expected.json").read_text())["samples"][name]
    buffer = ReplayBuffer.load(SAMPLES / expected["load_path_arg"], expected["metadata"])
    if suffix:
        buffer.save(tmp_path / f"buffer{suffix}")
        buffer = ReplayBuffer.load(tmp_path / f"buffer{suffix}", expected["metadata"])

    assert buffer.metadata() == expected["metadata_after_load"]
    for field, known in expected["tensors"].items():
        tensor = getattr(buffer, field)
        assert (str(tensor.dtype), list(tensor.shape)) == (known["dtype"], known["shape"])
        assert hashlib.sha256(tensor.cpu().numpy().tobytes()).hexdigest() == known["storage_sha256"]
    if "seeded_sample" in expected:
        seeded = expected["seeded_sample"]
        torch.manual_seed(seeded["torch_seed"])
        batch = buffer.sample(seeded["batch_size"])
        for field, digest in seeded["sha256"].items():
            assert hashlib.sha256(getattr(batch, field).numpy().tobytes()).hexdigest() == digest


# --- stores


@settings(max_examples=30)
@given(
    capacity=st.integers(1, 12),
    operations=st.lists(one | many | saving, max_size=9),
    suffix=st.sampled_from(STORES),
)
def test_a_buffer_saved_again_and_again_is_the_same_when_loaded(
    tmp_path_factory: pytest.TempPathFactory,
    capacity: int,
    operations: list[tuple[str, int, int]],
    suffix: str,
) -> None:
    folder = tmp_path_factory.mktemp("saved")
    place = folder / f"buffer{suffix}"
    buffer = ReplayBuffer(capacity, **SIZES)
    for kind, seed, count in [*operations, ("save", 0, 0)]:
        if kind == "save":
            buffer.save(place)
            with ReplayBuffer.load(place) as lazy:
                assert_equal(lazy, buffer)
        elif kind == "write":
            buffer.states[capacity // 2] = 7.0  # behind the buffer's back
        else:
            apply(buffer, kind, seed, count)
    shutil.rmtree(folder)


@settings(max_examples=30)
@given(
    capacity=st.integers(1, 12),
    before=st.integers(0, 20),
    operations=st.lists(one | many | saving, max_size=8),
    suffix=st.sampled_from(STORES),
)
def test_a_buffer_in_a_store_goes_on_as_one_in_memory(
    tmp_path_factory: pytest.TempPathFactory,
    capacity: int,
    before: int,
    operations: list[tuple[str, int, int]],
    suffix: str,
) -> None:
    folder = tmp_path_factory.mktemp("living")
    place = folder / f"buffer{suffix}"
    model = filled(capacity, before)
    model.save(place)
    with ReplayBuffer.load(place, mode="r+") as lazy:
        for kind, seed, count in operations:
            if kind == "save":
                lazy.save(place)
            elif kind == "write":
                for buffer in (model, lazy):
                    buffer.rewards[capacity // 2] = 7.0
            elif count <= capacity:
                apply(model, kind, seed, count)
                apply(lazy, kind, seed, count)
            assert_equal(lazy, model)
    with ReplayBuffer.load(place) as again:
        assert_equal(again, model)
        again.save(folder / "files")
    shutil.rmtree(folder)


@pytest.mark.parametrize("suffix", STORES)
def test_loading_from_a_store_reads_no_rows_and_sampling_only_its_own(
    suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    buffer = filled(100, 80)
    buffer.save(tmp_path / f"b{suffix}")
    read: list[int] = []
    original = LazyTensor.of
    monkeypatch.setattr(
        LazyTensor, "of", lambda self, rows, shape: read.append(len(rows)) or original(self, rows, shape)
    )

    with ReplayBuffer.load(tmp_path / f"b{suffix}") as lazy:
        assert (lazy.states.shape, lazy.states.dtype, len(lazy.states)) == ((100, 3), torch.float32, 100)
        assert read == []
        lazy.sample(7)

    assert read == [7] * 6


def test_saving_again_writes_only_what_is_new(tmp_path: Path) -> None:
    buffer = filled(10_000, 5_000)
    place = tmp_path / "b.zarr"
    buffer.save(place)
    file = next(path for path in sorted(place.rglob("steps/observation/c/*/*")) if path.is_file())
    identity = file.stat().st_ino

    buffer.add_multi(*rows(3, 10))
    buffer.save(place)
    assert file.stat().st_ino == identity
    with open_buffer(place) as store:
        assert len(store) == 5_010

    buffer.states[3] = 1.0
    buffer.save(place)
    assert file.stat().st_ino != identity
    with ReplayBuffer.load(place) as lazy:
        assert_equal(lazy, buffer)


def test_a_store_that_somebody_else_has_changed_is_written_anew(tmp_path: Path) -> None:
    buffer = filled(20, 8)
    buffer.save(tmp_path / "b.zarr")
    with ReplayBuffer.load(tmp_path / "b.zarr", mode="r+") as other:
        other.add_multi(*rows(8, 3))

    buffer.add_multi(*rows(3, 2))
    buffer.save(tmp_path / "b.zarr")

    with ReplayBuffer.load(tmp_path / "b.zarr") as lazy:
        assert_equal(lazy, buffer)


def test_an_hdf5_file_does_not_grow_beyond_twice_the_capacity(tmp_path: Path) -> None:
    buffer = ReplayBuffer(10, **SIZES)
    for seed in range(12):
        buffer.add_multi(*rows(seed, 5))
        buffer.save(tmp_path / "b.h5")
        with open_buffer(tmp_path / "b.h5") as store:
            assert len(store) <= 20

    with ReplayBuffer.load(tmp_path / "b.h5") as lazy:
        assert_equal(lazy, buffer)


def test_a_store_for_reading_is_not_written_to(tmp_path: Path) -> None:
    filled(10, 4).save(tmp_path / "b.zarr")
    with ReplayBuffer.load(tmp_path / "b.zarr") as lazy:
        for write in (
            lambda: lazy.add_multi(*rows(0, 2)),
            lambda: lazy.states.__setitem__(0, 1.0),
            lambda: setattr(lazy, "states", torch.zeros(10, 3)),
            lambda: lazy.save(tmp_path / "b.zarr"),
        ):
            with pytest.raises(ConflictError, match=r"load it with mode='r\+'"):
                write()
        assert len(lazy) == 4


def test_interleaved_environments_become_rows_of_no_trajectory(tmp_path: Path) -> None:
    filled(200, 0).save(tmp_path / "b.zarr")
    with ReplayBuffer.load(tmp_path / "b.zarr", mode="r+") as lazy:
        for seed, vector in ((1, False), (2, True)):
            values = rows(seed, 50, vector=vector)
            values[4].zero_()
            lazy.add_multi(*values)
            lazy.save(tmp_path / "b.zarr")

    with open_buffer(tmp_path / "b.zarr") as store:
        assert len(store) == 100
        assert sum(store.trajectories["length"]) == 50


def test_metadata_that_contradict_a_store_are_refused(tmp_path: Path) -> None:
    buffer = filled(10, 4)
    buffer.save(tmp_path / "b.zarr")

    with pytest.raises(SchemaError, match="has size=4, and the metadata say 5"):
        ReplayBuffer.load(tmp_path / "b.zarr", buffer.metadata() | {"size": 5})


# --- errors


def broken(tmp_path: Path, kind: str) -> tuple[Path, Any]:
    buffer = filled(10, 4)
    buffer.save(tmp_path)
    file, metadata = tmp_path / "buffer_state.safetensors", buffer.metadata()
    if kind == "a half file":
        file.write_bytes(file.read_bytes()[:-10])
    elif kind == "a file of something else":
        file.write_bytes(b"nothing of the kind")
    elif kind == "no file":
        file.unlink()
    elif kind == "no metadata beside it":
        (tmp_path / "buffer_metadata.json").unlink()
        metadata = None
    elif kind == "metadata without a key":
        del metadata["position"]
    elif kind == "metadata of another buffer":
        metadata["state_dim"] = 9
    elif kind == "a position beyond the end":
        metadata["position"] = 10
    elif kind == "a device that is not there":
        metadata["device"] = "cuda:7"
    elif kind == "no store":
        file = tmp_path / "none.zarr"
    return file, metadata


BROKEN: dict[str, type[Exception]] = {
    "a half file": FormatError,
    "a file of something else": FormatError,
    "no file": NotFoundError,
    "no metadata beside it": NotFoundError,
    "metadata without a key": SchemaError,
    "metadata of another buffer": FormatError,
    "a position beyond the end": FormatError,
    "no store": NotFoundError,
}


@pytest.mark.parametrize(("kind", "error"), BROKEN.items(), ids=BROKEN)
def test_what_cannot_be_loaded_is_said_in_one_line(kind: str, error: type[Exception], tmp_path: Path) -> None:
    file, metadata = broken(tmp_path, kind)

    with pytest.raises(error) as caught:
        ReplayBuffer.load(file, metadata)

    assert "\n" not in str(caught.value)
    assert 20 < len(str(caught.value)) < 400


@pytest.mark.skipif(torch.cuda.device_count() > 7, reason="there is such a device")
def test_a_device_that_is_not_there_is_refused(tmp_path: Path) -> None:
    file, metadata = broken(tmp_path, "a device that is not there")

    with pytest.raises(UnsupportedError, match="pass device='cpu'"):
        ReplayBuffer.load(file, metadata)
    with pytest.raises(UnsupportedError, match="pass device='cpu'"):
        ReplayBuffer(4, **SIZES, device="cuda:7")
    assert ReplayBuffer.load(file, metadata, device="cpu").size == 4


@pytest.mark.parametrize("name", ["capacity", "state_dim", "action_dim", "hidden_dim"])
def test_dimensions_are_positive(name: str) -> None:
    with pytest.raises(SchemaError, match=f"{name} must be a positive number"):
        ReplayBuffer(**{"capacity": 4, **SIZES, name: 0})


def test_the_position_in_a_store_cannot_be_set(tmp_path: Path) -> None:
    filled(10, 4).save(tmp_path / "b.zarr")
    with (
        ReplayBuffer.load(tmp_path / "b.zarr", mode="r+") as lazy,
        pytest.raises(SchemaError, match="follows from its rows"),
    ):
        lazy.position = 0


# --- warming


class Agent:
    """What `warm` asks of an agent."""

    device = torch.device("cpu")
    env = SimpleNamespace(spec=SimpleNamespace(id="CartPole-v1"))

    def __init__(self) -> None:
        self.seen: list[torch.Tensor] = []

    def predict(
        self, states: torch.Tensor, hidden: torch.Tensor | None, train_mode: bool
    ) -> tuple[torch.Tensor, torch.Tensor]:
        assert train_mode
        assert (hidden is None) == (not self.seen)
        self.seen.append(states)
        return torch.ones(len(states), dtype=torch.int64), torch.full((len(states), 4), float(len(self.seen)))


def test_warming_fills_to_the_number_of_samples_or_a_little_more() -> None:
    buffer, agent = ReplayBuffer(20, 4, 1, 4), Agent()

    buffer.warm(agent, 10, num_envs=4)

    assert len(buffer) == 12
    assert torch.equal(buffer.states[:12], torch.cat(agent.seen))
    assert torch.equal(buffer.next_states[:8], buffer.states[4:12])
    assert buffer.hiddens[:12, 0].tolist() == [1.0] * 4 + [2.0] * 4 + [3.0] * 4
    buffer.warm(agent, 12, num_envs=4)
    assert len(buffer) == 12


def test_warming_beyond_the_capacity_is_refused() -> None:
    with pytest.raises(SchemaError, match="n_samples=21 is more than the capacity of 20"):
        ReplayBuffer(20, 4, 1, 4).warm(Agent(), 21)


def test_warming_takes_two_environments() -> None:
    with pytest.raises(ValueError, match="'num_envs=1' cannot be smaller than 2"):
        ReplayBuffer(20, 4, 1, 4).warm(Agent(), 2, num_envs=1)


def test_environments_are_closed_when_the_agent_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Any] = []
    original = gymnasium.make_vec
    monkeypatch.setattr(
        gymnasium, "make_vec", lambda *args, **kwargs: made.append(original(*args, **kwargs)) or made[-1]
    )
    agent = Agent()
    monkeypatch.setattr(agent, "predict", lambda *_, **__: 1 / 0)

    with pytest.raises(ZeroDivisionError):
        ReplayBuffer(20, 4, 1, 4).warm(agent, 2, num_envs=2)

    assert made[0].closed
