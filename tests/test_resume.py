"""Training that is killed and resumed gives the network of the training that never was; so do batches."""

from __future__ import annotations

import multiprocessing
import shutil
import time
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from resumed import take_part, train

import replaystore as rs

SETTINGS = {"STEPS": 480, "CAPACITY": 120, "EVERY": 60, "BATCH": 16}
KILLS = 3


ANSWERS = {"ROUNDS": 10, "ANSWERS": 16, "WINDOW": 64}
PARTS = ("0", "1", "learner")


def start(folder: Path, who: str | None = None) -> Any:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch", "gymnasium", "replaystore.gymnasium", "resumed"])
    if who is None:
        process = context.Process(target=train, args=(str(folder), SETTINGS))
    else:
        process = context.Process(target=take_part, args=(str(folder), ANSWERS, who))
    process.start()
    return process


def checkpoints(folder: Path) -> int:
    return len(list(folder.glob("step-*.pt")))


def ended(folder: Path) -> tuple[dict[str, Any], dict[str, Any], list[str]]:
    """The network at the end, the steps in the ring, and the names."""
    torch = pytest.importorskip("torch")
    with rs.open(folder / "steps.zarr") as buffer:
        return torch.load(folder / "network.pt"), buffer.read(slice(None)), buffer.names


def test_a_killed_training_ends_with_the_same_network(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    rng = np.random.default_rng()
    process = start(tmp_path / "whole")
    process.join()
    assert process.exitcode == 0

    folder, kills = tmp_path / "killed", 0
    while kills < KILLS:
        process, wanted = start(folder), checkpoints(folder) + int(rng.integers(2))
        while process.exitcode is None and checkpoints(folder) < wanted:
            time.sleep(0.002)
        process.join(rng.uniform(0, 0.3))
        if process.exitcode is not None:  # it has come to its end
            assert process.exitcode == 0
            if kills > 1:
                break
            shutil.rmtree(folder)  # too soon: another one
            kills = 0
            continue
        process.kill()
        process.join()
        kills += 1
    process = start(folder)
    process.join()
    assert process.exitcode == 0

    expected, steps, names = ended(tmp_path / "whole")
    found, found_steps, found_names = ended(folder)
    assert expected.keys() == found.keys()
    for name, values in expected.items():
        assert values.numpy().tobytes() == found[name].numpy().tobytes(), (name, kills)
    for name, rows in steps.items():
        np.testing.assert_array_equal(rows, found_steps[name])
    assert names == found_names


def test_a_training_that_was_killed_before_its_first_checkpoint_begins_anew(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    (tmp_path / "killed").mkdir()
    rs.create(tmp_path / "killed" / "steps.zarr", gymnasium.make("CartPole-v1"), capacity=120).abandon()
    processes = [start(tmp_path / name) for name in ("whole", "killed")]
    for process in processes:
        process.join()
        assert process.exitcode == 0
    (network, steps, names), other = (ended(tmp_path / name) for name in ("whole", "killed"))
    assert all(values.equal(other[0][name]) for name, values in network.items())
    for name, rows in steps.items():
        np.testing.assert_array_equal(rows, other[1][name])
    assert names == other[2]
    assert names[0] == "step-0"


def test_actors_and_a_learner_that_are_killed_end_with_the_same_policy_and_answers(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng()
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    unhurt = [start(whole, who) for who in PARTS]
    there, kills = {who: start(killed, who) for who in PARTS}, dict.fromkeys(PARTS, 0)
    while any(process.exitcode is None for process in there.values()):
        time.sleep(rng.uniform(0, 0.05))
        done = len(list(killed.glob("*.pt")))
        for who in PARTS:
            if kills[who] < KILLS and done > 2 * kills[who] and there[who].exitcode is None:
                there[who].kill()
                there[who].join()
                there[who], kills[who] = start(killed, who), kills[who] + 1
    for process in (*unhurt, *there.values()):
        process.join()
        assert process.exitcode == 0
    assert all(kills.values())

    saved = [sorted(folder.glob("*.pt")) for folder in (whole, killed)]
    assert [file.name for file in saved[0]] == [file.name for file in saved[1]]
    for one, other in zip(*saved, strict=True):
        assert all(values.equal(torch.load(other)[name]) for name, values in torch.load(one).items())
    for actor in (0, 1):
        with rs.open(whole / f"actor-{actor}.zarr") as one, rs.open(killed / f"actor-{actor}.zarr") as other:
            assert one.names == other.names == [f"round-{number}" for number in range(ANSWERS["ROUNDS"])]
            expected, found = one.read(slice(None)), other.read(slice(None))
            assert expected["prompt"] == found["prompt"]
            assert expected["tokens"] == found["tokens"]
            assert expected["logprob"] == found["logprob"]
            assert expected["reward"].tobytes() == found["reward"].tobytes()
            assert rs.verify(other.location).problems == []


@pytest.mark.parametrize(
    ("place", "order", "count"),
    [("memory:thousand-names", "uniform", 1000)]
    + [(place, order, 12) for place in ("a.zarr", "a.h5") for order in ("trajectory", "epoch", "weights")],
)
def test_each_of_many_named_commits_gives_its_batches_again(
    tmp_path: Path, place: str, order: str, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a thousand names every fifth is gone back to, the newest first, so that the test stays short."""
    monkeypatch.setattr("replaystore.arrays.committing.SEGMENT_BYTES", 20_000)
    location = place if place.startswith("memory:") else str(tmp_path / place)
    schema = rs.Schema(
        {
            "observation": rs.Field("float32", (2,), "observation"),
            "reward": rs.Field("float32", (), "reward"),
            "terminated": rs.Field("bool", (), "terminated"),
        }
    )

    def sampler(buffer: rs.Buffer) -> Any:
        weights = {"weights": 1.0 + np.arange(len(buffer)) % 5} if order == "weights" else {"order": order}
        return buffer.sampler(8, seed=len(buffer), **weights)

    known = list[tuple[dict[str, Any], dict[str, Any]]]()
    with rs.create(location, schema, durability="none", keep_commits=50) as buffer:
        for number in range(count):
            rows = np.arange(20 * number, 20 * number + 20)
            buffer.append(
                {
                    "observation": np.stack([rows, rows], 1).astype(np.float32),
                    "reward": rows.astype(np.float32),
                    "terminated": rows % 7 == 6,
                }
            )
            buffer.commit(f"n{number}")
            drawn = sampler(buffer)
            drawn.sample()
            known.append((drawn.state_dict(), drawn.sample()))
        for number in reversed(range(0, count, 1 + count // 250)):
            buffer.rollback(f"n{number}")
            state, expected = known[number]
            drawn = sampler(buffer)
            drawn.load_state_dict(state)
            found = drawn.sample()
            assert expected.keys() == found.keys()
            for name, values in expected.items():
                assert values.tobytes() == found[name].tobytes(), (number, name)
