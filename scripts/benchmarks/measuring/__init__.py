"""What all benchmarks have in common: results, and how variants are compared.

Times of one machine at one moment say little, and on a shared machine nothing. So everything is a ratio of
variants that take turns, round after round; a ratio is the median of the ratios of the rounds, and never that
of the best round.
"""

from __future__ import annotations

import shutil
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

__all__ = ["Context", "Result", "check", "clean", "interleaved", "ratio", "remove", "skipped"]


@dataclass(frozen=True)
class Context:
    """How to measure."""

    folder: Path
    """An empty folder for everything that is written."""
    shared: Path
    """A folder for what several measures use."""
    quick: bool
    say: Callable[[str], None]
    """Tell the user what happens."""
    torchrl: str = sys.executable
    """The Python interpreter that has TorchRL."""

    def choose(self, full: int, quick: int) -> int:
        return quick if self.quick else full


@dataclass(frozen=True)
class Result:
    """One number that was measured."""

    measure: str
    variant: str
    value: float | None
    """None: not measured; `detail` says why."""
    unit: str
    target: float | None = None
    at_most: bool = True
    """The value is to be at most the target; otherwise at least."""
    detail: str = ""
    seconds: float | None = None
    """What one takes, where the value is a ratio."""

    @property
    def met(self) -> bool | None:
        """Whether the target is met; None without a target or a value."""
        if self.target is None or self.value is None:
            return None
        return self.value <= self.target if self.at_most else self.value >= self.target

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"met": self.met}


def check(same: bool, where: str, name: str) -> None:
    """What was read is what was written; a benchmark that is wrong is worth nothing."""
    if not same:
        raise SystemExit(f"bench: {where} gave back other values of {name} than were written")


def skipped(measure: str, variant: str, reason: str) -> Result:
    return Result(measure, variant, None, "", detail=f"skipped: {reason}")


def interleaved(
    variants: Mapping[str, Callable[[], float]], rounds: int, *, before: Callable[[], object] = lambda: None
) -> dict[str, list[float]]:
    """Seconds of each variant in each round. A first round warms up and does not count; each round begins
    with another variant.

    `before`: what is done first in each round."""
    names = list(variants)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(rounds + 1):
        before()
        at = turn % len(names)
        for name in names[at:] + names[:at]:
            taken = variants[name]()
            if turn:
                seconds[name].append(taken)
    return seconds


def ratio(seconds: Mapping[str, Sequence[float]], variant: str, reference: str) -> float:
    """How many times as long as the reference a variant takes: the median over the rounds."""
    return statistics.median(a / b for a, b in zip(seconds[variant], seconds[reference], strict=True))


def remove(place: Path) -> None:
    """Remove a store, a folder or a file."""
    if place.is_dir():
        shutil.rmtree(place)
    else:
        place.unlink(missing_ok=True)
        Path(f"{place}.lock").unlink(missing_ok=True)


def clean(folder: Path) -> None:
    """Remove everything in a folder."""
    for entry in list(folder.iterdir()):
        remove(entry)
