"""Buffers become those of Stable-Baselines3, and come back as they were."""

from __future__ import annotations

from typing import ClassVar

from replaystore.testing import FormatSuite


class TestSuite(FormatSuite):
    """What every format must do."""

    name = "sb3"
    filename = "buffer.sb3.pkl"
    keeps_fields: ClassVar[bool] = False  # what nobody knows is made up, and said to be
