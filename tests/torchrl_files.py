"""Folders as TorchRL and tensordict make them, and what becomes of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import replaystore as rs

Rows = dict[str, Any]


def steps(count: int, **more: Any) -> Rows:
    """Transitions of episodes of four steps, as TorchRL names them."""
    done = (np.arange(count) % 4 == 3)[:, None]
    observed = np.arange(4.0 * count, dtype=np.float32).reshape(count, 4)
    return {
        "observation": observed,
        "action": np.arange(count),
        "collector/traj_ids": np.arange(count) // 4,
        "done": np.zeros_like(done),
        "next/observation": observed + 4,
        "next/reward": np.ones((count, 1), np.float32),
        "next/done": done,
        "next/terminated": done,
        "next/truncated": np.zeros_like(done),
        **more,
    }


def memmaps(root: Path, rows: Rows, batch: list[int] | None = None) -> Path:
    """A tensordict of memmaps."""
    count = len(next(iter(rows.values())))
    about = {
        "shape": [count] if batch is None else batch,
        "device": "cpu",
        "_type": "<class 'tensordict._td.TensorDict'>",
    }
    folders: dict[str, Any] = {}
    for name, values in rows.items():
        if values is None:
            continue
        folder, _, key = name.rpartition("/")
        (root / folder).mkdir(parents=True, exist_ok=True)
        (root / folder / f"{key}.memmap").write_bytes(np.ascontiguousarray(values).tobytes())
        said = {"shape": list(values.shape), "dtype": f"torch.{values.dtype.name}", "device": "cpu"}
        folders.setdefault(folder, {})[key] = {**said, "is_nested": False}
        if folder:
            folders.setdefault("", {})[folder] = {"type": "TensorDict"}
    for folder, inside in folders.items():
        (root / folder / "meta.json").write_text(json.dumps({**inside, **about}))
    return root


def checkpoint(
    root: Path,
    rows: Rows,
    *,
    length: int | None = None,
    cursor: int | None = 0,
    batch: list[int] | None = None,
) -> Path:
    """What `ReplayBuffer.dumps` makes."""
    memmaps(root / "storage", rows, batch)
    count = len(next(iter(rows.values()))) if length is None else length
    state = {"metadata": {}, "is_pytree": False, "len": count}
    (root / "storage" / "storage_metadata.json").write_text(json.dumps(state))
    (root / "writer").mkdir()
    (root / "writer" / "metadata.json").write_text(json.dumps({"cursor": cursor, "write_count": count}))
    return root


def changed(path: Path, change: Callable[[Any], Any]) -> None:
    """Change a file of JSON."""
    content = json.loads(path.read_text())
    path.write_text(json.dumps(change(content) or content))


def converted(path: Path, tmp_path: Path) -> rs.Report:
    report = rs.convert(path, tmp_path / "out.zarr", source_format="torchrl", overwrite=True)
    assert rs.verify(tmp_path / "out.zarr").problems == []
    return report
