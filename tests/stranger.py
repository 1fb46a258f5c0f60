"""Packages of strangers, installed as pip would: modules, and a dist-info folder with entry points, on
`sys.path`."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

PLUGINS = Path(__file__).parent / "plugins"


def installed(
    folder: Path, monkeypatch: pytest.MonkeyPatch, points: dict[str, str], *, package: str = "stranger"
) -> None:
    """Install a package with the modules of `plugins` and these entry points, for one test.

    `points`: {"replaystore.formats mine": "my_module:ENTRY"}."""
    info = folder / f"{package}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    lines = []
    for key, value in points.items():
        group, name = key.split()
        lines.append(f"[{group}]\n{name} = {value}\n")
    (info / "entry_points.txt").write_text("\n".join(lines))
    monkeypatch.setattr(sys, "path", [*sys.path, str(folder), str(PLUGINS)])
