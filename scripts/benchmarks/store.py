"""How fast the store is, as ratios to doing the same without it, in one run: ./scripts/bench store [--quick] [--json PATH] [--only NAME].

Each line is a median over rounds in which all variants take their turns; what was read is compared with what was written. Targets are
those that the project sets itself. All files are written below one temporary folder (--folder chooses where), which is removed.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import click
import numpy as np
from rich.console import Console
from rich.table import Table
from store_measures import Context, Result
from store_measures.memory import memory
from store_measures.reading import conversion, opening, read
from store_measures.recording import append, commit, step

import replaystore

MEASURES: dict[str, Callable[[Context], list[Result]]] = {
    "append": append,
    "step": step,
    "commit": commit,
    "read": read,
    "convert": conversion,
    "open": opening,
    "memory": memory,
}


def table(results: Sequence[Result]) -> Table:
    found = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("measure", "variant", "measured", "target", "", "detail"):
        found.add_column(column, justify="right" if column in ("measured", "target") else "left", overflow="fold")
    before = ""
    for result in results:
        if before and before != result.measure:
            found.add_section()
        sign = "≤" if result.at_most else "≥"
        unit = "\N{MULTIPLICATION SIGN}" if result.unit == "x" else f" {result.unit}"
        found.add_row(
            result.measure if result.measure != before else "",
            result.variant,
            "—" if result.value is None else f"{result.value:.3g}{unit}" if result.value < 1000 else f"{result.value:.0f}{unit}",
            "" if result.target is None else f"{sign} {result.target:g}{unit}",
            {None: "", True: "[green]met[/]", False: "[bold red]missed[/]"}[result.met],
            result.detail,
        )
        before = result.measure
    return found


@click.command()
@click.option("--quick", is_flag=True, help="Less data and fewer rounds: to see that it works.")
@click.option("--json", "path", type=click.Path(dir_okay=False), help="Write the results there, too.")
@click.option("--only", type=click.Choice(list(MEASURES)), multiple=True, help="Measure only this; may be repeated.")
@click.option("--folder", type=click.Path(file_okay=False), help="Where to write; by default the system's folder for temporary files.")
@click.option("--torchrl", default=sys.executable, help="A Python interpreter that has TorchRL; by default this one.")
def main(quick: bool, path: str | None, only: tuple[str, ...], folder: str | None, torchrl: str) -> None:
    """Compare the store with plain files, NumPy and other libraries."""
    console, progress = Console(), Console(stderr=True)
    if not console.is_terminal:
        console.width = 180
    place = Path(tempfile.mkdtemp(prefix="replaystore-bench-", dir=folder))
    versions = f"replaystore {replaystore.__version__}, Python {platform.python_version()}, NumPy {np.__version__}"
    progress.print(f"{versions}, {os.cpu_count()} cores")
    results: list[Result] = []
    try:
        for name in only or MEASURES:
            mine = place / name
            mine.mkdir()
            context = Context(mine, quick, torchrl, lambda text: progress.print(f"[dim]{text}[/]"))
            results += MEASURES[name](context)
            shutil.rmtree(mine)
    finally:
        shutil.rmtree(place, ignore_errors=True)
        console.print(table(results))
        if path is not None:
            facts = {"quick": quick, "machine": platform.machine(), "cores": os.cpu_count(), "python": platform.python_version()}
            Path(path).write_text(json.dumps({**facts, "results": [result.to_json() for result in results]}, indent=2) + "\n")


if __name__ == "__main__":
    main()
