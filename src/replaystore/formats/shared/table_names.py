"""What others call the columns of a table of steps, where that means the same as a field of ours; and what
they tell trajectories apart by. Arrays in files that hold other things, too, are named by flat/names.py.

A name that means nearly the same (`dones`) stays as it is. Names are paths of keys: `("obs", "camera")`,
`"observation.state"`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from replaystore.schema.names import join_path, paths_above
from replaystore.schema.roles import Role, role_of

__all__ = ["ENDS", "NEXT", "NUMBERS", "named", "role"]

SAME: dict[str, tuple[str, ...]] = {
    "observation": ("observation", "observations", "obs"),
    "action": ("action", "actions", "act", "acts"),
    "reward": ("reward", "rewards", "rew", "rews"),
    "terminated": ("terminated", "terminateds", "terminations", "terminals", "terminal"),
    "truncated": ("truncated", "truncateds", "truncations", "timeouts", "timeout"),
    "next_observation": ("next_observation", "next_observations", "next_obs", "new_obs", "obs_next"),
    "info": ("info", "infos"),
}
"""What it is called here, and elsewhere; the first one that is there is it."""
NEXT = "next_observation"
"""The name of what is no field, but follows from others."""
NUMBERS = (
    "trajectory",
    "trajectory_id",
    "trajectory_index",
    "traj_id",
    "episode",
    "episode_id",
    "episode_index",
    "episode_idx",
    "episode_number",
    "eps_id",
    "ep_idx",
    "rollout_id",
)
"""What trajectories are told apart by, the likeliest first."""
ENDS = ("dones", "done", "next.done", "is_last")
"""What says that a trajectory ends, where nothing else does."""
SPLIT = {"observation", "observations", "obs", "action", "actions", "info", "infos", "next_obs"}
"""Names that are taken apart at dots."""


def named(paths: Iterable[Sequence[str]]) -> dict[tuple[str, ...], str]:
    """The name of the field that each column becomes, by its keys. No two have the same."""
    keys = {tuple(path): _keys(tuple(path)) for path in paths}
    tops = {path[0] for path in keys.values()}
    called = {
        other: name
        for name, others in SAME.items()
        if (other := next((other for other in others if other in tops), None)) is not None
    }
    found: dict[tuple[str, ...], str] = {}
    taken: set[str] = set()
    for path, (top, *rest) in keys.items():
        name = join_path(called.get(top, top), *rest)
        if name in taken or not _fits(name):
            name = join_path(".".join(path))
        while name in taken or not _fits(name):
            name = f"{name}_"
        taken.add(name)
        found[path] = name
    above = {path for name in taken for path in paths_above(name)}
    return {path: _apart(name, taken | above) if name in above else name for path, name in found.items()}


def _apart(name: str, taken: set[str]) -> str:
    """A name that is not also the beginning of others."""
    while name in taken:
        name += "_"
    return name


def _keys(path: tuple[str, ...]) -> tuple[str, ...]:
    """The keys of a column; of one whose name has them with dots or slashes these."""
    top = path[0]
    for mark in ("/", "."):
        parts = tuple(part for part in top.split(mark) if part)
        if len(parts) > 1 and (mark == "/" or parts[0] in SPLIT):
            return (*parts, *path[1:])
    return path


def _fits(name: str) -> bool:
    """Whether a field may have this name: a role with one value has no further parts."""
    top, slash, _ = name.partition("/")
    return not (slash and top in ("terminated", "truncated"))


def role(name: str) -> Role:
    """The role of a field of this name."""
    found = role_of(name.partition("/")[0])
    return "extra" if found == "mask" else found
