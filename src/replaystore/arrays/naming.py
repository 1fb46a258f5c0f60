"""Names of commits: what may be one, and what is kept of a commit that has one; and what other software
keeps with commits.

A name is a word for a commit, as the name of a file is for its content: given again, it is that of the newer
commit.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from replaystore.errors import ArgumentError

__all__ = ["Named", "check_commit", "check_kept", "check_more", "check_name", "is_name"]

LONGEST = 80
MOST_KEPT = 1 << 40
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+=@-]*")


@dataclass(frozen=True)
class Named:
    """A commit that has a name."""

    commit: int
    first: dict[str, int] = field(default_factory=dict)
    """The oldest row of each group that it shows."""


def is_name(text: object) -> bool:
    """Whether a commit can have this name: it can be that of a file, too, and is never taken for a number."""
    return (
        isinstance(text, str)
        and len(text) <= LONGEST
        and _NAME.fullmatch(text) is not None
        and not text.isdigit()
    )


def check_name(name: object) -> str:
    """ArgumentError: no commit can have this name."""
    if isinstance(name, str) and is_name(name):
        return name
    raise ArgumentError(
        f"the name of a commit is at most {LONGEST} letters (a to z), digits and any of _ . + = @ -, not "
        f'digits alone, and begins with a letter, a digit or _, such as "epoch-12"; not {name!r:.100}'
    )


def check_commit(commit: object) -> int | str:
    """A number or a name as it is used from here on. ArgumentError: it is neither: a flag or a float that
    equals a number would be written to the log as what it is."""
    if isinstance(commit, int | np.integer) and not isinstance(commit, bool):
        return int(commit)
    if isinstance(commit, str):
        return commit
    raise ArgumentError(
        f"commit is the number of a commit, or its name, not {commit!r:.100}; buffer.commits(), or "
        "`replaystore info --commits`, lists what can be opened"
    )


def check_kept(commits: object, named: object, mode: str = "r+") -> None:
    """ArgumentError: they do not say how many commits are kept, or nothing is to be written."""
    for argument, given, least in (("keep_commits", commits, 1), ("keep_named", named, 0)):
        if given is None:
            continue
        if isinstance(given, bool) or not isinstance(given, int) or not least <= given <= MOST_KEPT:
            raise ArgumentError(f"{argument} is a number of commits, at least {least}, not {given!r:.80}")
        if mode == "r":
            raise ArgumentError(f'{argument} is for writing: leave it out, or open with mode "r+"')


def check_more(more: object) -> dict[str, Any]:
    """What other software keeps with a commit, as it is stored. ArgumentError: it is no JSON by keys with a
    dot or a colon."""
    if not isinstance(more, Mapping):
        raise ArgumentError(f"more is a dict of what to keep with the commit, not {more!r:.100}")
    for key in more:
        if not isinstance(key, str) or not ("." in key or ":" in key):
            raise ArgumentError(
                f'the keys of more have a dot or a colon, such as "org.example.position": not {key!r:.100}'
            )
    try:
        found: dict[str, Any] = json.loads(json.dumps(dict(more), allow_nan=False))
    except (TypeError, ValueError) as error:
        raise ArgumentError(f"more is kept as JSON, and holds what is none: {error}") from None
    return found
