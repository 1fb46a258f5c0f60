"""The example that goes on where it was killed, in a process of its own."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

EXAMPLE = Path(__file__).parents[1] / "examples" / "resume_dqn.py"


def train(folder: str, settings: dict[str, Any]) -> None:
    """Run it to its end."""
    import torch

    torch.set_num_threads(1)
    spec = importlib.util.spec_from_file_location("example", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for name, value in settings.items():
        setattr(module, name, value)
    module.main(Path(folder))
