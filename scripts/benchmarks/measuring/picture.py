"""Times as a picture: a panel for each workload, a bar for each way, on one logarithmic scale."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter
from PIL import Image

from measuring import Result

__all__ = ["draw"]

MEMORY = "NumPy"
"""What the name of the variant that is compared with begins with."""
OURS, MEMORY_COLOR, OTHERS = "#1f6fb4", "#4d4d4d", "#c4c4c4"
COLORS = 48
"""Few, so that the picture is small."""
INCHES = 0.24
"""The height of a bar."""
AROUND = 0.5
"""The height of what is around the bars of a panel."""
MARGIN = 0.65
"""Between the middle of the first bar and the top of its panel, in bars."""


def draw(results: Sequence[Result], titles: Mapping[str, str], path: str, unit: str) -> None:
    """Write a PNG of what was measured of the workloads that are shown; nothing else is drawn.

    `titles`: of the measures that are shown. `unit`: what the time is of, such as "one batch"."""
    panels = {name: _bars(results, name) for name in titles}
    panels = {name: bars for name, bars in panels.items() if bars}
    if not panels:
        raise SystemExit("bench: nothing was measured that the picture shows; leave out --only")
    mpl.rcParams.update({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False})
    heights = [len(bars) - 1 + 2 * MARGIN for bars in panels.values()]
    figure = Figure(figsize=(9, sum(heights) * INCHES + len(panels) * AROUND + 0.4), layout="constrained")
    axes = figure.subplots(len(panels), 1, sharex=True, height_ratios=heights, squeeze=False)[:, 0]
    everything = [bar.seconds for bars in panels.values() for bar in bars if bar.seconds is not None]
    for axis, (name, bars) in zip(axes, panels.items(), strict=True):
        _panel(axis, titles[name], bars)
        axis.set_xlim(min(everything) / 2, max(everything) * 3.5)
    axes[-1].set_xlabel(f"time of {unit} (logarithmic; shorter is better)")
    drawn = io.BytesIO()
    figure.savefig(drawn, dpi=120, metadata={"Software": None})
    Image.open(drawn).convert("RGB").quantize(COLORS).save(path, format="PNG", optimize=True)


def _bars(results: Sequence[Result], measure: str) -> list[Result]:
    """The times of a workload, the shortest first."""
    found = [result for result in results if result.measure == measure and result.seconds is not None]
    return sorted(found, key=lambda result: result.seconds or 0.0)


def _panel(axis: Axes, title: str, bars: Sequence[Result]) -> None:
    seconds = [bar.seconds or 0.0 for bar in bars]
    colors = [_color(bar.variant) for bar in bars]
    places = range(len(bars))
    axis.barh(places, seconds, color=colors, height=0.72)
    axis.set_yticks(places, [bar.variant for bar in bars])
    for label, bar in zip(axis.get_yticklabels(), bars, strict=True):
        label.set_fontweight("bold" if bar.variant.startswith("replaystore") else "normal")
    for place, value in zip(places, seconds, strict=True):
        axis.annotate(
            _time(value), (value, place), xytext=(4, 0), textcoords="offset points", va="center", fontsize=8
        )
    axis.set_ylim(len(bars) - 1 + MARGIN, -MARGIN)
    axis.set_xscale("log")
    axis.xaxis.set_major_formatter(FuncFormatter(_tick))
    axis.xaxis.set_minor_formatter(NullFormatter())
    axis.tick_params(axis="y", length=0)
    axis.grid(axis="x", color="#e6e6e6", linewidth=0.8)
    axis.set_axisbelow(True)
    axis.set_title(title, loc="left", fontsize=10, fontweight="bold")


def _color(variant: str) -> str:
    if variant.startswith("replaystore"):
        return OURS
    return MEMORY_COLOR if variant.startswith(MEMORY) else OTHERS


def _tick(seconds: float, _position: int) -> str:
    return _time(seconds).replace(".0 ", " ")


def _time(seconds: float) -> str:
    """Two digits, and a unit that suits them."""
    unit, size = (
        ("\N{MICRO SIGN}s", 1e-6) if seconds < 999.5e-6 else ("ms", 1e-3) if seconds < 0.9995 else ("s", 1.0)
    )
    value = seconds / size
    return f"{value:.0f} {unit}" if value >= 9.95 else f"{value:.1f} {unit}"
