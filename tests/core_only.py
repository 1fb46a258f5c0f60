"""Processes that find nothing of what is installed but the core's own dependencies, as after `pip install .`
in an empty environment."""

from __future__ import annotations

import importlib.metadata
import os
import re
import tomllib
from collections.abc import Iterable
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

MISSING = '''"""Lets Python find nothing of these packages."""
import sys

PACKAGES = {packages!r}


class Without:
    def __init__(self, finder):
        self._finder = finder

    def find_spec(self, name, path=None, target=None):
        return None if name.partition(".")[0] in PACKAGES else self._finder.find_spec(name, path, target)

    def __getattr__(self, name):
        return getattr(self._finder, name)


sys.meta_path[:] = map(Without, sys.meta_path)
'''


def distribution(name: str) -> str:
    """The name of a distribution, as all spellings of it are."""
    return re.sub(r"[-_.]+", "-", name).lower()


def closure(requirements: Iterable[str]) -> set[str]:
    """The distributions that requirements bring, and what those require."""
    found: set[str] = set()
    left = [Requirement(text) for text in requirements]
    while left:
        wanted = left.pop()
        name = distribution(wanted.name)
        known = [{"extra": extra} for extra in wanted.extras] or [{"extra": ""}]
        if name in found or not (wanted.marker is None or wanted.marker.evaluate({"extra": ""})):
            continue
        found.add(name)
        for needed in map(Requirement, importlib.metadata.requires(name) or []):
            if needed.marker is None or any(needed.marker.evaluate(one) for one in known):
                needed.marker = None
                left.append(needed)
    return found


def environment(folder: Path) -> dict[str, str]:
    """The environment of processes that find the core alone; what it takes lies in `folder`."""
    core = closure(PROJECT["dependencies"]) | {"replaystore"}
    packages = sorted(
        package
        for package, distributions in importlib.metadata.packages_distributions().items()
        if not core & {distribution(name) for name in distributions}
    )
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(MISSING.format(packages=set(packages)), encoding="utf-8")
    path = [str(folder), str(ROOT / "src"), *filter(None, [os.environ.get("PYTHONPATH")])]
    return os.environ | {"PYTHONPATH": os.pathsep.join(path)}
