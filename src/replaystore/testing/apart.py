"""A campaign's function in a process of its own, whose Tally comes back: what dies or hangs there is told,
and takes nobody with it."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from replaystore.testing.campaigns import Tally, reached

__all__ = ["apart"]


def apart(
    module: str,
    function: str,
    arguments: tuple[Any, ...],
    options: Mapping[str, Any],
    *,
    environment: Mapping[str, str] | None = None,
    timeout: float | None = None,
) -> Tally:
    """The Tally of a function (of a module, by their names) in another process; arguments must be JSON.
    RuntimeError: it died, or hung."""
    roots = os.pathsep.join(path for path in sys.path if path)
    settings = {**os.environ, "PYTHONPATH": roots, **(environment or {})}
    call = json.dumps([module, function, arguments, dict(options)])
    with tempfile.TemporaryFile("w+") as answer:
        command = [sys.executable, "-m", "replaystore.testing.apart", call, str(answer.fileno())]
        try:
            done = subprocess.run(  # noqa: S603  # ourselves
                command,
                env=settings,
                pass_fds=[answer.fileno()],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
                check=False,
                timeout=timeout,
            )
        except subprocess.TimeoutExpired:
            raise RuntimeError(f"{module}.{function} was not done after {timeout:.0f} s") from None
        answer.seek(0)
        text = answer.read()
    if not text:
        raise RuntimeError(f"{module}.{function} ended with {done.returncode}: {done.stderr[-2000:].strip()}")
    return Tally(**json.loads(text))


def _main() -> None:
    module, function, arguments, options = json.loads(sys.argv[1])
    reached.started()
    tally: Tally = getattr(importlib.import_module(module), function)(*arguments, **options)
    reached.child_ends()
    with os.fdopen(int(sys.argv[2]), "w") as answer:
        json.dump(asdict(tally), answer)


if __name__ == "__main__":
    _main()
