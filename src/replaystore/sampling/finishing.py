"""What is done to a batch when it has been gathered: values of any length are padded; its dtypes, and a
function of the user's; in this order, and before it is brought to a device.

Invariant: which items a batch has does not depend on it, and the state of a sampler says nothing of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from replaystore.errors import ArgumentError
from replaystore.sampling.ahead import Maker
from replaystore.sampling.gather import Batch
from replaystore.sampling.padding import Padding
from replaystore.schema.field import Field

__all__ = ["Finish", "Finished"]

MADE = ("discount", "weight")
"""Numbers that a sampler adds."""


class Finish:
    """Gives batches other dtypes, and to a function.

    Args:
        dtype: that of all floating-point values, or {field: dtype}, in which what follows an observation
        becomes what it becomes.
        transform: gets a batch and returns what is a batch from there on.
        fields: those that are sampled.
        pad_values: as `Padding` takes it.

    Raises:
        ArgumentError: a dtype that cannot hold the values, or a field that there is not.
    """

    def __init__(
        self, dtype: Any, transform: Any, fields: Mapping[str, Field], pad_values: Any = None
    ) -> None:
        if transform is not None and not callable(transform):
            raise ArgumentError(f"transform is a function of a batch, not {type(transform).__name__}")
        self._transform: Callable[[Batch], Batch] | None = transform
        self._padding = None if pad_values is None else Padding(pad_values, fields)
        self._floats: np.dtype[Any] | None = None
        self._dtypes: dict[str, np.dtype[Any]] = {}
        if isinstance(dtype, Mapping):
            known = {name: declared.dtype for name, declared in fields.items()}
            known |= dict.fromkeys(MADE, np.dtype("f8"))
            for name, wanted in dtype.items():
                if name not in known:
                    raise ArgumentError(f"dtype of {name!r}: there is no such field in these batches")
                if name in fields and fields[name].text:
                    raise ArgumentError(f"dtype of {name!r}: texts have no other dtype; leave it out")
                kind = self._dtypes[name] = _dtype(wanted)
                if not _holds(known[name], kind):
                    raise ArgumentError(
                        f"dtype {kind} of {name!r} cannot hold {known[name]}: give one of floating point, or "
                        "one that is wide enough, or a transform"
                    )
                self._dtypes.setdefault(f"next_{name}", kind)
        elif dtype is not None:
            self._floats = _dtype(dtype)
            if self._floats.kind != "f":
                raise ArgumentError(
                    f"dtype={self._floats} for all floating-point values is none of floating point: for "
                    "other fields give {field: dtype}"
                )

    @staticmethod
    def of(dtype: Any, transform: Any, fields: Mapping[str, Field], pad_values: Any = None) -> Finish | None:
        """None: nothing is to be done."""
        if dtype is None and transform is None and pad_values is None:
            return None
        return Finish(dtype, transform, fields, pad_values)

    def __call__(self, batch: Batch) -> Batch:
        if self._padding is not None:
            self._padding(batch)
        for name, values in batch.items():
            wanted = self._floats if values.dtype.kind == "f" else None
            wanted = self._dtypes.get(name, wanted)
            if wanted is not None:
                batch[name] = values.astype(wanted, copy=False)
        if self._transform is None:
            return batch
        found: Any = self._transform(batch)
        if not isinstance(found, Mapping):
            raise ArgumentError(
                f"transform returned {type(found).__name__}: it has to return the batch, as a dict of arrays"
            )
        return dict(found)

    @property
    def padded(self) -> set[str]:
        """The fields whose values are padded."""
        return set() if self._padding is None else set(self._padding.names)

    def explain(self) -> Iterable[str]:
        """For people: what is done, in which order."""
        if self._padding is not None:
            yield from self._padding.explain()
        if self._floats is not None:
            yield f"then: floating point as {self._floats}"
        elif self._dtypes:
            yield "then: " + ", ".join(f"{name} as {dtype}" for name, dtype in self._dtypes.items())
        if self._transform is not None:
            yield f"then: transform {getattr(self._transform, '__name__', type(self._transform).__name__)}"


class Finished:
    """Makes batches that are finished, also ahead: `transform` runs in the thread then."""

    def __init__(self, maker: Maker, finish: Finish) -> None:
        self._maker, self._finish = maker, finish

    @property
    def together(self) -> int:
        """As `Maker.together`."""
        return self._maker.together

    @together.setter
    def together(self, count: int) -> None:
        self._maker.together = count

    @property
    def per_epoch(self) -> int | None:
        """As `Maker.per_epoch`."""
        return self._maker.per_epoch

    def make(self, epoch: int, number: int) -> Batch:
        """As `Maker.make`."""
        return self._finish(self._maker.make(epoch, number))


def _dtype(wanted: Any) -> np.dtype[Any]:
    try:
        found: np.dtype[Any] = np.dtype(wanted)
    except TypeError as error:
        raise ArgumentError(f"dtype {wanted!r:.80} is none of NumPy's ({error})") from None
    return found


def _holds(values: np.dtype[Any], wanted: np.dtype[Any]) -> bool:
    """Whether a dtype holds such values, or those nearest to them in floating point."""
    return (values.kind in "biuf" and wanted.kind == "f") or np.can_cast(values, wanted, "safe")
