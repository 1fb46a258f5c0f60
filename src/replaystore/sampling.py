"""Which steps a batch is made of, and the batch itself: transitions drawn uniformly from one commit of a buffer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from replaystore.errors import SchemaError

if TYPE_CHECKING:
    from replaystore.reader import BufferReader

__all__ = ["Sampler"]


class Sampler:
    """Random transitions of a buffer, uniformly over its steps and with replacement; made by `buffer.sampler`.

    It goes on drawing from the commit that the buffer showed when it was made; make another after `refresh` or `commit`.
    """

    def __init__(
        self,
        buffer: BufferReader,
        batch_size: int,
        *,
        names: Sequence[str],
        next_observation: bool,
        where: str | None,
        split: str | None,
        seed: int | None,
    ) -> None:
        if batch_size < 1:
            raise SchemaError(f"batch_size must be at least 1, not {batch_size}")
        self.batch_size = batch_size
        self._buffer = buffer
        self._names = list(names)
        self._next = [name for name in names if buffer.schema.fields[name].role == "observation"] if next_observation else []
        self._generator = np.random.default_rng(seed)
        self._parts = buffer.parts
        equals = {} if split is None else {"split": split}
        table = buffer.trajectories.where(where, **equals)
        rows = self._parts.rows(table.trajectory)
        if self._next and len(rows):
            following, final = self._parts.next_observation(rows)
            rows = rows[(following >= 0) | (final >= 0)]
        if not len(rows):
            raise SchemaError(f"{buffer.location}: there is no step to sample: the selection is empty, or no next observation is known")
        everything = len(rows) == int(rows[-1]) - int(rows[0]) + 1 and bool((np.diff(rows) == 1).all())
        self._rows: NDArray[np.int64] | range = range(int(rows[0]), int(rows[-1]) + 1) if everything else rows
        self._first = buffer._first

    def __len__(self) -> int:
        """How many steps there are to draw from."""
        return len(self._rows)

    def sample(self) -> dict[str, NDArray[Any]]:
        """The next batch: {field: array of shape (batch_size, *field shape)}, and `next_observation` (with its nested fields)."""
        drawn = self._generator.integers(0, len(self._rows), self.batch_size)
        rows = drawn + self._rows.start if isinstance(self._rows, range) else self._rows[drawn]
        batch = {name: self._buffer._of(name).take(rows) for name in self._names}
        if self._next:
            following, final = self._parts.next_observation(rows)
            inside, ended = following >= 0, final >= 0
            for name in self._next:
                values = np.empty_like(batch[name])
                values[inside] = self._buffer._of(name).take(following[inside])
                if ended.any():
                    values[ended] = self._buffer.final_rows(name, final[ended])
                batch["next_" + name] = values
        return batch

    def __iter__(self) -> Iterator[dict[str, NDArray[Any]]]:
        while True:
            yield self.sample()
