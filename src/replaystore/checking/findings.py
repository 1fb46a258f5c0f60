"""What `verify` finds: its report, and how the checks add to it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from replaystore.errors import ReplayStoreError, StorageError

__all__ = ["Findings", "Problem", "Progress", "VerifyReport"]

Progress = Callable[[int, int], None]
"""Called with (bytes checked, bytes in all)."""


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong."""

    where: str
    """The file, array, chunk, part or trajectory."""
    what: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.where}: {self.what}; {self.remedy}"


@dataclass
class VerifyReport:
    """What `verify` found."""

    location: str
    commit: int | None = None
    steps: int = 0
    trajectories: int = 0
    checked_bytes: int = 0
    seconds: float = 0.0
    problems: list[Problem] = field(default_factory=list)
    """Nothing is wrong if this is empty."""
    damaged: dict[str, int] = field(default_factory=dict)
    """By array, the first row that cannot be relied on."""
    complete: bool = True
    """False if the system refused to read something (a full memory, a failing disk), which is listed among
    the problems then."""
    notes: list[str] = field(default_factory=list)
    """What could not be checked, because it is not there, and need not be."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"clean": not self.problems}


class Findings:
    """A report that is being made."""

    def __init__(self, report: VerifyReport, progress: Progress | None) -> None:
        self.report = report
        self.progress = progress
        self.total = 0
        """Bytes that there are to check."""
        self.published: Mapping[str, int] = {}
        """The rows of arrays that other software sees."""

    def problem(
        self, where: str, what: str, remedy: str = ("run `replaystore repair`, or restore it from a copy")
    ) -> None:
        self.report.problems.append(Problem(where, what, remedy))

    def guarded(self, name: str, check: Callable[[], None], *, rows: bool = True) -> None:
        """Run a check; what it cannot read is a problem of the array, and of its `rows` unless it is a check
        of something else."""
        try:
            check()
        except (ReplayStoreError, OSError, MemoryError) as error:
            self.refused(error)
            self.problem(name, str(error) or "there is not enough memory to read it")
            if rows:
                self.damage(name, 0)

    def refused(self, error: BaseException) -> None:
        """Note an error that says nothing of the store, but of the system."""
        self.report.complete = self.report.complete and not isinstance(error, StorageError | MemoryError)

    def damage(self, name: str, row: int) -> None:
        known = self.report.damaged.get(name)
        self.report.damaged[name] = row if known is None else min(known, row)

    def count(self, size: int) -> None:
        self.report.checked_bytes += size
        if self.progress is not None:
            self.progress(self.report.checked_bytes, max(self.total, self.report.checked_bytes))
