"""Batches of several samplers, one of each store: from which of them each entry comes.

Invariant: what a batch holds depends on the seed, its own number and what the stores show.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray

from replaystore.errors import ArgumentError
from replaystore.sampling.cautions import joining
from replaystore.sampling.gather import Batch
from replaystore.sampling.orders import Stream
from replaystore.sampling.sampler import Sampler
from replaystore.sampling.steps import Rows
from replaystore.sampling.weighted_order import ALL_ZERO
from replaystore.sampling.windows import SINGLES, NothingToDrawError
from replaystore.schema.names import listed
from replaystore.schema.ragged import Ragged
from replaystore.views.reader import BufferReader

__all__ = ["Joined"]

ROOM = 0.9
"""Of the rows that a store has memory for: how many come from it, chance decides."""
AT_ONCE = 32
"""Batches of which it is drawn at once where entries come from."""
SHORT = 512
"""Bytes of an entry up to which it is quicker to copy it twice, in two calls, than once in a call for each
store."""
RUNS = 1 << 17
"""Of an epoch: into so many runs of steps the sequences of all stores are cut, which come in any order."""


class Joined:
    """Makes the batches; `there` are its samplers."""

    def __init__(
        self,
        buffers: tuple[BufferReader, ...],
        settings: dict[str, Any],
        seed: int,
        weights: list[NDArray[np.float64] | None],
        *,
        every_field: bool,
    ) -> None:
        """`every_field`: nobody said which fields; those of `settings` are the ones that all stores have."""
        self.buffers, self._settings, self._every_field = buffers, settings, every_field
        self.together = 1
        self.samplers: list[Sampler | None] = []
        """One of each store; None: it has nothing to draw yet."""
        self.begin(seed)
        reason: NothingToDrawError | None = None
        for number, values in enumerate(weights):
            try:
                self.samplers.append(self._made(number, values))
            except NothingToDrawError as error:
                self.samplers.append(None)
                reason = error
        if not self.there and reason is not None:
            raise reason
        recipe = self.there[0].recipe
        if "store" in recipe.names:
            raise ArgumentError(
                "a field is called 'store', as a value that the sampler adds: leave it out of `fields`"
            )
        self.size, self._ends = recipe.batch_size, recipe.order == "epoch"
        self._weighted, self._beta = recipe.weighted, recipe.beta
        self._steady = not recipe.weighted and not recipe.live
        """What there is to draw remains the same until it is refreshed."""
        self.level()

    def begin(self, seed: int) -> None:
        self._seed, self._stream = seed, Stream(seed)
        self._forget()

    def _forget(self) -> None:
        """Forget what depends on how much there is in the stores."""
        self._runs: tuple[int, list[Rows], list[Rows]] | None = None
        self._singles = 0
        """Batches that were made since."""
        self._known: tuple[int, Rows] = (0, np.empty((0, 0), np.int64))
        """Of entries of which batches the store is known, from which one on."""
        self._chosen = range(0)
        """Batches whose rows are decoded, where chunks do not all fit; all, if they do."""

    def _made(self, number: int, weights: NDArray[np.float64] | None) -> Sampler:
        seeds = np.random.SeedSequence([self._seed, number + 1]).generate_state(2, np.uint32).tolist()
        buffer: Any = self.buffers[number]
        chosen = dict(self._settings)
        if self.there:
            chosen["fields"] = self.there[0].recipe.names  # also after a state of fewer was loaded
        with joining():
            made: Sampler = buffer.sampler(
                **chosen, weights=weights, seed=seeds[0] << 32 | seeds[1], prefetch=0
            )
        made.every_field = self._every_field
        return made

    @property
    def there(self) -> list[Sampler]:
        """Those that there are."""
        return [sampler for sampler in self.samplers if sampler is not None]

    @property
    def per_epoch(self) -> int | None:
        if not self._ends:
            return None
        return -(-sum(sampler.num_items for sampler in self.there) // self.size)

    def check(self) -> None:
        """Errors of what is closed, or went back."""
        for sampler in self.there:
            sampler.look()

    def level(self) -> None:
        """What is new weighs as much as the largest of all stores."""
        if self._weighted:
            largest = max(sampler.largest for sampler in self.there)
            for sampler in self.there:
                sampler.largest = largest

    def refresh(self) -> bool:
        """Go on with all; after an error those before it have."""
        changed = False
        self._forget()
        try:
            for number, sampler in enumerate(self.samplers):
                changed |= self._begins(number) if sampler is None else sampler.refresh()
        finally:
            self.level()
        return changed

    def _begins(self, number: int) -> bool:
        """Whether a store that had nothing to draw has something now, whoever refreshed its buffer."""
        self.buffers[number].refresh()
        try:
            weights = self._of_new(number)
            made = self._made(number, weights)
        except NothingToDrawError:
            return False
        if self._weighted and weights is None:
            made.largest = max([made.largest, *(one.largest for one in self.there)])
        self.samplers[number] = made
        return True

    def _of_new(self, number: int) -> NDArray[np.float64] | None:
        """The weights of a store that had nothing to draw."""
        if not self._weighted:
            return None
        buffer, recipe = self.buffers[number], self.there[0].recipe
        if recipe.order == "prioritized":
            return None
        count = len(buffer.trajectories) if recipe.per_trajectory else len(buffer)
        return np.full(count, max(sampler.largest for sampler in self.there))

    # --- batches

    def make(self, epoch: int, number: int) -> Batch:
        """Batch `number` of an epoch."""
        for sampler in self.there:
            sampler.look()
        used = [at for at, sampler in enumerate(self.samplers) if sampler is not None]
        begins: Rows | None = None
        if self._ends:
            begins, counts, of = self._share_of_epoch(epoch, number)
        else:
            of = self._entries(epoch, number)
            counts = np.bincount(of, minlength=len(used))
            if not self._steady:
                begins = np.full(len(used), number * self.size)
            elif number not in self._chosen:
                self._choose(epoch, number)
        parts: list[Batch] = []
        weighed = [one.smallest for one in self.there if one.mass > 0] if self._weighted else []
        for at, sampler in enumerate(self.there):
            if not counts[at]:
                continue
            part = sampler.take(epoch, number, int(counts[at]), None if begins is None else int(begins[at]))
            if self._weighted:
                part["weight"] = part["weight"] * (sampler.smallest / min(weighed)) ** -self._beta
            parts.append(part)
        batch = parts[0] if len(parts) == 1 else _mixed(parts, of)
        batch["store"] = np.array(used, np.int64)[of]
        return batch

    def _entries(self, epoch: int, number: int) -> Rows:
        """Of each entry of a batch the store; of many at once, where what there is to draw remains the
        same."""
        first, known = self._known
        if not first <= number < first + len(known):
            first, known = number, self._drawn(epoch, number, AT_ONCE if self._steady else 1)
            self._known = (first, known) if self._steady else self._known
        found: Rows = known[number - first]
        return found

    def _drawn(self, epoch: int, number: int, count: int) -> Rows:
        """The same of so many batches."""
        masses = np.array([sampler.mass for sampler in self.there], np.float64)
        total = masses.sum()
        if not total > 0:
            nothing = "there is no step to sample yet, in none of them: append some, commit them, and refresh"
            why = ALL_ZERO if self._weighted and any(one.num_items for one in self.there) else nothing
            raise ArgumentError(f"{listed(buffer.where for buffer in self.buffers)}: {why}")
        start = number * self.size
        drawn = self._stream.numbers(epoch, start, start + count * self.size) * total
        of: Rows = np.cumsum(masses).searchsorted(drawn, side="right")
        found: Rows = np.minimum(of, np.flatnonzero(masses)[-1]).reshape(count, self.size)
        return found

    def _choose(self, epoch: int, number: int) -> None:
        """Have rows decoded for as many batches as stores have memory for, of which not all chunks fit, of
        twice as many each time; begin with those behind them."""
        self._singles += 1
        crowded = [at for at, sampler in enumerate(self.there) if sampler.at_once is not None]
        if self._singles <= SINGLES:
            return
        if not crowded:
            self._chosen = range(number, sys.maxsize)
            return
        total = sum(sampler.mass for sampler in self.there)
        most = max(1, min(self._batches_at_once(self.there[at], total) for at in crowded))
        count = min(2 * max(1, len(self._chosen)), most)
        of = self._drawn(epoch, number, count + min(2 * count, most))
        for at in crowded:
            counts = np.count_nonzero(of == at, axis=1)
            self.there[at].choose(epoch, number, counts[:count], counts[count:])
        self._chosen = range(number, number + count)

    def _batches_at_once(self, sampler: Sampler, total: float) -> int:
        """Of how many batches a store has memory for its share."""
        return int((sampler.at_once or 0) * ROOM / (sampler.mass / total * self.size + 1))

    def _share_of_epoch(self, epoch: int, number: int) -> tuple[Rows, Rows, Rows]:
        """Of each store, from which of its items on how many are in a batch; and of each entry the store."""
        totals = np.array([sampler.num_items for sampler in self.there], np.int64)
        if self._runs is None or self._runs[0] != epoch:
            self._runs = self._cut(epoch, totals)
        _, begins, firsts = self._runs
        start = number * self.size
        stop = min(start + self.size, int(totals.sum()))
        of = np.empty(stop - start, np.int64)
        counts = np.zeros((2, len(totals)), np.int64)
        for at in range(len(totals)):
            for row, edge in enumerate((start, stop)):
                run = int(begins[at].searchsorted(edge, side="right")) - 1
                if run >= 0:
                    length = firsts[at][run + 1] - firsts[at][run]
                    counts[row, at] = firsts[at][run] + min(edge - begins[at][run], length)
            low, high = begins[at].searchsorted([start, stop], side="left").tolist()
            for run in range(max(low - 1, 0), high):
                first, length = int(begins[at][run]), int(firsts[at][run + 1] - firsts[at][run])
                of[max(first - start, 0) : max(min(first + length, stop) - start, 0)] = at
        return counts[0], counts[1] - counts[0], of

    def _cut(self, epoch: int, totals: Rows) -> tuple[int, list[Rows], list[Rows]]:
        """Of each store, where its runs begin in the epoch, and at which of its items; the last one is where
        they end."""
        length = -(-int(totals.sum()) // RUNS)
        sizes, owner = [], []
        for at, total in enumerate(totals.tolist()):
            count = -(-total // length)
            sizes.append(np.full(count, length))
            if count:
                sizes[-1][-1] = total - (count - 1) * length
            owner.append(np.full(count, at))
        order = np.random.default_rng([self._seed, epoch, 1]).permutation(sum(map(len, sizes)))
        size, of = np.concatenate(sizes)[order], np.concatenate(owner)[order]
        begin = np.cumsum(size) - size
        mine = [np.flatnonzero(of == at) for at in range(len(totals))]
        firsts = [np.concatenate([[0], np.cumsum(size[runs])]) for runs in mine]
        return epoch, [begin[runs] for runs in mine], firsts


def _mixed(parts: list[Batch], of: Rows) -> Batch:
    """The entries of several stores, in their order, where `of` says that they belong."""
    order = of.argsort(kind="stable")
    back = np.empty_like(order)
    back[order] = np.arange(len(of))
    batch: dict[str, Any] = {}
    for name in parts[0]:
        several: list[Any] = [part[name] for part in parts]
        first = several[0]
        if isinstance(first, Ragged):
            batch[name] = Ragged.concatenate(several).take(back)
            continue
        if first.nbytes <= SHORT * len(first):
            batch[name] = np.concatenate(several).take(back, 0)
            continue
        batch[name] = np.empty((len(of), *first.shape[1:]), first.dtype)
        begin = 0
        for values in several:
            _put(values, batch[name], order[begin : begin + len(values)])
            begin += len(values)
    return batch


def _put(values: NDArray[Any], to: NDArray[Any], places: Rows) -> None:
    """Rows to these places of an array, each as one item: several times as quick where it has a shape."""
    if values.ndim == 1 or not values.flags.c_contiguous or not values.size:
        to[places] = values
        return
    item = np.dtype((np.void, values.nbytes // len(values)))
    to.reshape(-1).view(item).put(places, values.reshape(-1).view(item), "clip")
