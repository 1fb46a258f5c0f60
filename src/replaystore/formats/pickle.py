"""The pickles of active_rlhf: `ReplayBuffer.save("replay_buffer.pkl")`.

| in the file | in a buffer |
|---|---|
| obs, acts | `observation`, `action`, as they are |
| rews (capacity, 1) | `reward`, one number a step |
| dones (capacity, 1) | the extra field `dones`, because it says something else than `terminated`: that the observation of this very row was the last of the episode before |
| trajectories | the table of trajectories, in the order of the list, with `split` and the columns `on_policiness_score` and `last_updated_step`; each is what was added at once, with episodes ending inside it, so none is marked terminated or truncated |
| capacity, pos, size, … | `extensions["active_rlhf"]` of the document; see `replaystore.formats.ring` |

Rows of no trajectory stay rows of no trajectory. A trajectory of more rows than the ring has is one of which the first rows are gone. What
cannot be a trajectory here (no rows, rows of another one, rows on both sides of the position) is kept, literally, in the extension.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from replaystore.errors import FormatError
from replaystore.formats.active_rlhf import PickledBuffer, plan
from replaystore.formats.export import Request
from replaystore.formats.source import Source
from replaystore.formats.tensors import BLOCK_BYTES, FileRows, opened
from replaystore.formats.unpickling import Infos, Tensor, scan
from replaystore.formats.writing import NewFiles
from replaystore.schema import Field, Schema
from replaystore.trajectories import Parts
