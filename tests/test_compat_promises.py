"""What the drop-in buffers have beyond adding and sampling: environments that are compared, fields that are
kept, checkpoints of agents."""

from __future__ import annotations

import gc
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gymnasium
import numpy as np
import pytest
import safetensors.torch
import torch
from rlhf_buffers import NAMES, STORES, filled, original, rows, spaces

from replaystore.buffers.buffer import open as open_buffer
from replaystore.compat import active_rlhf, velora
from replaystore.compat.active_rlhf import (
    PreferenceBuffer,
    PreferenceBufferBatch,
    ReplayBuffer,
    RolloutBuffer,
    TrajectoryPairBatch,
)
from replaystore.errors import FormatError, ReplayStoreWarning, SchemaError, UnsupportedError

VELORA_FIELDS = ("states", "actions", "rewards", "next_states", "dones", "hiddens")


# --- environments


def envs(name: str | None, *, low: float = -1.0, dtype: str = "float32") -> Any:
    """As much of a vector environment as is looked at; None: an environment that is not registered."""
    boxes = [gymnasium.spaces.Box(np.full(width, low, dtype), 1.0, (width,), dtype) for width in (2, 1)]
    spec = None if name is None else SimpleNamespace(id=name, to_json=lambda: "{}")
    single = {"single_observation_space": boxes[0], "single_action_space": boxes[1]}
    return SimpleNamespace(spec=spec, num_envs=1, observation_space=boxes[0], action_space=boxes[1], **single)


def saved(path: Path, recorded: Any) -> Path:
    buffer = ReplayBuffer(recorded, 10, 2, "cpu")
    buffer.add(*rows(0, 4))
    path.parent.mkdir(parents=True, exist_ok=True)
    buffer.save(path)
    return path


@pytest.mark.parametrize("mode", ["r", "r+"])
@pytest.mark.parametrize("now", ["Walker2d-v5", "HalfCheetah-v4"])
@pytest.mark.parametrize("suffix", STORES)
def test_another_environment_of_the_same_width_is_refused(
    suffix: str, now: str, mode: Any, tmp_path: Path
) -> None:
    path = saved(tmp_path / f"b{suffix}", envs("HalfCheetah-v5"))

    with pytest.raises(
        SchemaError, match=(f"was recorded in HalfCheetah-v5, and envs are of {now}: pass .* or envs=None")
    ):
        ReplayBuffer.load(path, envs(now), device="cpu", mode=mode)

    # Wrappers change bounds; an id that is not known is no other id.
    for same in (envs("HalfCheetah-v5", low=-np.inf), None, spaces()):
        with ReplayBuffer.load(path, same, device="cpu", mode=mode) as loaded:
            assert loaded.envs is same
            assert loaded.environment is not None
            assert loaded.environment["id"] == "HalfCheetah-v5"


@pytest.mark.parametrize("suffix", STORES)
@pytest.mark.parametrize("again", [False, True])
def test_other_bounds_are_warned_of_where_no_id_is_known(again: bool, suffix: str, tmp_path: Path) -> None:
    path = saved(tmp_path / f"a{suffix}", envs(None))
    if again:
        with ReplayBuffer.load(path, device="cpu") as loaded:
            loaded.save(tmp_path / f"b{suffix}")
        path = tmp_path / f"b{suffix}"
    with open_buffer(path) as store:
        assert (store.schema.observation_space(), store.schema.action_space()) == (
            envs(None).single_observation_space,
            envs(None).single_action_space,
        )

    with pytest.warns(
        UserWarning,
        match=(
            r"the (observation|action) space Box\(-1.*and that of envs is "
            r"Box\(-5"
        ),
    ) as warned:
        ReplayBuffer.load(path, envs(None, low=-5.0), device="cpu").close()
    assert [str(item.message)[-len("same environment?") :] for item in warned] == ["same environment?"] * 2
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ReplayBuffer.load(path, envs(None, dtype="float64"), device="cpu").close()


def test_the_folder_of_a_pickle_is_a_hint_at_its_environment(tmp_path: Path) -> None:
    path = saved(
        tmp_path / "HalfCheetah-v5__pref_ppo__1__1700000000" / "replay_buffer.pkl", envs("HalfCheetah-v5")
    )

    with pytest.warns(
        UserWarning,
        match=(
            r"seems to be of HalfCheetah-v5, by the name of its folder, and "
            r"envs are of Walker2d-v5"
        ),
    ):
        ReplayBuffer.load(path, envs("Walker2d-v5"), device="cpu")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ReplayBuffer.load(path, envs("HalfCheetah-v5"), device="cpu")


# --- fields that outlive their buffers


def velora_buffer(capacity: int = 20, count: int = 5) -> velora.ReplayBuffer:
    buffer = velora.ReplayBuffer(capacity, 3, 1, 2)
    numbers = torch.arange(3.0 * count).reshape(count, 3)
    buffer.add_multi(
        numbers, torch.ones(count), torch.ones(count), numbers + 1, torch.zeros(count), torch.ones(count, 2)
    )
    return buffer


def of_both(folder: Path, suffix: str, mode: Any = "r") -> list[tuple[Any, tuple[str, ...], Any]]:
    """Functions that load a saved buffer of each project, the names of its fields, and the buffer in
    memory."""
    one, other = velora_buffer(), filled(10, 4)
    one.save(folder / f"v{suffix}")
    other.save(folder / f"a{suffix}")
    return [
        (lambda: velora.ReplayBuffer.load(folder / f"v{suffix}", mode=mode), VELORA_FIELDS, one),
        (lambda: ReplayBuffer.load(folder / f"a{suffix}", device="cpu", mode=mode), NAMES, other),
    ]


@pytest.mark.parametrize("mode", ["r", "r+"])
@pytest.mark.parametrize("suffix", STORES)
def test_a_field_that_is_kept_keeps_what_it_needs(suffix: str, mode: Any, tmp_path: Path) -> None:
    for load, names, memory in of_both(tmp_path, suffix, mode):
        for name in names:
            expected = getattr(memory, name)
            assert torch.equal(getattr(load(), name)[:5], expected[:5])
            kept = getattr(load(), name)
            gc.collect()
            assert torch.equal(kept[:], expected)
            iterator = iter(kept)
            del kept
            gc.collect()
            assert torch.equal(torch.stack(list(iterator)), expected)


@pytest.mark.parametrize("suffix", STORES)
def test_a_store_is_released_with_the_last_that_refers_to_it(suffix: str, tmp_path: Path) -> None:
    for load, names, _ in of_both(tmp_path, suffix, "r+"):
        kept = getattr(load(), names[0])
        ring = kept._ring
        assert ring.writable
        del kept
        assert ring.buffer.closed  # at once, without the garbage collector: the next writer waits for nothing
        load().close()


# --- the state of a buffer


@pytest.mark.parametrize("suffix", STORES)
def test_the_state_of_a_lazy_buffer_is_tensors_that_can_be_saved(suffix: str, tmp_path: Path) -> None:
    memory = velora_buffer()
    memory.save(tmp_path / f"b{suffix}")
    state = velora.ReplayBuffer.load(tmp_path / f"b{suffix}").state_dict()
    gc.collect()

    assert all(
        type(tensor) is torch.Tensor and torch.equal(tensor, memory.state_dict()[name])
        for name, tensor in state.items()
    )
    safetensors.torch.save_file(state, tmp_path / "state.safetensors")
    assert velora.ReplayBuffer.load(tmp_path / "state.safetensors", memory.metadata()).size == 5


# --- buffers of agents


@pytest.mark.parametrize("path", [None, "b.zarr", "b.h5"])
def test_an_agents_buffer_is_adopted_with_what_is_in_it(path: str | None, tmp_path: Path) -> None:
    own = velora_buffer(capacity=6, count=8)
    place = None if path is None else tmp_path / path

    with velora.ReplayBuffer.adopt(own, place) as ours:
        assert ours.metadata() == own.metadata()
        ours.add(torch.ones(3), 1.0, 2.0, torch.ones(3), False, torch.ones(2))
        own.add(torch.ones(3), 1.0, 2.0, torch.ones(3), False, torch.ones(2))
        assert all(torch.equal(tensor, own.state_dict()[name]) for name, tensor in ours.state_dict().items())
    if place is not None:
        with velora.ReplayBuffer.adopt(velora_buffer(6, 0), place) as again:
            assert again.metadata() == own.metadata()
        with pytest.raises(
            SchemaError, match=("is there, and the agent's buffer has 3 transitions: choose another name")
        ):
            velora.ReplayBuffer.adopt(velora_buffer(6, 3), place)
        with pytest.raises(
            SchemaError, match=("has capacity=6, and the agent's buffer capacity=7: choose another name")
        ):
            velora.ReplayBuffer.adopt(velora_buffer(7, 0), place)


def test_a_buffer_is_adopted_into_nothing_but_a_store(tmp_path: Path) -> None:
    with pytest.raises(
        SchemaError,
        match=(
            r"is not the name of a store: choose one that ends in \.zarr "
            r"or \.h5"
        ),
    ):
        velora.ReplayBuffer.adopt(velora_buffer(), tmp_path / "folder")


class Prioritized(velora.BufferBase):
    """As a user would write one."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.alpha = 0.5

    def sample(self, count: int) -> torch.Tensor:
        return torch.as_tensor(self.states[torch.arange(count)])


@pytest.mark.parametrize("name", ["files", "b.zarr", "b.h5"])
def test_a_class_of_ones_own_is_loaded_as_it_is_made(name: str, tmp_path: Path) -> None:
    buffer = Prioritized(20, 3, 1, 2)
    buffer.add(torch.ones(3), 1.0, 2.0, torch.ones(3), False, torch.ones(2))
    buffer.save(tmp_path / name)
    path = tmp_path / name / "buffer_state" if name == "files" else tmp_path / name

    with Prioritized.load(path) as loaded:
        assert loaded.alpha == 0.5
        assert torch.equal(loaded.sample(1), torch.ones(1, 3))


# --- more rows at once than there are places


@pytest.mark.parametrize("suffix", STORES)
@pytest.mark.parametrize(("before", "count"), [(4, 13), (0, 19), (7, 12)])
def test_a_lazy_buffer_takes_more_rows_than_it_has_places_as_memory_does(
    before: int, count: int, suffix: str, tmp_path: Path
) -> None:
    memory, other = filled(10, before), velora_buffer(10, before)
    memory.save(tmp_path / f"a{suffix}")
    other.save(tmp_path / f"v{suffix}")
    numbers = torch.rand(count, 3)
    values = (
        numbers,
        torch.ones(count),
        torch.ones(count),
        numbers + 1,
        torch.zeros(count),
        torch.ones(count, 2),
    )
    with (
        ReplayBuffer.load(tmp_path / f"a{suffix}", device="cpu", mode="r+") as lazy,
        velora.ReplayBuffer.load(tmp_path / f"v{suffix}", mode="r+") as second,
    ):
        for buffer in (memory, lazy):
            buffer.add(*rows(before, count))
        for each in (other, second):
            each.add_multi(*values)
        with ReplayBuffer.load(tmp_path / f"a{suffix}", device="cpu") as reader:  # it is safe at once
            for buffer in (lazy, reader):
                assert (buffer.size, buffer.pos, buffer.trajectories) == (
                    memory.size,
                    memory.pos,
                    memory.trajectories,
                )
                assert all(torch.equal(getattr(buffer, name)[:], getattr(memory, name)) for name in NAMES)
        assert (second.size, second.position) == (other.size, other.position)
        assert all(torch.equal(getattr(second, name)[:], getattr(other, name)) for name in VELORA_FIELDS)


# --- pairs and rollouts, whatever the original says


def test_every_name_that_scripts_import_is_there() -> None:
    for name in (
        "ReplayBuffer",
        "ReplayBufferBatch",
        "PreferenceBuffer",
        "PreferenceBufferBatch",
        "TrajectoryPairBatch",
        "TrajectoryInfo",
    ):
        assert name in active_rlhf.__all__
    assert {"RolloutBuffer", "RolloutBufferBatch"} < set(active_rlhf.__all__)
    assert all(getattr(active_rlhf, name) for name in active_rlhf.__all__)


def pairs(count: int, first: int = 0) -> PreferenceBufferBatch:
    column = torch.arange(first, first + count, dtype=torch.float32)
    fields = [column.reshape(count, 1, 1) * scale for scale in range(1, 9)]
    return PreferenceBufferBatch(*fields, prefs=torch.stack([column, -column], dim=1))


def test_a_preference_buffer_keeps_the_newest_pairs() -> None:
    buffer = PreferenceBuffer(4)
    buffer.add(pairs(3))
    buffer.add(pairs(3, 3))

    assert (len(buffer), buffer.size, buffer.pos) == (4, 4, 2)
    assert [int(pair[0]) for pair in buffer.prefs] == [4, 5, 2, 3]
    assert torch.equal(buffer[0].second_dones, torch.full((1, 1), 32.0))
    loaded = next(
        iter(
            torch.utils.data.DataLoader(
                buffer, batch_size=4, collate_fn=lambda items: [int(item.prefs[0]) for item in items]
            )
        )
    )
    assert loaded == [4, 5, 2, 3]


def test_a_part_of_a_batch_of_preferences_keeps_its_preferences() -> None:
    batch = pairs(5)[2:4]

    assert isinstance(batch, TrajectoryPairBatch)
    assert len(batch) == 2
    assert batch.prefs[:, 0].tolist() == [2.0, 3.0]


def test_pairs_that_do_not_fit_are_refused_before_anything_is_added() -> None:
    wrong = pairs(3)
    wrong.second_rews = wrong.second_rews[:2]
    buffer = PreferenceBuffer(4)

    with pytest.raises(SchemaError, match="different numbers of pairs"):
        buffer.add(wrong)
    assert len(buffer) == 0
    assert buffer.first_obs == []
    with pytest.raises(SchemaError, match="capacity must be a positive number"):
        PreferenceBuffer(-1)
    none = PreferenceBuffer(0)
    none.add(pairs(0))
    with pytest.raises(SchemaError, match="make it with a larger capacity"):
        none.add(pairs(1))


def test_a_rollout_buffer_holds_steps_of_all_environments() -> None:
    buffer = RolloutBuffer(3, 2, spaces(4, 1))
    for step in range(3):
        values = [torch.full((2, *shape), float(step + 1)) for shape in ((4,), (1,), (), (), (), ())]
        buffer.store(step, *values)

    assert buffer.get_batch().obs.shape == (3, 2, 4)
    flat = buffer.get_flattened_batch()
    assert (flat.obs.shape, flat.actions.shape, flat.values.tolist()) == ((6, 4), (6, 1), [1, 1, 2, 2, 3, 3])
    memory = ReplayBuffer(spaces(4, 1), 10, 2, "cpu")
    memory.add_rollout(buffer.get_batch())
    assert memory.size == 6
    with pytest.raises(SchemaError, match=r"pass gym\.vector\.SyncVectorEnv"):
        RolloutBuffer(3, 2, None)
    with pytest.raises(SchemaError, match="num_envs must be a positive number"):
        RolloutBuffer(3, 0, spaces())
    with pytest.raises(UnsupportedError, match="meta"):
        RolloutBuffer(3, 2, spaces(), device="meta")


def test_the_variable_that_names_the_original_names_a_checkout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACTIVE_RLHF_SRC", str(tmp_path))
    with pytest.raises(AssertionError, match="is no checkout of active-rlhf"):
        original()
    monkeypatch.delenv("ACTIVE_RLHF_SRC")
    with pytest.raises(pytest.skip.Exception):
        original()


# --- another capacity


HISTORIES = [
    (10, ()),
    (10, (4,)),
    (10, (5, 5)),
    (10, (4, 4, 4)),
    (10, (3, 4, 2, 3, 4)),
    (10, (4, 10)),
    (10, (4, 13)),
]
FORMS = ("files", ".zarr", ".h5", "grown.zarr", "grown.h5")


def in_velora(path: Path, capacity: int, counts: tuple[int, ...]) -> velora.ReplayBuffer:
    """A buffer of velora, saved; "grown": the last rows were added in the store."""
    memory = velora.ReplayBuffer(capacity, 2, 1, 2)
    whole = [rows(sum(counts[:at]), count) for at, count in enumerate(counts)]
    early = len(whole) // 2 if path.name.startswith("grown") else len(whole)

    def add(buffer: Any, some: Any) -> None:
        for obs, acts, rews, dones in some:
            buffer.add_multi(obs, acts, rews, obs + 1, dones, obs / 7)

    add(memory, whole[:early])
    memory.save(path)
    if early < len(whole):
        with velora.ReplayBuffer.load(path, mode="r+") as lazy:
            add(lazy, whole[early:])
    add(memory, whole[early:])
    return memory


def in_active_rlhf(path: Path, capacity: int, counts: tuple[int, ...]) -> ReplayBuffer:
    memory = filled(capacity, *counts)
    early = filled(capacity, *counts[: len(counts) // 2]) if path.name.startswith("grown") else memory
    early.save(path)
    if early is not memory:
        with ReplayBuffer.load(path, device="cpu", mode="r+") as lazy:
            for count in counts[len(counts) // 2 :]:
                lazy.add(*rows(lazy.global_step, count))
    return memory


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def numbers_of(field: Any, capacity: int, size: int, position: int) -> list[float]:
    """Which rows there are, oldest first."""
    begin = position if size == capacity else 0
    return [float(field[:][(begin + number) % capacity][0]) for number in range(size)]


def messages(warned: list[warnings.WarningMessage]) -> list[str]:
    assert all(item.category is ReplayStoreWarning and item.filename == __file__ for item in warned)
    return [str(item.message) for item in warned]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("history", HISTORIES, ids=str)
def test_a_buffer_of_velora_loads_with_another_capacity(history: Any, form: str, tmp_path: Path) -> None:
    path = tmp_path / form
    memory = in_velora(path, *history)
    before, source = files_of(tmp_path), path / "buffer_state" if form == "files" else path
    known = numbers_of(memory.states, memory.capacity, memory.size, memory.position)
    for capacity in (1, 7, 10, 25):
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            loaded = velora.ReplayBuffer.load(source, memory.metadata(), capacity=capacity)
        lost = max(0, len(known) - capacity)
        assert [
            f"the oldest {lost} of {len(known)} rows are not loaded" in text for text in messages(warned)
        ] == [True] * (lost > 0)
        kept = known[lost:]
        with loaded:
            assert (loaded.capacity, loaded.size, len(loaded.states)) == (capacity, len(kept), capacity)
            assert numbers_of(loaded.states, capacity, loaded.size, loaded.position) == kept
            rest = torch.tensor(kept)
            if capacity != memory.capacity:
                assert torch.equal(loaded.hiddens[:][: len(kept), 0], rest / 7)
                assert not loaded.rewards[:][len(kept) :].any()
            if kept:
                assert set(loaded.sample(len(kept)).states[:, 0].tolist()) <= set(kept)
            if isinstance(loaded.states, torch.Tensor):
                buffer = loaded
            else:
                loaded.save(f"memory:{tmp_path.name}")
                buffer = velora.ReplayBuffer.load(f"memory:{tmp_path.name}", mode="r+")
        new = max(1, capacity - len(kept))  # it has room for so many
        obs, acts, rews, dones = rows(100, new)
        buffer.add_multi(obs, acts, rews, obs + 1, dones, obs / 7)
        assert (
            numbers_of(buffer.states, capacity, buffer.size, buffer.position)
            == [*kept, *obs[:, 0].tolist()][-capacity:]
        )
        buffer.close()
    assert files_of(tmp_path) == before


@pytest.mark.parametrize("form", ["files.pkl", *FORMS[1:]])
@pytest.mark.parametrize("history", HISTORIES, ids=str)
def test_a_buffer_of_active_rlhf_loads_with_another_capacity(history: Any, form: str, tmp_path: Path) -> None:
    path = tmp_path / form
    memory = in_active_rlhf(path, *history)
    before = files_of(tmp_path)
    known = numbers_of(memory.obs, memory.capacity, memory.size, memory.pos)
    listed = [
        (info, memory.obs[(info.start_pos + torch.arange(info.length)) % memory.capacity])
        for info in memory.trajectories
    ]
    for capacity in (1, 4, 7, 25):
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            loaded = ReplayBuffer.load(path, device="cpu", capacity=capacity)
        kept = known[max(0, len(known) - capacity) :]
        whole = [
            (info, obs)
            for info, obs in listed
            if info.length <= memory.capacity and kept and obs[:, 0].min() >= kept[0]
        ]
        expected = (
            f"the oldest {len(known) - len(kept)} of {len(known)} rows are not loaded"
            if len(kept) < len(known)
            else ""
        )
        gone = (
            f"{len(listed) - len(whole)} of {len(listed)} trajectories, of which"
            if len(whole) < len(listed)
            else ""
        )
        assert [expected in text and gone in text for text in messages(warned)] == [True] * bool(
            expected or gone
        )
        with loaded:
            assert (loaded.capacity, loaded.size, len(loaded.obs)) == (capacity, len(kept), capacity)
            assert (loaded.global_step, loaded.fragment_length) == (
                memory.global_step,
                memory.fragment_length,
            )
            assert numbers_of(loaded.obs, capacity, loaded.size, loaded.pos) == kept
            assert not loaded.obs[:][len(kept) :].any()
            assert len(loaded.trajectories) == len(whole)
            for info, (was, obs) in zip(loaded.trajectories, whole, strict=True):
                assert vars(info) | {"start_pos": 0} == vars(was) | {"start_pos": 0}
                assert info.start_pos + info.length <= capacity
                assert torch.equal(loaded.obs[info.start_pos + torch.arange(info.length)], obs)
            if isinstance(loaded.obs, torch.Tensor):
                buffer = loaded
            else:
                loaded.save(f"memory:{tmp_path.name}")
                buffer = ReplayBuffer.load(f"memory:{tmp_path.name}", device="cpu", mode="r+")
        new = max(1, capacity - len(kept))
        survivors = (
            buffer.trajectories[:]
            if capacity > len(kept)
            else [info for info in buffer.trajectories if info.start_pos > 0]
        )
        buffer.add(*rows(100, new))
        assert buffer.trajectories[:-1] == survivors
        assert (
            numbers_of(buffer.obs, capacity, buffer.size, buffer.pos)
            == [*kept, *range(101, 101 + new)][-capacity:]
        )
        buffer.close()
    assert files_of(tmp_path) == before


@pytest.mark.parametrize("suffix", STORES)
def test_a_store_that_is_written_to_keeps_its_capacity(suffix: str, tmp_path: Path) -> None:
    for (_, _, memory), name in zip(of_both(tmp_path, suffix), ("v", "a"), strict=True):
        path, other, kind = tmp_path / f"{name}{suffix}", tmp_path / f"{name}-other{suffix}", type(memory)
        options = {} if name == "v" else {"device": "cpu"}
        with pytest.raises(
            UnsupportedError,
            match=(
                r"load it with capacity=30 and mode='r', save that to "
                r"another name, and load the new"
            ),
        ):
            kind.load(path, mode="r+", capacity=30, **options)
        # And the store is not kept open.
        with kind.load(path, mode="r+", capacity=memory.capacity, **options) as same:
            assert same.size == memory.size
        with kind.load(path, capacity=30, **options) as loaded:  # the advice, followed
            loaded.save(other)
        with kind.load(other, mode="r+", **options) as again:
            assert (again.capacity, again.size) == (30, memory.size)


@pytest.mark.parametrize("wrong", [0, -1, 2.5, "8", True])
def test_a_capacity_is_a_positive_number(wrong: Any, tmp_path: Path) -> None:
    for suffix in ("", *STORES):
        of_both(tmp_path, suffix)
        for kind, path in (
            (velora.ReplayBuffer, tmp_path / f"v{suffix}"),
            (ReplayBuffer, tmp_path / f"a{suffix}"),
        ):
            with pytest.raises(SchemaError, match="capacity must be a positive number"):
                kind.load(path if suffix or kind is ReplayBuffer else path / "buffer_state", capacity=wrong)


@pytest.mark.parametrize("suffix", ["", *STORES])
def test_a_capacity_that_was_changed_in_the_metadata_says_how_it_is_meant(
    suffix: str, tmp_path: Path
) -> None:
    memory = velora_buffer()
    path = tmp_path / f"b{suffix}"
    memory.save(path)
    source = path if suffix else path / "buffer_state"

    with pytest.raises((SchemaError, FormatError), match="capacity=30"):
        velora.ReplayBuffer.load(source, memory.metadata() | {"capacity": 30})
    with velora.ReplayBuffer.load(source, memory.metadata(), capacity=30) as loaded:
        assert (loaded.capacity, loaded.size) == (30, 5)
    with Prioritized.load(source, capacity=30) as own:
        assert (own.capacity, own.alpha, len(own.states)) == (30, 0.5, 30)


@pytest.mark.parametrize("suffix", STORES)
def test_a_warning_that_is_an_error_leaves_no_store_open(suffix: str, tmp_path: Path) -> None:
    for load, _, memory in of_both(tmp_path, suffix, "r+"):
        options = {} if isinstance(memory, velora.ReplayBuffer) else {"device": "cpu"}
        path = tmp_path / (f"a{suffix}" if options else f"v{suffix}")
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with pytest.raises(ReplayStoreWarning, match="are not loaded"):
                type(memory).load(path, capacity=2, **options)
        load().close()
