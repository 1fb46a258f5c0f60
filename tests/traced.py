"""Run a program as its users do, and keep what it computed: `python traced.py RESULT PROGRAM [ARGUMENTS…]`.

RESULT is a file of torch with the numbers of all networks, optimizers, agents, batches and buffers that the
program's global names lead to when it ends, where the generators of random numbers are then, what it wrote to
TensorBoard, but for speeds, and of which modules the classes of its buffers are. Two runs of one program on
one machine give the same, bit for bit: whatever it does not seed is seeded here.
"""

from __future__ import annotations

import importlib
import itertools
import random
import runpy
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

TIMES = ("charts/SPS",)
FRAGMENTS = ("obs", "acts", "rews", "dones")
COLUMNS = (*FRAGMENTS, "states", "actions", "rewards", "next_states", "hiddens", "prefs")
COLUMNS += tuple(f"{side}_{name}" for side in ("first", "second") for name in FRAGMENTS)
NUMBERS = (
    "capacity",
    "fragment_length",
    "size",
    "pos",
    "position",
    "global_step",
    "state_dim",
    "action_dim",
    "hidden_dim",
    "device",
)


def plain(value: Any) -> Any:
    """What can be compared of a value, as tensors, numbers, texts, lists and dicts of them; None if there is
    nothing."""
    if hasattr(value, "materialize"):
        value = value.materialize()
    if isinstance(value, torch.Tensor):
        return value.detach().cpu().clone()
    if isinstance(value, np.ndarray | np.generic):
        return torch.from_numpy(np.array(value)) if np.asarray(value).dtype.kind in "biuf" else str(value)
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, torch.device):
        return str(value)
    return value if isinstance(value, bool | int | float | str) else None


def is_buffer(value: Any) -> bool:
    return hasattr(value, "capacity") and hasattr(value, "size") and not isinstance(value, type)


def is_agent(value: Any) -> bool:
    """Whether it is an agent of velora."""
    return is_buffer(getattr(value, "buffer", None)) and hasattr(value, "state_dict")


def of_buffer(buffer: Any) -> dict[str, Any]:
    """The state of a buffer of either project, the original or ours."""
    state = {name: plain(getattr(buffer, name)) for name in (*COLUMNS, *NUMBERS) if hasattr(buffer, name)}
    return state | {"trajectories": [dict(vars(known)) for known in getattr(buffer, "trajectories", [])]}


def of(value: Any) -> Any:
    """What is kept of a global name; None: nothing."""
    if isinstance(value, type):
        return None
    if is_buffer(value):
        return of_buffer(value)
    if is_agent(value):
        return {"state": plain(value.state_dict()), "buffer": of_buffer(value.buffer)}
    if isinstance(value, torch.nn.Module | torch.optim.Optimizer):
        return plain(value.state_dict())
    if isinstance(value, torch.Tensor | np.ndarray | bool | int | float):
        return plain(value)
    members = getattr(value, "__dict__", {}).items()  # of a batch, or of what trains a network
    return {
        name: of(item) for name, item in members if isinstance(item, torch.Tensor | torch.optim.Optimizer)
    } or None


def module_of(value: Any) -> str | None:
    """Where the class of a buffer, or of an agent's, comes from; None: it is something else."""
    buffer = value.buffer if is_agent(value) else value
    return type(buffer).__module__ if is_buffer(buffer) else None


def generators() -> dict[str, Any]:
    """Where the generators of random numbers are: whoever has drawn more or less than another has them
    elsewhere."""
    _, keys, place, *_ = np.random.get_state()
    return {
        "torch": torch.get_rng_state(),
        "numpy": plain(keys),
        "numpy's place": place,
        "random": str(random.getstate()),
    }


def seed_everything() -> None:
    """Seed what a program may not seed itself: generators, and environments in the order in which theirs are
    made."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    seeding: Any = importlib.import_module("gymnasium.utils.seeding")
    make, numbers = seeding.np_random, itertools.count()
    seeding.np_random = lambda seed=None: make(next(numbers) if seed is None else seed)


def keep_scalars(written: list[Any]) -> None:
    """Let what is written to TensorBoard be kept, beside being written."""
    try:
        writer: Any = importlib.import_module("torch.utils.tensorboard").SummaryWriter
    except ImportError:  # then no program writes to it
        return
    add = writer.add_scalar

    def add_scalar(self: Any, tag: str, value: Any, step: Any = None, *others: Any, **options: Any) -> None:
        if tag not in TIMES:
            written.append([tag, plain(value), plain(step)])
        add(self, tag, value, step, *others, **options)

    writer.add_scalar = add_scalar


def main(result: str, program: str, *arguments: str) -> None:
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(mode=True)
    written: list[Any] = []
    keep_scalars(written)
    seed_everything()
    sys.argv = [program, *arguments]
    sys.path.insert(0, str(Path(program).parent))
    names = {
        name: value
        for name, value in runpy.run_path(program, run_name="__main__").items()
        if not name.startswith("_")
    }
    found = {name: of(value) for name, value in names.items() if "time" not in name}
    modules = {name: module for name, value in names.items() if (module := module_of(value)) is not None}
    kept = {
        "names": {name: value for name, value in found.items() if value is not None},
        "generators": generators(),
    }
    torch.save({"kept": kept | {"written": written}, "modules": modules}, result)


if __name__ == "__main__":
    main(*sys.argv[1:])
