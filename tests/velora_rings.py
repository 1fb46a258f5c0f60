"""The ring buffer of velora as its rules have it, its two files, and the samples of them."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

from replaystore.containers.located import remove
from replaystore.location import Location

DATA = Path(__file__).parent / "data" / "velora"
EXPECTED: dict[str, Any] = json.loads((DATA / "expected.json").read_text())["samples"]
SAMPLES = sorted(name for name, facts in EXPECTED.items() if (DATA / facts["state_file"]).exists())
STORES = ["b.zarr", "b.h5"]
WIDTHS = {"states": 3, "actions": 2, "rewards": 1, "next_states": 3, "dones": 1, "hiddens": 4}


def sample(name: str) -> Path:
    return DATA / EXPECTED[name]["state_file"]


@contextmanager
def fresh() -> Iterator[Path]:
    """A folder, and places in memory, for one example."""
    try:
        with tempfile.TemporaryDirectory() as folder:
            yield Path(folder)
    finally:
        remove(Location("memory", "zarr", "ring"))
        remove(Location("memory", "zarr", "other"))


class Replay:
    """The ring of velora: what it holds and how it is saved."""

    def __init__(self, capacity: int, device: str | None = "cpu") -> None:
        self.capacity, self.position, self.size, self.device = capacity, 0, 0, device
        self.tensors = {name: np.zeros((capacity, width), "f4") for name, width in WIDTHS.items()}

    def add(self, batch: dict[str, NDArray[Any]]) -> None:
        count = len(batch["rewards"])
        for row in range(count):
            for name, values in batch.items():
                self.tensors[name][(self.position + row) % self.capacity] = values[row]
        self.position, self.size = (
            (self.position + count) % self.capacity,
            min(self.size + count, self.capacity),
        )

    def metadata(self) -> dict[str, Any]:
        dims = {
            f"{key}_dim": WIDTHS[name]
            for key, name in (("state", "states"), ("action", "actions"), ("hidden", "hiddens"))
        }
        return {
            "capacity": self.capacity,
            **dims,
            "position": self.position,
            "size": self.size,
            "device": self.device,
        }

    def save(self, folder: Path, prefix: str = "buffer_") -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        save_file(self.tensors, folder / f"{prefix}state.safetensors")
        (folder / f"{prefix}metadata.json").write_text(json.dumps(self.metadata(), indent=2))
        return folder / f"{prefix}state.safetensors"


def batch(count: int, seed: int) -> dict[str, NDArray[Any]]:
    """Unrelated transitions."""
    rng = np.random.default_rng(seed)
    made = {name: rng.normal(size=(count, width)).astype("f4") for name, width in WIDTHS.items()}
    return made | {"dones": (rng.random((count, 1)) < 0.2).astype("f4")}


def walk(count: int, seed: int, done: float = 0.05) -> dict[str, NDArray[Any]]:
    """Consecutive steps of one environment."""
    made = batch(count, seed)
    rng = np.random.default_rng(seed)
    made["dones"] = (rng.random((count, 1)) < done).astype("f4")
    made["next_states"][:-1] = np.where(made["dones"][:-1] > 0, made["next_states"][:-1], made["states"][1:])
    return made


def files(state: Path) -> tuple[bytes, bytes]:
    """Both files."""
    return state.read_bytes(), (
        state.parent / state.name.replace("state.safetensors", "metadata.json")
    ).read_bytes()
