"""Datasets of LeRobot, as a format."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from replaystore.errors import FormatError, NotFoundError
from replaystore.formats.format import Format
from replaystore.formats.lerobot.dataset import INFO, Dataset, json_file
from replaystore.formats.lerobot.own import Own, own_plan
from replaystore.formats.lerobot.plan import plan_of
from replaystore.formats.lerobot.reading import Foreign
from replaystore.formats.lerobot.writing import fill
from replaystore.formats.options import Options
from replaystore.formats.report import Report, refuse_losses
from replaystore.formats.shared.new_folder import NewFolder
from replaystore.formats.source import Source
from replaystore.views.reader import BufferReader

__all__ = ["LeRobot"]


class LeRobot(Format):
    """Such folders, as replaystore knows them."""

    example = "dataset"
    limits = ("that trajectories were still open", "steps of no trajectory")
    folder = True
    holds = ("data", "images", "meta", "videos", "README.md", ".cache", ".gitattributes")
    ragged = True

    @contextmanager
    def read(self, path: str) -> Iterator[Source]:
        """The episodes of a dataset."""
        if not os.path.isdir(path):
            if not os.path.lexists(path):
                raise NotFoundError(f"{path} does not exist: check the path")
            raise FormatError(f"{path} is a file: give the folder of the dataset, which holds {INFO}")
        if not os.path.isfile(os.path.join(path, INFO)):
            raise FormatError(f"{path} holds no {INFO}: it is no dataset of LeRobot")
        dataset = Dataset(path)
        plan = own_plan(dataset)
        yield (Foreign(dataset) if plan is None else Own(dataset, plan)).source()

    def plan(self, buffer: BufferReader, path: str, options: Options) -> Report:
        return plan_of(buffer, options)[1]

    def write(self, buffer: BufferReader, path: str, options: Options) -> Report:
        plan, report = plan_of(buffer, options)
        refuse_losses(report.fields, report.rest, path, strict=options.strict)
        with NewFolder(path, overwrite=options.overwrite) as new:
            fill(new.root, buffer, options, plan)
        return report

    def recognizes(self, path: str) -> bool:
        place = os.path.join(path, INFO)
        if not os.path.isfile(place):
            return False
        try:
            info = json_file(place)
        except (FormatError, NotFoundError):
            return False
        return isinstance(info, dict) and {"codebase_version", "features"} <= info.keys()
