"""Values of any length as arrays of one length, with a mask: what `pad_values` of a sampler asks for.

Invariant: what a batch shows does not depend on it. So it is done when the batch is whole, and no state of a
sampler says anything of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal

from replaystore.errors import ArgumentError, SchemaError
from replaystore.schema.field import Field
from replaystore.schema.names import listed
from replaystore.schema.ragged import Ragged

__all__ = ["Padding", "asked"]

SIDES: tuple[Literal["end"], Literal["start"]] = ("end", "start")


def asked(pad: Any, pad_values: Any, fragment_length: Any, fields: Mapping[str, Field]) -> tuple[Any, Any]:
    """`pad` of fragments, and of values: without fragments `pad="end"` is about the values."""
    ragged = any(declared.ragged for declared in fields.values())
    if fragment_length is None and pad_values is None and ragged and pad in SIDES:
        return None, pad
    return pad, pad_values


class Padding:
    """Makes arrays of the values of some fields.

    Args:
        given: at which side all fields of any length are padded with 0; or {field: fill} and {field: (fill,
            side)}.
        fields: those that are sampled.

    Raises:
        ArgumentError: there is no such field, or its values are all of one length; or what is not to be told
        apart from `mask/<field>`; or no fill of its dtype.
    """

    def __init__(self, given: Any, fields: Mapping[str, Field]) -> None:
        ragged = [name for name, declared in fields.items() if declared.ragged]
        if not ragged:
            raise ArgumentError("no field in these batches has values of any length: leave out pad_values")
        if isinstance(given, str):
            given = dict.fromkeys(ragged, (0, given))
        if not isinstance(given, Mapping):
            raise ArgumentError(
                f'pad_values is "end", "start", {{field: fill}} or {{field: (fill, side)}}, not {given!r:.80}'
            )
        self._wanted: dict[str, tuple[Any, Any]] = {}
        for name, how in given.items():
            if name not in ragged:
                raise ArgumentError(
                    f"pad_values of {name!r}: the fields of any length in these batches are {listed(ragged)}"
                )
            fill, side = how if isinstance(how, tuple) and len(how) == 2 else (how, SIDES[0])
            try:
                Ragged.empty(1, fields[name].dtype, fields[name].inner).to_padded(fill, side)
            except (ArgumentError, SchemaError) as error:
                raise ArgumentError(f"pad_values of {name!r}: {error}") from None
            self._wanted[name] = fill, side
            for made in (f"mask/{name}", f"mask/next_{name}"):
                if made in fields:
                    raise ArgumentError(
                        f"a field is called {made!r}, as a mask that is added: leave it out of `fields`"
                    )

    def __call__(self, batch: dict[str, Any]) -> None:
        """Put arrays and masks into a batch: (*lead, longest of the batch, *inner), and without `inner`."""
        for name, (fill, side) in self._wanted.items():
            for key in (name, f"next_{name}"):
                if isinstance(values := batch.get(key), Ragged):
                    batch[key], batch[f"mask/{key}"] = values.to_padded(fill, side)

    @property
    def names(self) -> Iterable[str]:
        """The fields whose values are padded."""
        return self._wanted

    def explain(self) -> Iterable[str]:
        """For people."""
        told = (f"{name} with {fill!r} at the {side}" for name, (fill, side) in self._wanted.items())
        yield f"then: padded to the longest of a batch, and masked: {', '.join(told)}"
