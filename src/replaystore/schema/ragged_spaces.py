"""Gymnasium spaces whose values have any length: Text and Sequence, which are one field each, and Graph,
which is three.

A Text is stored in UTF-8; a Sequence of arrays as one array, stacked or not; the nodes of a Graph, its edges
and the nodes that each edge connects as stacked Sequences. What has two lengths, or none that an array could
have, is refused, with what to do instead.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from replaystore.errors import UnsupportedError
from replaystore.schema.names import GRAPH

if TYPE_CHECKING:
    import gymnasium

__all__ = ["RAGGED_SPACES", "field_of", "graph_of", "parts_of_graph", "ragged_from_json", "ragged_to_json"]

RAGGED_SPACES = ("Text", "Sequence")
"""The Gymnasium spaces that are one field of any length; a Graph is several Sequences."""
LINK = "int32"
"""The dtype of the numbers of nodes, as Gymnasium samples them."""


def field_of(space: gymnasium.Space[Any]) -> tuple[np.dtype[Any], tuple[int | None, ...], bool]:
    """Dtype and shape of a field of the values of a space, and whether they are texts."""
    from gymnasium import spaces

    if isinstance(space, spaces.Text):
        return np.dtype(np.uint8), (None,), True
    if isinstance(space, spaces.Sequence):
        item = space.feature_space
        return np.dtype(item.dtype), (None, *(item.shape or ())), False
    return np.dtype(space.dtype), space.shape or (), False


def ragged_to_json(
    space: gymnasium.Space[Any], leaf: Callable[[gymnasium.Space[Any]], dict[str, Any]]
) -> dict[str, Any] | None:
    """A Text or Sequence as strict JSON; None if it is neither. `leaf` does it for spaces of one shape.

    UnsupportedError: what cannot be stored."""
    from gymnasium import spaces

    if isinstance(space, spaces.Text):
        characters = space.character_list
        if any(len(one) != 1 or "\ud800" <= one <= "\udfff" for one in characters):
            raise UnsupportedError(
                "a Text space whose charset has other things than single characters cannot be stored: give "
                "its charset as one text of characters that UTF-8 has"
            )
        if characters == tuple(space.character_set):  # of a set, whose order another process may not have
            characters = tuple(sorted(characters))
        lengths = {"min_length": space.min_length, "max_length": space.max_length}
        return {"type": "Text", **lengths, "charset": "".join(characters)}
    if isinstance(space, spaces.Sequence):
        item = space.feature_space
        if isinstance(item, spaces.Dict | spaces.Tuple):
            raise UnsupportedError(
                f"a Sequence of {type(item).__name__} spaces cannot be stored: make it a "
                f"{type(item).__name__} of Sequences with a wrapper"
            )
        if not _is_array(item):
            raise UnsupportedError(
                f"in a Sequence of {type(item).__name__} spaces each part has its own length: pad them with "
                "a wrapper, or join them, and give their lengths in a Sequence beside it"
            )
        return {"type": "Sequence", "stack": bool(space.stack), "space": leaf(item)}
    if isinstance(space, spaces.OneOf):
        raise UnsupportedError(
            "the values of a OneOf space are of one of several spaces: give each its own key in a Dict with "
            "a wrapper, and which it is in one more"
        )
    return None


def ragged_from_json(
    data: Mapping[str, Any], leaf: Callable[[Mapping[str, Any]], gymnasium.Space[Any]]
) -> gymnasium.Space[Any]:
    """The inverse of `ragged_to_json`; errors of any kind if that is impossible."""
    from gymnasium import spaces

    if data["type"] == "Text":
        least, most, charset = data["min_length"], data["max_length"], data["charset"]
        if type(least) is not int or type(most) is not int or not isinstance(charset, str):
            raise ValueError("a Text has a min_length, a max_length and a charset, which is a text")
        return spaces.Text(most, min_length=least, charset=charset)
    if type(data["stack"]) is not bool or not isinstance(data["space"], dict):
        raise ValueError("a Sequence has a space, and is stacked or not")
    item = leaf(data["space"])
    if not _is_array(item):
        raise ValueError(f"a Sequence of {data['space']['type']} is none that is stored")
    return spaces.Sequence(item, stack=data["stack"])


def parts_of_graph(name: str, space: gymnasium.spaces.Graph) -> dict[str, gymnasium.Space[Any]]:
    """The spaces that a Graph is stored as, by name below it. UnsupportedError."""
    from gymnasium import spaces

    parts: dict[str, gymnasium.Space[Any]] = {}
    for part, item in zip(GRAPH, (space.node_space, space.edge_space), strict=False):
        if item is None:
            return parts
        if not _is_array(item):
            raise UnsupportedError(
                f"{name}: the {part} of a Graph are stored if they are Box, Discrete, MultiDiscrete or "
                f"MultiBinary, not {type(item).__name__}: make them arrays with a wrapper"
            )
        parts[part] = spaces.Sequence(item, stack=True)
    most = int(np.iinfo(LINK).max)
    parts[GRAPH[-1]] = spaces.Sequence(spaces.Box(0, most, (2,), np.dtype(LINK)), stack=True)
    return parts


def graph_of(parts: Any) -> gymnasium.Space[Any]:
    """The inverse of `parts_of_graph`, of a GraphInstance of spaces."""
    from gymnasium import spaces

    return spaces.Graph(parts.nodes.feature_space, None if parts.edges is None else parts.edges.feature_space)


def _is_array(space: gymnasium.Space[Any]) -> bool:
    from gymnasium import spaces

    return isinstance(space, spaces.Box | spaces.Discrete | spaces.MultiDiscrete | spaces.MultiBinary)
