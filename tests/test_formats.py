"""The suite of formats, run on those of this package, on one of a stranger, and on the one that the README
shows."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import pytest
from stranger import installed

from replaystore.testing import FormatSuite
from replaystore.testing.formats import NESTED, PLAIN, RAGGED

EXAMPLES = Path(__file__).parents[1] / "examples"


class TestToy(FormatSuite):
    """A stranger's, that holds everything."""

    name, filename = "toy", "buffer.toy"

    @pytest.fixture(autouse=True)
    def _installed(self, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
        points = {"replaystore.formats toy": "toy_format:ENTRY"}
        installed(tmp_path_factory.mktemp("site"), monkeypatch, points)


class TestMyFormat(FormatSuite):
    """The example of the README."""

    name, filename = "flat", "data.hdf5"
    schemas, keeps, keeps_fields = {"plain": PLAIN}, {"trajectories"}, False

    @pytest.fixture(autouse=True)
    def _installed(self, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.syspath_prepend(str(EXAMPLES))
        points = {"replaystore.formats flat": "my_format:ENTRY"}
        installed(tmp_path_factory.mktemp("site"), monkeypatch, points)


class TestActiveRlhf(FormatSuite):
    """A ring, in which episodes' last observations are rows."""

    name, filename = "active_rlhf", "replay_buffer.pkl"
    schemas: ClassVar = {"plain": PLAIN, "nested": NESTED, "ragged": RAGGED}
    keeps, keeps_fields = {"split"}, False


class TestVelora(FormatSuite):
    """A ring of transitions."""

    name, filename = "velora", "buffer_state.safetensors"
    schemas: ClassVar = {"plain": PLAIN, "nested": NESTED, "ragged": RAGGED}
    keeps, keeps_fields = (), False
