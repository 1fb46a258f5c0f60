"""Trainings that are ended by signals or errors keep what there is."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from running import SMALL, run, script
from small_trainings import PLACES, SIGNALS, assert_kept, at_update, refused

from replaystore.compat.memory_ring import TensorRing

pytest_plugins = ["small_trainings"]

pytestmark = pytest.mark.usefixtures("_folder")


@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize("place", PLACES)
def test_a_signal_saves_what_there_is(
    number: signal.Signals, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = [signal.getsignal(known) for known in SIGNALS]
    at_update(monkeypatch, lambda: signal.raise_signal(number))

    assert run("pref_ppo", f"{SMALL} --save_model True --replay_buffer_save_path {place}") == SIGNALS[number]

    assert_kept(place, 3)
    assert torch.load(next(Path("runs").rglob("*.cleanrl_model")), weights_only=True)
    assert [signal.getsignal(known) for known in SIGNALS] == before


@pytest.mark.parametrize("place", PLACES)
def test_a_signal_in_the_middle_of_an_addition_waits(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real, calls = TensorRing.append, [0]

    def append(ring: TensorRing, rows: Any) -> None:
        calls[0] += 1
        if calls[0] == 3:
            signal.raise_signal(signal.SIGTERM)
        real(ring, rows)

    monkeypatch.setattr(TensorRing, "append", append)

    assert run("pref_ppo", f"{SMALL} --replay_buffer_save_path {place}") == 143

    assert_kept(place, 3)


@pytest.mark.parametrize("place", PLACES)
def test_a_second_signal_does_not_cut_saving_short(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    at_update(monkeypatch, lambda: signal.raise_signal(signal.SIGTERM))
    keeper = script("pref_ppo").Keeper
    real = keeper._save_buffer

    def save(self: Any) -> None:
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGHUP)
        real(self)

    monkeypatch.setattr(keeper, "_save_buffer", save)

    assert run("pref_ppo", f"{SMALL} --replay_buffer_save_path {place}") == 143

    assert_kept(place, 3)


def test_a_signal_that_is_ignored_stays_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        at_update(monkeypatch, lambda: signal.raise_signal(signal.SIGHUP), 1)
        assert run("pref_ppo", f"{SMALL} --total_timesteps 96") == 0
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("place", PLACES)
def test_logs_that_cannot_be_written_end_a_training_in_one_line(
    place: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from tensorboard.summary.writer.record_writer import RecordWriter

    at_update(
        monkeypatch, lambda: [monkeypatch.setattr(RecordWriter, name, refused) for name in ("write", "flush")]
    )

    assert run("pref_ppo", f"{SMALL} --replay_buffer_save_path {place}") == 1

    told = capsys.readouterr().err.strip().split("\n")
    assert len(told) == 1, "neither TensorBoard's thread nor the end of its writer has a word of its own"
    assert "the logs cannot be written: No space left on device; make room" in told[0]
    assert_kept(place, 3)


def test_an_error_of_training_and_one_of_saving_are_both_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    at_update(monkeypatch, refused)
    monkeypatch.setattr("replaystore.formats.shared.new_files.NewFile", refused)

    assert run("pref_ppo", f"{SMALL} --save_model True --replay_buffer_save_path kept.pkl") == 1

    told = capsys.readouterr().err.strip().split("\n")
    assert [line.partition(":")[0] for line in told[:2]] == ["not saved", "not saved"]
    assert "kept.pkl cannot be written: No space left on device" in told[0]
    assert ".cleanrl_model cannot be written" in told[1]
    assert told[2].endswith("No space left on device")
