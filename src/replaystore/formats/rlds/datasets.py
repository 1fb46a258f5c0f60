"""Datasets of TFDS with episodes of steps, as RLDS lays them out: a folder

    features.json · dataset_info.json · <name>-<split>.tfrecord-00000-of-00001 …

that `tfds.builder_from_directory` opens. TensorFlow is not needed, neither to read nor to write them.

| in the files                      | in a buffer                                                            |
|-----------------------------------|------------------------------------------------------------------------|
| steps/observation, action, reward | `observation` (`observation/<key>`), `action`, `reward`                |
| the last step, flagged is_last    | the observation after the last step                                    |
| is_terminal of that step          | `terminated`; where it is not set, `truncated`                         |
| other features of steps, discount | extra fields of the same names                                         |
| episode_metadata                  | columns of the table of trajectories; `seed` is the seed               |
| files of train, test, …           | splits                                                                 |
"""

from __future__ import annotations

import os
from contextlib import AbstractContextManager

from replaystore.errors import ReplayStoreError
from replaystore.formats.format import Format
from replaystore.formats.options import Options
from replaystore.formats.report import Report
from replaystore.formats.rlds.dataset import read
from replaystore.formats.rlds.features import parsed
from replaystore.formats.rlds.folder import FEATURES, content_of
from replaystore.formats.rlds.writing import plan, write
from replaystore.formats.source import Source
from replaystore.views.reader import BufferReader

__all__ = ["Rlds"]


class Rlds(Format):
    """Such datasets, as replaystore knows them."""

    example = "cartpole/1.0.0"
    limits = ("trajectories that are still open", "trajectories of more than 2 GB")
    folder = True
    holds = ("*.json", "*.tfrecord*", "*.txt")
    ragged = True

    def read(self, path: str) -> AbstractContextManager[Source]:
        """The episodes of a dataset, one after another."""
        return read(path)

    def plan(self, buffer: BufferReader, path: str, options: Options) -> Report:
        """What becomes of a buffer that is written."""
        return plan(buffer, path, options)

    def write(self, buffer: BufferReader, path: str, options: Options) -> Report:
        """All trajectories, each as an episode."""
        return write(buffer, path, options)

    def recognizes(self, path: str) -> bool:
        """Whether the folder has a features.json that describes episodes of steps."""
        file = os.path.join(path, FEATURES)
        if not os.path.isfile(file):
            return False
        try:
            parsed(content_of(file), file)
        except ReplayStoreError:
            return False
        return True
