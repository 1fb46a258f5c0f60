"""The states of samplers: what they have to be like."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from replaystore.errors import ArgumentError
from replaystore.sampling.ahead import Place
from replaystore.sampling.recipe import Recipe
from replaystore.sampling.weights import from_text
from replaystore.schema.fields import Schema

__all__ = ["checked", "number_of", "with_fields_of"]


def with_fields_of(state: Mapping[str, Any], recipe: Recipe, schema: Schema) -> Recipe:
    """The recipe of a sampler of all fields, as one whose state this is had it: of the fields that there were
    then."""
    given: Any = state  # what the annotation says is what `checked` looks at
    settings = given.get("settings") if isinstance(given, Mapping) else None
    names = settings.get("names") if isinstance(settings, Mapping) else None
    if not isinstance(names, list | tuple) or not set(map(str, names)) <= schema.fields.keys():
        return recipe
    return replace(recipe, names=tuple(names))


def checked(state: Mapping[str, Any], recipe: Recipe) -> tuple[int, int, Place, Any, float | None]:
    """Seed, commit, place, weights and the weight of what is new, of the state of a sampler of this recipe.
    ArgumentError: it is none."""
    wanted = {"seed", "commit", "epoch", "batch", "settings", *(["weights"] if recipe.weighted else [])}
    given: Any = state  # what the annotation says is what is checked
    missing = wanted - state.keys() if isinstance(given, Mapping) else wanted
    if missing:
        raise ArgumentError(
            f"this is not the state of a sampler like this one: {', '.join(sorted(missing))} are missing"
        )
    seed, commit, epoch, number = (number_of(state, name) for name in ("seed", "commit", "epoch", "batch"))
    if not isinstance(state["settings"], Mapping):
        kind = type(state["settings"]).__name__
        raise ArgumentError(f"this is not the state of a sampler: settings is a {kind}, not a dict")
    rows = state.get("rows", [])
    if not isinstance(rows, list | tuple) or not all(_is_integer(row) for row in rows):
        raise ArgumentError(f"this is not the state of a sampler: rows is {rows!r:.40}")
    for name, value in recipe.to_json().items():
        if name == "slab_bytes" and recipe.order != "epoch":
            continue  # what is drawn does not depend on it; an epoch shuffles as much as there is room for
        known = state["settings"].get(name)
        # a tuple: of a state as it was saved once.
        if (list(known) if isinstance(known, tuple) else known) != value:
            raise ArgumentError(f"the state is of a sampler with {name} {known!r}; this one has {value!r}")
    weights = state["weights"] if recipe.weighted else None
    weights = from_text(weights) if isinstance(weights, str) else weights
    largest = state.get("largest")
    usable = isinstance(largest, int | float) and 0 <= largest < np.inf
    return seed, commit, (epoch, number), weights, float(largest) if usable and largest is not None else None


def number_of(state: Mapping[str, Any], name: str) -> int:
    """A number of a state. ArgumentError: it is none."""
    value = state[name]
    if not (_is_integer(value) and value >= 0):
        raise ArgumentError(f"this is not the state of a sampler: {name} is {value!r:.40}, not a number")
    return int(value)


def _is_integer(value: object) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)
