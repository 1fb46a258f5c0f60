"""Which branches of the log, commit and recovery code campaigns reach.

Every process of a campaign measures itself, if an environment variable says so: those that `apart` starts,
and those that `forked` forks. They note what they reached when they end; one that is killed notes nothing.
"""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

from replaystore import errors

__all__ = ["CODE", "child_begins", "child_ends", "measured", "report", "started"]

CODE = [
    "arrays/appending.py",
    "arrays/array_store.py",
    "arrays/committing.py",
    "arrays/history.py",
    "arrays/incomplete.py",
    "arrays/reading.py",
    "arrays/records.py",
    "arrays/rollback.py",
    "arrays/state.py",
    "arrays/writing.py",
    "containers/hdf5/front.py",
    "containers/hdf5/log.py",
    "containers/hdf5/transaction.py",
    "containers/records.py",
]
SETTINGS = "REPLAYSTORE_COVERAGE"
"""The environment variable that names the file of coverage's settings."""

_running: Any = None


@contextlib.contextmanager
def measured(folder: str | None) -> Iterator[None]:
    """Processes that are started meanwhile note what they reach in this folder. None: they do not."""
    if folder is None:
        yield
        return
    root = Path(errors.__file__).parent
    settings = Path(folder, "settings")
    files = "".join(f"\n    {root / name}" for name in CODE)
    settings.write_text(
        f"[run]\nbranch = true\nparallel = true\ndata_file = {folder}/data\ninclude ={files}\n"
    )
    with patch.dict(os.environ, {SETTINGS: str(settings)}):
        yield


def started() -> None:
    """Measure this process from now on, if it is to be."""
    global _running  # noqa: PLW0603  # one for a process
    if SETTINGS in os.environ and _running is None:
        import coverage

        _running = coverage.Coverage(config_file=os.environ[SETTINGS])
        _running.start()


def child_begins() -> None:
    """In a forked child: go on under a name of its own, without what the parent had seen."""
    global _running  # noqa: PLW0603  # one for a process
    if _running is not None:
        _running.stop()
        _running = None
        started()


def child_ends() -> None:
    """Note what was reached; for a child that ends without cleaning up."""
    if _running is not None:
        _running.stop()
        _running.save()


def report(folder: str) -> str:
    """What of the code was reached, and what no campaign reaches."""
    import coverage

    found = coverage.Coverage(config_file=os.path.join(folder, "settings"))
    found.combine([folder])
    text = io.StringIO()
    share = found.report(file=text, show_missing=True)
    return (
        f"\nbranches of the log, commit and recovery code ({share:.1f} % reached; missing: what no "
        f"campaign reaches)\n{text.getvalue()}"
    )
