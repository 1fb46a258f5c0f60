"""What a stranger might put in the place of any value of a JSON document."""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator
from typing import Any

__all__ = ["NUMBERS", "mutated"]

DEEP: Any = []
for _ in range(90):
    DEEP = [DEEP]
ODD: tuple[Any, ...] = (
    *(
        None,
        True,
        False,
        -1,
        0,
        1,
        2,
        7,
        2**31,
        2**32,
        2**53,
        2**62,
        2**63 - 1,
        2**63,
        2**64,
        10**12,
        -(2**63),
        10**30,
        0.5,
        1e308,
    ),
    *(
        "",
        "x",
        "..",
        "../../x",
        "/etc/passwd",
        "0",
        "object",
        "float128",
        "datetime64[s]",
        "S8",
        "zstd",
        "zstd:99",
        "\0",
        "\ud800",
    ),
    *("x" * 5000, [], {}, [[]], [0], [-1], [2**40] * 3, [1] * 40, {"x": 1}, DEEP),
)
NUMBERS = (0, 1, 2, 3, 5, 100, 4096, 2**16, 2**31, 2**32 - 1, 2**40, 2**62, 2**63 - 1, -1, -2, -(2**63))


def _places(tree: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in items:
        yield from _places(value, (*path, key))


def mutated(tree: Any, draw: random.Random) -> tuple[str, Any]:
    """JSON with something else in one place."""
    tree = copy.deepcopy(tree)
    *path, last = draw.choice([path for path in _places(tree) if path])
    owner = tree
    for key in path:
        owner = owner[key]
    value, at = owner[last], "/".join(map(str, [*path, last]))
    way = draw.randrange(6)
    if way == 0:
        del owner[last]
        return f"{at} is gone", tree
    if way == 1 and isinstance(value, int):
        owner[last] = draw.choice((value + 1, value - 1, 2 * value, -value, value + 2**32, str(value)))
    elif way == 2 and isinstance(value, list) and value:
        owner[last] = draw.choice(
            (
                value * 2,
                value[:-1],
                value[::-1],
                [*value, draw.choice(ODD)],
                {str(n): v for n, v in enumerate(value)},
            )
        )
    elif way == 3:
        owner[last] = [value]
    elif way == 4 and isinstance(owner, dict):
        owner[draw.choice(("x", "", "extra", last + "x", "steps/x", "../x", "start"))] = draw.choice(
            (value, *ODD)
        )
    elif way == 5:
        owner[last] = copy.deepcopy(_at(tree, draw.choice([path for path in _places(tree) if path])))
    else:
        owner[last] = draw.choice(ODD)
    return f"{at} is {owner.get(last, '?') if isinstance(owner, dict) else owner[last]!r:.60}", tree


def _at(tree: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        tree = tree[key]
    return tree
