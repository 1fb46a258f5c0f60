"""Datasets that were written here, in Minari itself; and those of Minari, here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

import replaystore as rs
from replaystore.converting.convert import convert
from replaystore.gymnasium import Record
from replaystore.testing.contents import final_by_field
from replaystore.testing.samples import columns

minari = pytest.importorskip("minari", reason="Minari is not installed")

CONTAINERS = {"hdf5": "minari", "arrow": "minari_arrow", "parquet": "minari_parquet"}
SPACE = spaces.Dict(
    {
        "camera": spaces.Box(0, 255, (33, 40, 3), np.uint8),
        "look": spaces.Tuple([spaces.Discrete(9), spaces.Box(-1, np.inf, (3,), np.float64)]),
        "flags": spaces.MultiBinary(4),
        "said": spaces.Text(20, charset="abcé"),
    }
)
ACTION = spaces.MultiDiscrete([3, 4])


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of Minari's datasets."""
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "datasets"))
    return tmp_path / "datasets"


def recorded(path: Path) -> rs.Buffer:
    """A few episodes of an environment, with all kinds of ends."""
    env = gymnasium.make("CartPole-v1", max_episode_steps=12)
    schema = rs.Schema.from_spaces(
        SPACE,
        ACTION,
        reward_dtype=np.float32,
        extra={
            "info/speed": rs.Field("float32", (2,), "info"),
            "info/word": rs.Field.of_text("info"),
            "tokens": rs.Field("int32", (None,), "extra"),
        },
    )
    buffer = rs.create(path, schema, metadata={"minari": {"author": ["us"], "description": "made"}})
    for number, steps in enumerate([7, 1, 12]):
        rows = columns(schema, steps, number, ends=0.0)
        rows["observation/said"] = rs.Ragged.of(["abé"[: number + 1]] * steps, text=True)
        rows["info/word"] = rs.Ragged.of([f"step {n}" for n in range(steps)], text=True)
        rows["terminated"][-1], rows["truncated"][-1] = number != 1, number != 0
        final = schema.unflatten(
            {
                name: "c" if field.text else columns(schema, 1, 50 + number)[name][0]
                for name, field in schema.fields.items()
                if field.role == "observation"
            },
            "observation",
        )
        buffer.append(rows, final_observation=final, split=["", "train", "val"][number], ends=[steps - 1])
    buffer.commit()
    env.close()
    return buffer


def same(mine: Any, theirs: Any) -> bool:
    """Whether values are equal, of one dtype."""
    if isinstance(mine, rs.Ragged):
        return mine.tolist() == list(theirs)
    mine, theirs = np.asarray(mine), np.asarray(theirs)
    return mine.dtype == theirs.dtype and mine.tobytes() == theirs.tobytes()


@pytest.mark.parametrize("container", CONTAINERS)
def test_what_is_written_opens_in_minari(tmp_path: Path, root: Path, container: str) -> None:
    buffer = recorded(tmp_path / "a.zarr")
    report = convert(buffer, root / "some" / "made-v0", format=CONTAINERS[container])
    assert {name: fate.kind for name, fate in report.fields.items()} == dict.fromkeys(
        buffer.schema.fields, "kept"
    )

    dataset = minari.load_dataset("some/made-v0")

    assert "some/made-v0" in minari.list_local_datasets()
    assert dataset.observation_space == SPACE
    assert dataset.action_space == ACTION
    assert (dataset.total_episodes, dataset.total_steps) == (3, 20)
    assert dataset.storage.metadata["author"] == {"us"}
    episodes = list(dataset.iterate_episodes())
    assert [len(episode) for episode in episodes] == [7, 1, 12]
    for number, episode in enumerate(episodes):
        read = buffer.trajectory(number)
        mine, final = read.columns, final_by_field(read)
        assert final is not None
        theirs = buffer.schema.flatten(episode.observations, "observation")
        for name in buffer.schema.names("observation"):
            if buffer.schema.fields[name].text:
                assert list(theirs[name]) == [*mine[name].tolist(), final[name]]
            else:
                assert same(np.concatenate([mine[name], final[name][None]]), theirs[name]), name
        assert same(mine["action"], episode.actions)
        assert same(mine["reward"], episode.rewards)
        assert same(mine["terminated"], episode.terminations)
        assert same(mine["truncated"], episode.truncations)
        if container == "hdf5":
            assert same(mine["info/speed"], episode.infos["speed"][1:])
            assert [text.decode() for text in episode.infos["word"][1:]] == mine["info/word"].tolist()
    assert len(list(dataset.sample_episodes(2))) == 2
    assert len(list(dataset.filter_episodes(lambda episode: len(episode) > 3))) == 2
    buffer.close()


@pytest.mark.parametrize("container", CONTAINERS)
def test_the_environment_and_seeds_are_recovered(tmp_path: Path, root: Path, container: str) -> None:
    cart = gymnasium.make("CartPole-v1", max_episode_steps=12)
    kept = rs.create(tmp_path / "a.zarr", cart)
    env = Record(cart, kept)
    for seed in (3, 9):
        env.reset(seed=seed)
        done = False
        while not done:
            _, _, terminated, truncated, _ = env.step(env.action_space.sample())
            done = terminated or truncated
    env.close()
    kept.close()
    convert(tmp_path / "a.zarr", root / "cart-v1", format=CONTAINERS[container])

    dataset = minari.load_dataset("cart-v1")

    again = dataset.recover_environment()
    assert again.spec is not None
    assert (again.spec.id, again.spec.max_episode_steps) == ("CartPole-v1", 12)
    told = list(dataset.storage.get_episode_metadata(range(2)))
    assert [one["seed"] for one in told] == [3, 9]
    with rs.open(tmp_path / "a.zarr") as buffer:
        assert [one["total_steps"] for one in told] == buffer.trajectories.length.tolist()


def test_minari_goes_on_with_what_was_written(tmp_path: Path, root: Path) -> None:
    """Then what lies beside is about other episodes, and is not used."""
    from minari.data_collector.episode_buffer import EpisodeBuffer

    schema = rs.Schema.from_spaces(spaces.Box(-1, 1, (2,)), spaces.Discrete(3))
    with rs.create(tmp_path / "a.zarr", schema) as buffer:
        buffer.append(columns(schema, 5, 0, ends=0.0), split="train", ends=[4])
    convert(tmp_path / "a.zarr", root / "a-v0", format="minari")
    dataset = minari.load_dataset("a-v0")
    dataset.update_dataset_from_buffer(
        [
            EpisodeBuffer(
                observations=np.zeros((3, 2), "f4"),
                actions=np.zeros(2, "i8"),
                rewards=np.zeros(2),
                terminations=np.zeros(2, bool),
                truncations=np.ones(2, bool),
                infos={},
            )
        ]
    )

    report = convert(root / "a-v0", tmp_path / "b.zarr")

    assert any("other episodes" in remark for remark in report.remarks)
    with rs.open(tmp_path / "b.zarr") as buffer:
        assert buffer.trajectories.length.tolist() == [5, 2]
        assert buffer.trajectories.split.tolist() == ["", ""]


def test_spaces_are_those_of_minari() -> None:
    from minari.serialization import deserialize_space, serialize_space

    from replaystore.formats.minari.spaces import from_minari, to_minari

    for space in (SPACE, ACTION, spaces.Discrete(4, start=-3)):
        text = serialize_space(space)
        assert to_minari(from_minari(text, "a space")) == json.loads(text)
        assert deserialize_space(json.dumps(to_minari(from_minari(text, "a space")))) == space


@pytest.mark.filterwarnings("ignore")  # Minari wants to know who has made a dataset
@pytest.mark.parametrize("jpeg", [True, False])
def test_datasets_of_minari_are_read(tmp_path: Path, root: Path, jpeg: bool) -> None:
    """With images that are JPEG or not, compared with what Minari itself reads."""
    from minari.data_collector.episode_buffer import EpisodeBuffer

    generator = np.random.default_rng(0)
    buffers = [
        EpisodeBuffer(
            seed=number,
            observations={
                "image": generator.integers(0, 255, (steps + 1, 40, 50, 3)).astype(np.uint8),
                "said": [f"word {place}" for place in range(steps + 1)],
            },
            actions=generator.integers(0, 3, steps),
            rewards=generator.normal(size=steps),
            terminations=np.zeros(steps, bool),
            truncations=np.arange(steps) == steps - 1,
            infos={"x": {"y": generator.normal(size=(steps + 1, 2))}},
        )
        for number, steps in enumerate([4, 9])
    ]
    dataset = minari.create_dataset_from_buffers(
        "some/images-v0",
        buffers,
        observation_space=spaces.Dict(
            {"image": spaces.Box(0, 255, (40, 50, 3), np.uint8), "said": spaces.Text(9)}
        ),
        action_space=spaces.Discrete(3),
        jpeg_encoding=jpeg,
    )

    report = convert("some/images-v0", tmp_path / "a.zarr", source_format="minari")

    assert any("JPEG" in remark for remark in report.remarks) == jpeg
    with rs.open(tmp_path / "a.zarr") as buffer:
        for number, episode in enumerate(dataset.iterate_episodes()):
            read = buffer.trajectory(number)
            assert same(read.columns["observation/image"], episode.observations["image"][:-1])
            assert read.columns["observation/said"].tolist() == episode.observations["said"][:-1]
            assert same(read.columns["info/x/y"], episode.infos["x"]["y"][1:])
            assert same(read.columns["action"], episode.actions)
        assert buffer.trajectories.seed.tolist() == [0, 1]
