"""The table of formats in README.md, between two marks, as `replaystore formats --markdown` prints it.

    PYTHONPATH=src .venv/bin/python tests/readme_formats.py

rewrites it, also where a merge has left a conflict in it. Formats of other packages are not in it.
"""

from __future__ import annotations

from pathlib import Path

from replaystore import registry
from replaystore.cli.formats import facts_of, in_markdown

__all__ = ["BEGIN", "END", "REWRITE", "lines_now", "listed_lines", "rewritten"]

README = Path(__file__).parents[1] / "README.md"
BEGIN, END = "<!-- formats -->", "<!-- end of formats -->"
REWRITE = "run PYTHONPATH=src .venv/bin/python tests/readme_formats.py"


def table_now() -> str:
    """The table of our own formats."""
    known = registry.registered("formats").values()
    return in_markdown([facts_of(entry.name) for entry in known if entry.package == "replaystore"])


def lines_now() -> list[str]:
    """Its lines, one for each format."""
    return table_now().splitlines()[2:]


def listed_lines() -> list[str]:
    """The lines that the README has."""
    text = README.read_text(encoding="utf-8")
    return text[text.index(BEGIN) + len(BEGIN) : text.index(END)].strip().splitlines()[2:]


def rewritten(text: str, table: str) -> str:
    """A page with this table between its marks, whatever is there."""
    before, after = text[: text.index(BEGIN)], text[text.rindex(END) + len(END) :]
    return f"{before}{BEGIN}\n{table}\n{END}{after}"


if __name__ == "__main__":
    README.write_text(rewritten(README.read_text(encoding="utf-8"), table_now()), encoding="utf-8")
