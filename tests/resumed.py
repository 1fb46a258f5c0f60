"""The examples that go on where they were killed, in processes of their own."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

EXAMPLES = Path(__file__).parents[1] / "examples"


def example(name: str, settings: dict[str, Any]) -> ModuleType:
    """An example, with other numbers."""
    import torch

    torch.set_num_threads(1)
    spec = importlib.util.spec_from_file_location("example", EXAMPLES / name)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for setting, value in settings.items():
        setattr(module, setting, value)
    return module


def train(folder: str, settings: dict[str, Any]) -> None:
    """Run the DQN to its end."""
    example("resume_dqn.py", settings).main(Path(folder))


def take_part(folder: str, settings: dict[str, Any], who: str) -> None:
    """Run an actor or the learner to its end."""
    module = example("token_replay.py", settings)
    module.learn(Path(folder)) if who == "learner" else module.act(Path(folder), int(who))
