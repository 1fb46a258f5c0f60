"""A mutant: a change of one line that breaks a promise, and the tests that are to see it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

__all__ = ["Mutant"]


@dataclass(frozen=True)
class Mutant:
    """One change."""

    name: str
    file: str
    before: str
    after: str
    promise: str
    """What it breaks."""
    tests: tuple[str, ...]
    """What is to see it, as pytest names it in the folder of the tests."""

    @property
    def node_ids(self) -> list[str]:
        """The tests, as they are named at the root."""
        return [f"tests/{test}" for test in self.tests]

    def problem(self, root: Path) -> str:
        """Why it does not apply to the source tree; empty if it does."""
        path = root / self.file
        if not path.is_file():
            return f"there is no {self.file}"
        count = path.read_text(encoding="utf-8").count(self.before)
        return "" if count == 1 else f"the text that it changes is {count} times in {self.file}"

    def applied(self, text: str) -> str:
        """The text of its file with the change."""
        return text.replace(self.before, self.after)
