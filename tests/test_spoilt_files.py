"""A few spoilt files of each format; `./scripts/campaign foreign` has any number."""

from __future__ import annotations

import json
import random
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from tried_formats import MEMORY, READ, SAMPLES

from replaystore.testing.campaigns import foreign
from replaystore.testing.mangling import mangled
from replaystore.testing.matrix import ways


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    if SAMPLES.is_dir():
        monkeypatch.setenv("REPLAYSTORE_SAMPLES", str(SAMPLES))
    with tempfile.TemporaryDirectory(dir=MEMORY) as made:
        yield made


@pytest.mark.parametrize("name", READ)
def test_a_spoilt_file_is_one_error_or_a_sound_store(
    folder: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads, writes = ways()
    if name not in reads:
        pytest.skip(f"what {name} needs is not installed")
    if name not in writes and not SAMPLES.is_dir():
        pytest.skip("the samples of other software are not here")
    if name in writes:
        monkeypatch.delenv("REPLAYSTORE_SAMPLES", raising=False)

    tally = foreign.run(folder, count=10, seed=0, only=(name,))

    assert tally.failures == []
    assert tally.tried == 10


@pytest.mark.timeout(120)
def test_a_careless_reader_is_seen(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("REPLAYSTORE_SAMPLES", raising=False)

    tally = foreign.control(folder, seed=0)

    assert len(tally.failures) == len(foreign.CARELESS), tally


def test_files_are_spoilt_in_what_they_mean(tmp_path: Path) -> None:
    """JSON stays JSON most of the time, and a copy is changed, never what it is of."""
    whole = tmp_path / "a.json"
    whole.write_text(json.dumps({"shape": [3, 4], "dtype": "float32", "inner": {"size": 7}}))
    before, parsed, seen = whole.read_bytes(), 0, set()

    for seed in range(60):
        target = tmp_path / str(seed) / "a.json"
        mangled(str(whole), str(target), random.Random(seed))
        if not target.is_file() or target.stat().st_size > 1 << 20:
            continue
        try:
            seen.add(json.dumps(json.loads(target.read_text())))
            parsed += 1
        except (OSError, ValueError):
            continue

    assert whole.read_bytes() == before
    assert parsed > 20
    assert len(seen) > 15
