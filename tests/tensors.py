"""PyTorch, for single cases of tests that need it no more than that: None where it is not installed."""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any

torch: Any = importlib.import_module("torch") if importlib.util.find_spec("torch") else None
