"""How commands print: aligned text for people, strict JSON for programs, progress for who waits.

Text from a store (names, metadata) may come from anybody, so what a terminal would take for a command is
printed as an escape.
"""

from __future__ import annotations

import json
import math
import sys
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import click

__all__ = [
    "PROGRAM",
    "Progress",
    "as_json",
    "commit_option",
    "count",
    "json_option",
    "number",
    "one_line",
    "pairs",
    "print_json",
    "printable",
    "progress_bar",
    "size",
    "split_names",
    "table",
]

PROGRAM = "replaystore"

Progress = Callable[[int, int], None]
"""Called with (what is done, all there is to do)."""


def _commit(_: click.Context, __: click.Parameter, given: str | None) -> int | str | None:
    """A commit by its number or its name."""
    return int(given) if given is not None and given.isdecimal() else given


commit_option = click.option(
    "--commit",
    callback=_commit,
    metavar="N|NAME",
    help="As of this commit, by its number or its name.  [default: the newest]",
)
json_option = click.option("--json", "json_", is_flag=True, help="Print the facts as JSON.")


# --- text


def printable(value: object) -> str:
    """Text in which every character is printed as such."""
    text = str(value)
    return (
        text
        if text.isprintable()
        else "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    )


def one_line(text: str) -> str:
    """A message in one printable line."""
    return printable(" ".join(text.split()))


def count(value: int) -> str:
    """1234567 → 1,234,567."""
    return f"{value:,}"


def size(value: float) -> str:
    """A number of bytes, in units of powers of 1000."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(value) < 999.5:
            return f"{value:.0f} {unit}" if unit == "B" or abs(value) >= 99.95 else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:,.1f} TB"


def number(value: float) -> str:
    """A number with as many digits as one reads."""
    return f"{value:.6g}"


def table(headers: Sequence[str], rows: Sequence[Sequence[object]], *, left: Sequence[int] = (0,)) -> str:
    """Aligned columns: to the left those numbered in `left`, the others to the right."""
    grid = [list(headers), *([printable(cell) for cell in row] for row in rows)]
    widths = [max(map(_width, column)) for column in zip(*grid, strict=True)]
    lines = []
    for line in grid:
        filled = ((cell, " " * (width - _width(cell))) for cell, width in zip(line, widths, strict=True))
        cells = (cell + fill if at in left else fill + cell for at, (cell, fill) in enumerate(filled))
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def _width(text: str) -> int:
    """The columns of a terminal that a text takes."""
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.category(c) in ("Mn", "Me") else 2 if unicodedata.east_asian_width(c) in "WF" else 1
        for c in text
    )


def pairs(facts: Mapping[str, object]) -> str:
    """One fact a line, the names aligned; facts that are None are left out."""
    known = {name: value for name, value in facts.items() if value is not None}
    width = max(map(_width, known), default=0)
    lines = (f"{name}{' ' * (width - _width(name))}  {printable(value)}" for name, value in known.items())
    return "\n".join(line.rstrip() for line in lines)


# --- JSON


def as_json(value: Any) -> Any:
    """Plain values for strict JSON, which has no NaN or infinity: they become the strings "NaN", "Infinity"
    and "-Infinity"."""
    if hasattr(value, "tolist"):  # NumPy's arrays and scalars
        value = value.tolist()
    if isinstance(value, complex):
        return [as_json(value.real), as_json(value.imag)]
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, Mapping):
        return {str(key): as_json(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [as_json(item) for item in value]
    return value


def print_json(facts: Mapping[str, Any]) -> None:
    click.echo(json.dumps(as_json(facts), indent=2, allow_nan=False))


# --- progress


def _ignored(done: int, total: int) -> None:
    pass


@contextmanager
def progress_bar(label: str, *, unit: Callable[[int], str] = count) -> Iterator[Progress]:
    """A bar on stderr while the block runs, if that is a terminal; what it gives is called with (done,
    all)."""
    if not sys.stderr.isatty():
        yield _ignored
        return
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[state]}"),
        TimeRemainingColumn(),
    )
    with Bars(*columns, console=Console(stderr=True), transient=True) as bars:
        task = bars.add_task(label, total=None, state="")

        def update(done: int, total: int) -> None:
            bars.update(task, completed=done, total=total, state=f"{unit(done)} of {unit(total)}")

        yield update


# --- arguments


def split_names(given: Sequence[str]) -> list[str] | None:
    """The names of a repeatable option that takes several, separated by commas; None if it was not given."""
    names = [name.strip() for value in given for name in value.split(",")]
    return [name for name in names if name] if given else None
