"""Where a store keeps what: the names of its arrays, and of nothing else are they spelled.

    steps/<field path>               one row a step
    parts                            one row a part, of a number for each column
    final/<observation field path>   one row a final observation
    trajectories/<column>            one row an ended trajectory
    checksums/<array>                one number a complete chunk of an array of rows
    changes/<field path>/step        one row a change of a mutable field: which step
    changes/<field path>/value       and its value from then on
    values/<field path>              the values of a field of any length, of steps and of final observations
    journal/log, journal/tail/<n>    the commit log, and the rows of unfinished chunks

The arrays of a group have as many rows each; an array of values is a group by itself. Field names are escaped
here and nowhere else.
"""

from __future__ import annotations

from functools import lru_cache

from replaystore.schema.names import escape, escape_path, unescape

__all__ = [
    "DIMENSIONS",
    "FINAL",
    "LOG",
    "PARTS",
    "TAIL",
    "changed_by",
    "changes_of",
    "checked_by",
    "checksums",
    "column_of",
    "final",
    "group_of",
    "has_first",
    "is_changes",
    "is_checksums",
    "is_final",
    "is_journal",
    "is_trajectories",
    "is_unknown",
    "is_values",
    "spans_of",
    "steps",
    "tail",
    "trajectories",
    "values",
]

LOG, TAIL = "journal/log", "journal/tail"
PARTS = "parts"
"""The table of parts, an array that is its own group."""
FINAL = "final/"
"""What the names of final observations begin with."""
FOLDERS = frozenset({"steps", "parts", "final", "trajectories", "checksums", "changes", "values", "journal"})
"""What arrays lie in; those of newer minor versions may lie elsewhere, too."""
DIMENSIONS = {
    "steps": "step",
    "parts": "part",
    "trajectories": "trajectory",
    "final": "final",
    "checksums": "chunk",
}
"""What the rows of each group are, as readers that name dimensions call it."""


@lru_cache(maxsize=4096)
def steps(field: str) -> str:
    """The array of a field."""
    return "steps/" + escape_path(field)


@lru_cache(maxsize=4096)
def final(field: str) -> str:
    """The array of the final observations of a field."""
    return FINAL + escape_path(field)


@lru_cache(maxsize=4096)
def values(field: str) -> str:
    """The array of the values of a field of any length, into which its rows and final observations point."""
    return "values/" + escape_path(field)


def spans_of(array: str) -> str:
    """The array of the field whose values an array holds: where those of each step begin and end."""
    return "steps/" + array.removeprefix("values/")


def trajectories(column: str) -> str:
    """The array of a column of the table of trajectories."""
    return "trajectories/" + escape(column)


@lru_cache(maxsize=4096)
def column_of(array: str) -> str:
    """The column of the table of trajectories that an array is."""
    return unescape(array.removeprefix("trajectories/"))


@lru_cache(maxsize=4096)
def changes_of(array: str) -> tuple[str, str]:
    """The arrays of the changes of the array of a field: in which steps, and to what."""
    field = array.removeprefix("steps/")
    return f"changes/{field}/step", f"changes/{field}/value"


def changed_by(array: str) -> str:
    """The array of the field that an array of changes is about."""
    return "steps/" + array.removeprefix("changes/").rpartition("/")[0]


def checksums(array: str) -> str:
    """The array of the checksums of an array."""
    return "checksums/" + array


def checked_by(array: str) -> str:
    """The array that an array of checksums is about."""
    return array.removeprefix("checksums/")


def tail(slot: int) -> str:
    """One of the two arrays of rows of unfinished chunks."""
    return f"{TAIL}/{slot}"


@lru_cache(maxsize=4096)
def group_of(array: str) -> str:
    """The first part of an array's name, that of changes of a field all but the last one, that of values the
    whole name; arrays of a group have as many rows."""
    if array.startswith("values/"):
        return array
    return array.rpartition("/")[0] if array.startswith("changes/") else array.partition("/")[0]


def has_first(group: str) -> bool:
    """Whether each commit of a ring says which row of the group is the oldest that it shows."""
    return group == "steps" or group.startswith("values/")


def is_final(array: str) -> bool:
    """Whether it holds final observations."""
    return array.startswith(FINAL)


def is_changes(array: str) -> bool:
    """Whether it holds changes of a field."""
    return array.startswith("changes/")


def is_values(array: str) -> bool:
    """Whether it holds values of a field of any length, or is the group of them."""
    return array.startswith("values/")


def is_trajectories(array: str) -> bool:
    """Whether it is a column of the table of trajectories."""
    return array.startswith("trajectories/")


def is_checksums(array: str) -> bool:
    """Whether it holds the checksums of another array."""
    return array.startswith("checksums/")


def is_journal(array: str) -> bool:
    """Whether it is a part of the commit log, or holds rows of unfinished chunks."""
    return array.startswith("journal/")


def is_unknown(array: str) -> bool:
    """Whether it has rows that are kept, checked and committed, and no meaning to this version."""
    return checked_by(array).partition("/")[0] not in FOLDERS
