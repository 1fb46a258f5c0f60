"""What trainings have kept is not replaced by others, and not taken for whole when it is damaged."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from running import ENV_ID, SMALL, run, script
from small_trainings import PLACES, assert_kept, at_update, content, small_buffer

import replaystore as rs
from replaystore.compat.active_rlhf import ReplayBuffer

pytest_plugins = ["small_trainings"]

pytestmark = pytest.mark.usefixtures("_folder")


# --- started again


@pytest.mark.parametrize("place", PLACES)
def test_what_an_earlier_run_has_saved_is_refused(place: str, capsys: pytest.CaptureFixture[str]) -> None:
    small_buffer().save(place)
    before = content(place)

    assert run("pref_ppo", f"{SMALL} --replay_buffer_save_path {place}") == 1

    told = capsys.readouterr().err
    assert f"{place} is there already" in told
    assert "name another --replay_buffer_save_path, or move it away first" in told
    assert ("with 200 rows of an earlier run" in told) == (not place.endswith(".pkl"))
    assert content(place) == before
    assert not list(Path("runs").glob(f"{ENV_ID}*")), "and no logs of it are begun"


@pytest.mark.parametrize("place", ["a.zarr", "b.h5"])
def test_what_is_no_store_is_not_replaced_by_one(place: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path(place).write_text("of somebody else")

    assert run("pref_ppo", f"{SMALL} --replay_buffer_save_path {place}") == 1

    assert "is there already, and cannot be opened" in capsys.readouterr().err
    assert Path(place).read_text() == "of somebody else"


@pytest.mark.parametrize("place", PLACES)
def test_a_run_that_ended_before_its_first_step_is_in_nobodys_way(
    place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(script("ppo").Collector, "collect", lambda *_: signal.raise_signal(signal.SIGTERM))
        assert run("pref_ppo", f"{SMALL} --replay_buffer_save_path {place}") == 143

    assert run("pref_ppo", f"{SMALL} --total_timesteps 96 --replay_buffer_save_path {place}") == 0

    assert_kept(place, 2)


@pytest.mark.parametrize("place", PLACES)
def test_two_trainings_do_not_save_to_one_place(
    place: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = f"{SMALL} --total_timesteps 96 --replay_buffer_save_path {place}"
    codes: list[int] = []
    at_update(monkeypatch, lambda: codes.append(run("pref_ppo", arguments)), 1)

    assert run("pref_ppo", arguments) == 0

    assert codes == [1]
    assert f"another training saves its replay buffer to {place}" in capsys.readouterr().err
    assert_kept(place, 2)
    assert not list(Path().rglob("*.training"))


def test_a_pickle_that_came_meanwhile_stays(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    at_update(monkeypatch, lambda: Path("kept.pkl").write_text("of somebody else"), 1)

    assert run("pref_ppo", f"{SMALL} --total_timesteps 96 --replay_buffer_save_path kept.pkl") == 0

    assert Path("kept.pkl").read_text() == "of somebody else"
    assert "replay buffer: kept-1.pkl" in capsys.readouterr().out
    assert_kept("kept-1.pkl", 2)


def test_runs_of_one_second_have_folders_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.time", lambda: 1_800_000_000.5)
    for _ in range(2):
        assert run("pref_ppo", f"{SMALL} --total_timesteps 96") == 0

    assert len(list(Path("runs").glob("*/replay_buffer.pkl"))) == 2


# --- damage


def flipped(path: str) -> None:
    """Flip a bit of an observation, wherever it is stored."""
    row = small_buffer().obs[60].numpy().tobytes()
    found = 0
    for name in content(path):
        data = bytearray(Path(name).read_bytes())
        at = data.find(row)
        if at >= 0:
            data[at + 5] ^= 1
            Path(name).write_bytes(data)
            found += 1
    assert found, "the row is stored as it is"


def damaged(kind: str) -> str:
    """A replay buffer that is not as it was written."""
    buffer = small_buffer()
    path = f"b.{kind.split(maxsplit=1)[0]}"
    if kind.endswith("places"):
        buffer.trajectories[1].start_pos = 25
    if kind == "zip":
        buffer.save("whole.zarr")
        rs.convert("whole.zarr", path)
    else:
        buffer.save(path)
    if not kind.endswith("places"):
        flipped(path)
    return path


@pytest.mark.parametrize("kind", ["zarr", "h5", "zip", "pkl places"])
def test_what_is_damaged_is_not_taken_for_whole(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    path = damaged(kind)

    for name in ("analyze_replay_buffer", "train_vae_on_replay_buffer"):
        assert run(name, f"--replay_buffer_path {path}") == 1
        assert f"{path} is damaged: " in capsys.readouterr().err
    assert run("test_replay_buffer_loading", f"--replay_buffer_path {path}") == 1

    output = capsys.readouterr().out
    assert f"FAILED  verify: {path} is damaged: " in output
    assert "all checks hold" not in output
    assert not [
        found for found in Path().iterdir() if found.name in ("analysis", "vae_training", "trained_vae.pth")
    ]


@pytest.mark.parametrize("kind", ["zarr", "h5", "zip", "pkl"])
def test_what_is_whole_is_said_to_be(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    small_buffer().save("whole.zarr")
    path = f"b.{kind}"
    if kind == "zip":
        rs.convert("whole.zarr", path)
    else:
        small_buffer().save(path)

    assert run("test_replay_buffer_loading", f"--replay_buffer_path {path}") == 0

    found = "the file has no checksums" if kind == "pkl" else "bytes are as they were written"
    assert f"{found}; 200 rows of 4 trajectories, 0 rows of none" in capsys.readouterr().out


def test_an_index_that_is_not_there_names_the_option(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    small_buffer().save("b.pkl")

    def sample2(self: ReplayBuffer, *_: Any) -> Any:
        return np.zeros(3)[self.size]

    monkeypatch.setattr(ReplayBuffer, "sample2", sample2)

    assert run("test_replay_buffer_loading", "--replay_buffer_path b.pkl") == 1

    assert "a row that is not there; pass a --fragment_length below 8" in capsys.readouterr().out


def test_how_many_were_never_scored_is_said(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("replaystore.analysis.figures.DPI", 30)
    buffer = small_buffer()
    buffer.trajectories[2].on_policiness_score = -5.0
    buffer.save("b.zarr")

    assert run("analyze_replay_buffer", "--replay_buffer_path b.zarr") == 0

    assert (
        "3 of 4 trajectories were never scored: the statistics take their scores for 0"
        in capsys.readouterr().out
    )
