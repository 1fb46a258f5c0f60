"""Five pictures of a replay buffer of trajectories: lengths, scores, splits, rewards, observations.

Rewards and observations of all rows are summed up block by block, so the buffer may be larger than memory;
quantiles are of rows drawn at random.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from replaystore.analysis.figures import colour, figure, histogram, legend_below, note, save, whole_numbers
from replaystore.analysis.fragments import (
    TrajectoryBuffer,
    TrajectoryLike,
    Unowned,
    blocks,
    random_rows,
    statistics,
    unowned,
)
from replaystore.views.statistics import Statistics

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["by_split", "draw_all"]

BINS = 60
SAMPLE = 20_000
"""Rows drawn at random for quantiles."""
MAX_LETTERS = 56
"""So many letters fit below an axis side by side."""
MAX_BOXES = 40
"""Observations of more dimensions are drawn as lines and not as boxes."""
MAX_POINTS = 20_000
UNSCORED = 0.0
"""The score of a trajectory that nobody has scored; a sum of log-probabilities is never exactly that."""
QUANTILES = (1, 25, 50, 75, 99)

Splits = dict[str, list[TrajectoryLike]]


def by_split(buffer: TrajectoryBuffer) -> Splits:
    """Trajectories by split, "train" and "val" first."""
    found: Splits = {}
    for info in buffer.trajectories:
        found.setdefault(info.split, []).append(info)
    first = [name for name in ("train", "val") if name in found]
    return {name: found[name] for name in [*first, *sorted(found.keys() - set(first))]}


def draw_all(buffer: TrajectoryBuffer, folder: str | os.PathLike[str], title: str) -> list[Path]:
    """Draw all pictures into a folder, which is made; their paths. `title` says which buffer it is."""
    place = Path(folder)
    place.mkdir(parents=True, exist_ok=True)
    splits = by_split(buffer)
    pictures = {
        "trajectory_lengths": _lengths,
        "on_policiness_scores": _scores,
        "split_distribution": _distribution,
        "reward_distribution": _rewards,
        "observation_dimensions": _observations,
    }
    written = []
    for name, draw in pictures.items():
        made = draw(buffer, splits)
        made.suptitle(title, fontsize=11, color="#444444")
        written.append(place / f"{name}.png")
        save(made, written[-1])
    return written


def _with_unowned(buffer: TrajectoryBuffer, splits: Splits) -> Splits:
    """Splits, and the rows of no trajectory as one more, so that no row in use is left out."""
    rest: list[TrajectoryLike] = [*unowned(buffer)]
    return {**splits, rest[0].split: rest} if rest else splits


def _label(split: str) -> str:
    return split or "(no split)"


def _compare(
    axes: Axes, values: dict[str, NDArray[Any]], xlabel: str, ylabel: str, title: str, *, whole: bool = False
) -> None:
    """Histograms of one value per split, over common bins; whole numbers get whole bins."""
    axes.set(xlabel=xlabel, ylabel=ylabel, title=title)
    everything = np.concatenate([*values.values(), np.zeros(0)])
    everything = everything[np.isfinite(everything)]
    if not len(everything):
        note(axes, "none")
        return
    low, high = float(everything.min()), float(everything.max())
    if whole:
        edges = (
            np.arange(low, high + 2) - 0.5
            if high - low < BINS
            else np.linspace(low - 0.5, high + 0.5, BINS + 1)
        )
    else:
        edges = np.linspace(low, high, BINS // 2 + 1) if high > low else np.array([low - 0.5, low + 0.5])
    for number, (split, found) in enumerate(values.items()):
        histogram(
            axes,
            edges,
            np.histogram(found, edges)[0],
            colour(split, number),
            f"{_label(split)}: {len(found):,}",
        )
    if high == low:
        axes.set_xticks([low], [f"{low:g}"])
        axes.set_xlim(low - 2, low + 2)
    axes.set_ylim(bottom=0)
    whole_numbers(axes.yaxis)
    legend_below(axes)


def _ages(buffer: TrajectoryBuffer) -> dict[str, NDArray[np.int64]]:
    """The places of each split's trajectories among all of them, which are sorted by age."""
    found: dict[str, list[int]] = {}
    for number, info in enumerate(buffer.trajectories):
        found.setdefault(info.split, []).append(number)
    return {split: np.array(numbers) for split, numbers in found.items()}


def _points(axes: Axes, x: NDArray[Any], y: NDArray[Any], colour: str, label: str) -> None:
    """Points; of more than can be told apart some, evenly chosen."""
    shown = slice(None, None, max(1, len(x) // MAX_POINTS))
    axes.scatter(x[shown], y[shown], s=16, color=colour, label=label)


def _lengths(buffer: TrajectoryBuffer, splits: Splits) -> Any:
    made, axes = figure(12, 4.8, 1, 2)
    lengths = {split: np.array([info.length for info in infos]) for split, infos in splits.items()}
    _compare(axes[0, 0], lengths, "steps", "trajectories", "Lengths of trajectories", whole=True)
    episodes = {split: _episode_lengths(buffer, infos) for split, infos in splits.items()}
    shown = {split: found for split, found in episodes.items() if len(found)}
    _compare(
        axes[0, 1], shown, "steps", "episodes", "Lengths of whole episodes inside trajectories", whole=True
    )
    return made


def _episode_lengths(buffer: TrajectoryBuffer, infos: Sequence[TrajectoryLike]) -> NDArray[np.int64]:
    """Steps from one row that is done to the next of the same trajectory: such a row has the last observation
    of an episode."""
    found, start = [], 0
    for block in blocks(buffer, "dones", infos):
        found.append(np.flatnonzero(block[:, 0]) + start)
        start += len(block)
    done = np.concatenate([*found, np.zeros(0, np.int64)]).astype(np.int64)
    trajectory = np.searchsorted(np.cumsum([info.length for info in infos]), done, side="right")
    together = trajectory[1:] == trajectory[:-1]
    return np.asarray(np.diff(done)[together])


def _scores(buffer: TrajectoryBuffer, splits: Splits) -> Any:
    made, axes = figure(12, 4.8, 1, 2)
    each, over_age = axes[0]
    scores = {
        split: np.array([info.on_policiness_score for info in infos], np.float64)
        for split, infos in splits.items()
    }
    rated = {split: found[found != UNSCORED] for split, found in scores.items()}
    total, never = (
        sum(map(len, scores.values())),
        sum(int((found == UNSCORED).sum()) for found in scores.values()),
    )
    title = f"On-policiness scores ({never:,} of {total:,} trajectories were never scored)"
    each.set(xlabel="score (sum of log-probabilities)", ylabel="trajectories", title=title)
    over_age.set(
        xlabel="trajectory, from the oldest to the newest",
        ylabel="score",
        title=("Scores over the age of trajectories"),
    )
    if never == total:
        for place in axes[0]:
            note(place, "no trajectory has been scored" if total else "none")
        return made
    _compare(
        each,
        {split: found for split, found in rated.items() if len(found)},
        each.get_xlabel(),
        each.get_ylabel(),
        title,
    )
    ages = _ages(buffer)
    for number, split in enumerate(splits):
        known = scores[split] != UNSCORED
        _points(
            over_age,
            ages[split][known],
            scores[split][known],
            colour(split, number),
            f"{_label(split)}: {known.sum():,} scored",
        )
    if never:
        unscored = np.sort(np.concatenate([ages[split][scores[split] == UNSCORED] for split in splits]))
        shown = unscored[:: max(1, len(unscored) // MAX_POINTS)]
        across = over_age.get_xaxis_transform()
        over_age.scatter(
            shown,
            np.full(len(shown), 0.03),
            s=16,
            marker="x",
            color="#6d6d6d",
            transform=across,
            label=f"never scored: {never:,}",
        )
    over_age.set_xlim(-0.03 * total - 0.5, 1.03 * total - 0.5)
    whole_numbers(over_age.xaxis)
    legend_below(over_age)
    return made


def _distribution(buffer: TrajectoryBuffer, splits: Splits) -> Any:
    made, axes = figure(10, 4.8, 1, 2)
    names = [_label(split) for split in splits]
    paint = [colour(split, number) for number, split in enumerate(splits)]
    rows = [sum(info.length for info in infos) for infos in splits.values()]
    orphans = max(0, buffer.size - sum(rows))
    counts = [len(infos) for infos in splits.values()]
    bars = [
        ("trajectories", names, counts, paint),
        ("rows", [*names, Unowned.split], [*rows, orphans], [*paint, colour(Unowned.split)]),
    ]
    for place, (what, labels, values, painted) in zip(axes[0], bars, strict=True):
        total = max(1, sum(values))
        place.set(ylabel=what, title=f"{what.capitalize()} by split ({sum(values):,})")
        if not labels:
            note(place, "none")
            continue
        drawn = place.bar(labels, values, color=painted, width=0.6)
        place.bar_label(drawn, [f"{value:,}\n{value / total:.1%}" for value in values], padding=3)
        place.margins(y=0.18)
        if len(labels) * max(map(len, labels)) > MAX_LETTERS:
            place.set_xticks(range(len(labels)), labels, rotation=20, ha="right", rotation_mode="anchor")
        whole_numbers(place.yaxis)
    return made


def _rewards(buffer: TrajectoryBuffer, splits: Splits) -> Any:
    made, axes = figure(12, 4.8, 1, 2)
    each, over_age = axes[0]
    each.set(xlabel="reward of a step", ylabel="share of the split's steps, log scale", title="Rewards")
    over_age.set(
        xlabel="trajectory, from the oldest to the newest",
        ylabel="mean reward of a step",
        title="Mean rewards of trajectories",
    )
    splits = _with_unowned(buffer, splits)
    known = {split: statistics(buffer, "rews", infos) for split, infos in splits.items()}
    known = {split: found for split, found in known.items() if found.count}
    if not known or not all(np.isfinite(found.mean).all() for found in known.values()):
        reason = "some rewards are not finite" if known else "none"
        note(each, reason)
        note(over_age, reason)
        return made
    low = min(float(np.min(found.min)) for found in known.values() if found.min is not None)
    high = max(float(np.max(found.max)) for found in known.values() if found.max is not None)
    edges = np.linspace(low, high, BINS + 1) if high > low else np.array([low - 0.5, low + 0.5])
    ages = _ages(buffer)
    for number, (split, found) in enumerate(known.items()):
        infos = splits[split]
        counts, sums = _reward_sums(buffer, infos, edges)
        label = f"{_label(split)}: mean {float(found.mean[0]):.3g}, std {float(found.std[0]):.3g}"
        histogram(each, edges, counts / found.count, colour(split, number), label)
        if split in ages:
            lengths = np.array([max(1, info.length) for info in infos])
            _points(over_age, ages[split], sums / lengths, colour(split, number), _label(split))
    each.set_yscale("log")
    legend_below(each)
    if not ages:
        note(over_age, "none")
        return made
    whole_numbers(over_age.xaxis)
    legend_below(over_age)
    return made


def _reward_sums(
    buffer: TrajectoryBuffer, infos: Sequence[TrajectoryLike], edges: NDArray[np.float64]
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """How many rewards lie between edges, and their sum in each trajectory."""
    counts, sums, start = np.zeros(len(edges) - 1, np.int64), np.zeros(len(infos)), 0
    ends = np.cumsum([info.length for info in infos])
    for block in blocks(buffer, "rews", infos):
        values = block[:, 0].astype(np.float64)
        counts += np.histogram(values, edges)[0]
        trajectory = np.searchsorted(ends, np.arange(start, start + len(values)), side="right")
        sums += np.bincount(trajectory, values, len(infos))
        start += len(values)
    return counts, sums


def _observations(buffer: TrajectoryBuffer, splits: Splits) -> Any:
    infos = [info for infos in _with_unowned(buffer, splits).values() for info in infos if info.length]
    found = statistics(buffer, "obs", infos)
    width = len(found.mean)
    made, axes = figure(min(18.0, max(10.0, 0.42 * width)), 8, 2, 1, sharex=True)
    upper, lower = axes[:, 0]
    upper.set(ylabel="value", title=f"Observations: {width} dimensions, {found.count:,} rows")
    lower.set(xlabel="dimension", ylabel="standard deviation", title="Spread of each dimension")
    if not found.count or found.min is None or found.max is None:
        note(upper, "none")
        note(lower, "none")
        return made
    sample = random_rows(buffer, "obs", infos, SAMPLE, np.random.default_rng(0)).astype(np.float64)
    quantiles = np.percentile(sample, QUANTILES, axis=0)
    (_boxes if width <= MAX_BOXES else _lines)(upper, quantiles, found)
    dimensions = np.arange(width)
    lower.bar(dimensions, found.std, color="#2f6db3", width=0.7 if width <= MAX_BOXES else 1.0)
    if width <= MAX_BOXES:
        lower.set_xticks(dimensions)
    upper.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False)
    return made


def _boxes(axes: Axes, quantiles: NDArray[np.float64], found: Statistics) -> None:
    dimensions = np.arange(quantiles.shape[1])
    low, first, middle, third, high = quantiles
    axes.vlines(dimensions, low, high, color="#7a7a7a", label="1 % to 99 %")
    axes.bar(
        dimensions,
        third - first,
        bottom=first,
        width=0.6,
        color="#9dc1e8",
        edgecolor="#2f6db3",
        label="25 % to 75 %",
    )
    axes.hlines(middle, dimensions - 0.3, dimensions + 0.3, color="#17375e", linewidth=2, label="median")
    axes.scatter(dimensions, found.mean, marker="D", s=18, color="#e07b28", zorder=3, label="mean")
    ends = np.concatenate([np.asarray(found.min, np.float64), np.asarray(found.max, np.float64)])
    axes.scatter(np.tile(dimensions, 2), ends, marker="_", s=30, color="#b84a5f", label="smallest, largest")


def _lines(axes: Axes, quantiles: NDArray[np.float64], found: Statistics) -> None:
    dimensions = np.arange(quantiles.shape[1])
    axes.fill_between(
        dimensions,
        np.asarray(found.min, float),
        np.asarray(found.max, float),
        color="#e4e4e4",
        label="smallest to largest",
    )
    axes.fill_between(dimensions, quantiles[0], quantiles[4], color="#c9dcf2", label="1 % to 99 %")
    axes.fill_between(dimensions, quantiles[1], quantiles[3], color="#8fb6e0", label="25 % to 75 %")
    axes.plot(dimensions, quantiles[2], color="#17375e", linewidth=1, label="median")
