"""What people call the arrays of their steps, and which fields these are.

A file of arrays holds other things than steps, and these names tell which they are; what is none of them is a
field only if it has as many rows. In a table every column has a row for each step: there is more to take
literally (`state` is a column like others), and table_names.py does.
"""

from __future__ import annotations

from collections.abc import Mapping

from replaystore.errors import SchemaError
from replaystore.schema.names import check_name, join_path
from replaystore.schema.roles import check_role

__all__ = ["DONE", "LENGTHS", "NUMBER", "STARTS", "STOPS", "Spelled", "has_steps", "own_name"]

NEXT, DONE, STARTS, STOPS, LENGTHS, NUMBER = "next", "done", "starts", "stops", "lengths", "number"
SPELLINGS: Mapping[str, tuple[str, ...]] = {
    "observation": ("observations", "observation", "obs", "states", "state"),
    "action": ("actions", "action", "acts", "act"),
    "reward": ("rewards", "reward", "rews", "rew"),
    "terminated": ("terminals", "terminated", "terminations", "terminal"),
    "truncated": ("timeouts", "truncated", "truncations", "timeout"),
    "info": ("infos", "info", "env_infos"),
    NEXT: (
        "next_observations",
        "next_observation",
        "next_obs",
        "obs_next",
        "next_states",
        "next_state",
        "new_obs",
    ),
    DONE: ("dones", "done", "episode_terminals"),
    STARTS: ("episode_starts", "is_first"),
    STOPS: ("episode_ends",),
    LENGTHS: ("episode_lengths", "ep_len", "ep_lens"),
    NUMBER: ("episode_index", "episode_id", "episode_ids", "episode", "traj_ids", "trajectory_id"),
}
"""Of several that are there, the first counts; the others keep their own names."""
_KNOWN = {name: meaning for meaning, names in SPELLINGS.items() for name in names}


class Spelled:
    """Names of a file, by what they mean."""

    def __init__(self, names: list[str]) -> None:
        self.fields: dict[str, str] = {}
        """Field → name."""
        self.following: dict[str, str] = {}
        """Field of the observation → name of what follows."""
        self.others: dict[str, str] = {}
        """DONE, STARTS, … → name."""
        chosen: dict[str, str] = {}
        split = {name: parts_of(name) for name in names}
        for meaning, spellings in SPELLINGS.items():
            there = [one for one in spellings if any(parts[0] == one for parts in split.values())]
            if there:
                chosen[there[0]] = meaning
        self.own: list[str] = []
        """Names of what is something else."""
        for name, (first, *rest) in split.items():
            meaning = chosen.get(first, "")
            if not meaning or (rest and meaning not in ("observation", "action", "info", NEXT)):
                self.own.append(name)
            elif meaning == NEXT:
                self.following[join_path("observation", *rest)] = name
            elif meaning in (DONE, STARTS, STOPS, LENGTHS, NUMBER):
                self.others[meaning] = name
            elif meaning == "info" and not rest:
                self.own.append(name)
            else:
                self.fields[join_path(meaning, *rest)] = name


def parts_of(name: str) -> list[str]:
    """The parts of a name; "obs.time" is taken for one of two."""
    parts = [part for part in name.split("/") if part] or [name]
    first, dot, rest = parts[0].partition(".")
    return [first, rest, *parts[1:]] if dot and rest and first in _KNOWN else parts


def own_name(name: str) -> str:
    """A field's name that is as near as can be to that of an array."""
    found = join_path(*[part for part in name.split("/") if part] or ["%"])
    try:
        check_name(found)
        check_role(found, "extra")
    except SchemaError:
        return f"file/{found}"
    return found


def has_steps(names: list[str]) -> bool:
    """Whether there are observations and actions among these names."""
    tops = {name.partition("/")[0] for name in Spelled(names).fields}
    return {"observation", "action"} <= tops
