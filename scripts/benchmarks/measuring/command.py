"""Running the measures of a benchmark, and showing what they found."""

from __future__ import annotations

import json
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import click
import numpy as np
from rich.console import Console
from rich.table import Table

import replaystore
from measuring import Context, Result

__all__ = ["PICTURE", "Measure", "options", "run", "table"]

Measure = Callable[[Context], list[Result]]


def options(measures: Mapping[str, Measure]) -> Callable[[Any], Any]:
    """The options that a benchmark has: quick, path, only (of these measures) and folder, for `run`."""
    known = [
        click.option("--quick", is_flag=True, help="Less data and fewer rounds: to see that it works."),
        click.option("--json", "path", type=click.Path(dir_okay=False), help="Write the results there, too."),
        click.option(
            "--only",
            type=click.Choice(list(measures)),
            multiple=True,
            help="Measure only this; may be repeated.",
        ),
        click.option(
            "--folder",
            type=click.Path(file_okay=False),
            help="Where to write; by default the system's folder for temporary files.",
        ),
    ]

    def decorate(command: Any) -> Any:
        for option in reversed(known):
            command = option(command)
        return command

    return decorate


PICTURE = click.option(
    "--picture", type=click.Path(dir_okay=False), help="Draw the times there, as PNG; needs matplotlib."
)


def run(
    measures: Mapping[str, Measure],
    *,
    quick: bool,
    path: str | None,
    folder: str | None,
    torchrl: str = sys.executable,
    libraries: Sequence[str] = (),
) -> list[Result]:
    """Take these measures, and print a table of what they found, even if one fails.

    `path`: a file for the results as JSON. `folder`: where to write, in a temporary folder there that is
    removed; None: where the system keeps temporary files. `libraries`: what it is compared with, to tell the
    versions.
    """
    console, progress = Console(), Console(stderr=True)
    if not console.is_terminal:
        console.width = 180
    facts = _facts(libraries)
    versions = ", ".join(
        f"{name} {number}" for name, number in facts["versions"].items() if number is not None
    )
    progress.print(f"{versions}; {facts['cores']} cores, load {facts['load']}")
    place = Path(tempfile.mkdtemp(prefix="replaystore-bench-", dir=folder))
    shared = place / "shared"
    shared.mkdir()
    results: list[Result] = []
    try:
        for name, measure in measures.items():
            mine = place / name
            mine.mkdir()
            results += measure(
                Context(mine, shared, quick, lambda text: progress.print(f"[dim]{text}[/]"), torchrl)
            )
            shutil.rmtree(mine)
    finally:
        shutil.rmtree(place, ignore_errors=True)
        console.print(table(results))
        if path is not None:
            found = {
                "quick": quick,
                **facts,
                "load_after": _load(),
                "results": [result.to_json() for result in results],
            }
            Path(path).write_text(json.dumps(found, indent=2) + "\n")
    return results


def _facts(libraries: Sequence[str]) -> dict[str, Any]:
    """What the numbers depend on."""
    versions: dict[str, str | None] = {
        "replaystore": replaystore.__version__,
        "Python": platform.python_version(),
        "NumPy": np.__version__,
    }
    for name in libraries:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = None
    return {"machine": platform.machine(), "cores": os.cpu_count(), "load": _load(), "versions": versions}


def _load() -> float:
    """How many processes wanted a core in the last minute."""
    return round(os.getloadavg()[0], 2)


def table(results: Sequence[Result]) -> Table:
    found = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("measure", "variant", "measured", "target", "", "detail"):
        found.add_column(
            column, justify="right" if column in ("measured", "target") else "left", overflow="fold"
        )
    before = ""
    for result in results:
        if before and before != result.measure:
            found.add_section()
        sign = "≤" if result.at_most else "≥"
        unit = "\N{MULTIPLICATION SIGN}" if result.unit == "x" else f" {result.unit}"
        found.add_row(
            result.measure if result.measure != before else "",
            result.variant,
            "—"
            if result.value is None
            else f"{result.value:.3g}{unit}"
            if result.value < 1000
            else f"{result.value:.0f}{unit}",
            "" if result.target is None else f"{sign} {result.target:g}{unit}",
            {None: "", True: "[green]met[/]", False: "[bold red]missed[/]"}[result.met],
            result.detail,
        )
        before = result.measure
    return found
