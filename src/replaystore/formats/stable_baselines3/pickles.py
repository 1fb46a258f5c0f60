"""The pickles of Stable-Baselines3: `model.save_replay_buffer("replay_buffer.pkl")`, and any other buffer of
it that was pickled. What is in them, reading.py says; nothing in them is run."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from replaystore.errors import FormatError, NotFoundError
from replaystore.formats.format import Format
from replaystore.formats.options import Options
from replaystore.formats.report import Report, refuse_losses
from replaystore.formats.shared.file_rows import opened
from replaystore.formats.shared.new_files import NewFiles
from replaystore.formats.source import Source
from replaystore.formats.stable_baselines3.contents import contents
from replaystore.formats.stable_baselines3.export import Plan
from replaystore.formats.stable_baselines3.reading import source_of
from replaystore.storage.local import read_all
from replaystore.views.reader import BufferReader

__all__ = ["StableBaselines3"]

_BEGIN = 256
_CLASS = re.compile(
    rb"\x80[\x02-\x05].{0,16}?(stable_baselines3|sb3_contrib|replaystore)\.[a-z_.0-9]+.{1,8}?[A-Za-z]*Buffer",
    re.DOTALL,
)


class StableBaselines3(Format):
    """The format, as `replaystore.formats` knows it."""

    example = "replay_buffer.sb3.pkl"
    limits = (
        "steps of no trajectory",
        "whether a trajectory was still open",
        "written are ReplayBuffer and DictReplayBuffer, read also those of hindsight, n steps and rollouts",
    )

    @contextmanager
    def read(self, path: str) -> Iterator[Source]:
        with contents(path) as found:
            yield source_of(found)

    def plan(self, buffer: BufferReader, path: str, options: Options) -> Report:
        return Plan(buffer, options, path).report()

    def write(self, buffer: BufferReader, path: str, options: Options) -> Report:
        plan = Plan(buffer, options, path)
        report = plan.report()
        refuse_losses(report.fields, report.rest, path, strict=options.strict)
        with NewFiles([path], overwrite=options.overwrite) as new:
            plan.write(new.files[0])
        return report

    def recognizes(self, path: str) -> bool:
        try:
            with opened(path) as (descriptor, _):
                return _CLASS.match(read_all(descriptor, 0, _BEGIN)) is not None
        except (FormatError, NotFoundError):
            return False
