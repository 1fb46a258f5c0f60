"""Pictures: the only module that knows matplotlib, whose figures are drawn without a display and without any
global state."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from replaystore.extras import require
from replaystore.formats.shared.new_files import NewFiles
from replaystore.location import expanded

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

__all__ = [
    "COLOURS",
    "MAX_LINES",
    "check_installed",
    "colour",
    "figure",
    "histogram",
    "legend_below",
    "line_style",
    "note",
    "save",
    "whole_numbers",
]

DPI = 200
COLOURS = {"train": "#2f6db3", "val": "#e07b28", "in no trajectory": "#8c8c8c"}
"""Of splits; the others are drawn in the rest of the colours."""
OTHERS = ("#3f9b5d", "#8a63b8", "#b84a5f", "#1b9aa0", "#a0742c", "#d46ab0", "#5b6b1f", "#1f2f6b")
DASHES = ("solid", "dashed", "dotted")
MAX_LINES = 10 * len(DASHES)
"""So many lines in one picture can be told apart: ten colours, each with every kind of dashes."""


def check_installed() -> None:
    """MissingDependencyError: matplotlib is not installed, which is better known before hours of work than
    after."""
    require("matplotlib.figure", "a picture", "training")


def figure(
    width: float, height: float, rows: int = 1, columns: int = 1, **options: Any
) -> tuple[Figure, NDArray[Any]]:
    """An empty figure of this size in inches, and its axes (rows, columns). MissingDependencyError:
    matplotlib is not installed."""
    check_installed()
    from matplotlib.figure import Figure

    made = Figure(figsize=(width, height), layout="constrained")
    return made, made.subplots(rows, columns, squeeze=False, **options)


def save(made: Figure, path: str | os.PathLike[str]) -> None:
    """Write a PNG, which appears whole or not at all. StorageError; AlreadyExistsError: a folder has its
    name."""
    with NewFiles([os.fspath(expanded(path))], overwrite=True) as new:
        made.savefig(new.files[0], format="png", dpi=DPI, bbox_inches="tight")


def colour(split: str, number: int = 0) -> str:
    """The colour of a split."""
    return COLOURS.get(split, OTHERS[number % len(OTHERS)])


def line_style(number: int) -> dict[str, Any]:
    """Colour and dashes of a line, which no other of the first `MAX_LINES` has."""
    return {"color": f"C{number % 10}", "linestyle": DASHES[number // 10 % len(DASHES)]}


def histogram(
    axes: Axes, edges: NDArray[np.float64], counts: NDArray[Any], colour: Any, label: str | None = None
) -> None:
    """Draw counts between edges as an outline that is filled lightly, so that several in one picture can be
    told apart."""
    axes.stairs(counts, edges, color=colour, fill=True, alpha=0.25)
    axes.stairs(counts, edges, color=colour, linewidth=1.5, label=label)


def legend_below(axes: Axes) -> None:
    """Name what is drawn below the axes, where no name hides anything."""
    axes.legend(loc="upper left", bbox_to_anchor=(0, -0.14), frameon=False)


def note(axes: Axes, text: str) -> None:
    """Say in the middle of an empty picture why it is empty."""
    axes.set(xticks=[], yticks=[])
    axes.text(
        0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center", fontsize=12, color="#6d6d6d"
    )


def whole_numbers(axis: Axis) -> None:
    """Put no ticks between whole numbers."""
    from matplotlib.ticker import MaxNLocator

    axis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
