"""The scripts of this project, run in the process of the tests."""

from __future__ import annotations

import importlib
import importlib.util
import shlex
import sys
from pathlib import Path
from types import ModuleType

import pytest

SCRIPTS = Path(__file__).parents[1] / "scripts"
sys.path.append(str(SCRIPTS))
ENV_ID = "HalfCheetah-v5" if importlib.util.find_spec("mujoco") is not None else "Pendulum-v1"
SMALL = (
    f"--env_id {ENV_ID} --total-timesteps 384 --num-steps 96 --num_minibatches 2 --update_epochs 1 "
    "--fragment_length 16 --total_queries 60"
)
SMALL += " --reward_net_hidden_dims [16,16] --replay_buffer_capacity 100000 --cuda False"
"""A training of seconds."""


def script(name: str) -> ModuleType:
    return importlib.import_module(name)


def run(name: str, arguments: str) -> int:
    """Run a script in this process, as its last line does."""
    with pytest.raises(SystemExit) as stopped:
        script("commandline").run(lambda: script(name).main(shlex.split(arguments)))
    return int(str(stopped.value.code))
