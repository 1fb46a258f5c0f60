"""Tables of steps in files of Parquet and of Arrow: what replaystore writes, and what others do."""

from __future__ import annotations

from replaystore.testing.formats import FormatSuite


class TestParquet(FormatSuite):
    name = "parquet"
    filename = "steps.parquet"
    memory = 24.0


class TestArrow(FormatSuite):
    name = "arrow"
    filename = "steps.arrow"
    memory = 24.0
