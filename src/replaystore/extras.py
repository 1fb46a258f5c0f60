"""Packages that are not always there. What needs one asks here for it, when it is needed and not before, and
what is raised says in one line what to install.

Only a package that is not there is told so: one that is there and cannot be imported says itself why.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from replaystore.errors import MissingDependencyError

__all__ = ["install", "require"]


def install(extra: str) -> str:
    """What to run for one of our extras."""
    return f"pip install 'replaystore[{extra}]'"


def require(module: str, purpose: str, extra: str) -> Any:
    """A module, imported. MissingDependencyError: it is not installed.

    Args:
        module: its full name.
        purpose: what needs it, as the subject of a sentence.
        extra: which of our extras installs it.
    """
    package = module.split(".", maxsplit=1)[0]
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] != package:
            raise
        raise MissingDependencyError(
            f"{purpose} needs {package}, which is not installed: {install(extra)}"
        ) from None
