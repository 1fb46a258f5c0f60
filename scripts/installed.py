"""Imported first by a script that needs PyTorch: where that is not installed, it ends with one line that says
what to install, before anything else is imported."""

from __future__ import annotations

import sys
from pathlib import Path

from replaystore.errors import MissingDependencyError
from replaystore.extras import require

try:
    require("torch", Path(sys.argv[0]).name, "training")
except MissingDependencyError as error:
    raise SystemExit(str(error)) from None
