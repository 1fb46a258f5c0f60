"""Several stores, sampled as one: one for each actor that writes, and one learner.

Which store each entry of a batch comes from is drawn in proportion to what there is to draw in each; which of
its items it is, is the matter of a sampler of that store (`joined.py`).

Invariant: this holds no rows and no weights: the samplers of the stores do.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from replaystore.errors import ArgumentError, ConflictError
from replaystore.sampling import given_weights
from replaystore.sampling import states as states_of
from replaystore.sampling.ahead import Ahead, Place, following
from replaystore.sampling.cautions import LOOK, Cautions
from replaystore.sampling.finishing import Finish, Finished
from replaystore.sampling.iterating import Iterating, check_filled
from replaystore.sampling.joined import Joined
from replaystore.sampling.padding import asked
from replaystore.sampling.sampler import check_numbers
from replaystore.sampling.to_device import Transfer
from replaystore.schema.fields import Field
from replaystore.schema.names import listed
from replaystore.schema.values import array_of
from replaystore.views.reader import BufferReader

__all__ = ["Concat", "ConcatSampler", "concat"]


def concat(buffers: Sequence[BufferReader]) -> Concat:
    """Open buffers, to be sampled as one: `replaystore.concat([one, other]).sampler(256)`.

    Fields that only some of them have, such as an info that one has not met yet, are left out.

    Raises:
        ArgumentError: a field is not the same in all that have it.
    """
    return Concat(buffers)


class Concat:
    """Buffers that are sampled as one; they stay those of who opened them."""

    def __init__(self, buffers: Sequence[BufferReader]) -> None:
        given: Any = buffers
        several = isinstance(given, Iterable) and not isinstance(given, BufferReader | str)
        self.buffers: tuple[BufferReader, ...] = tuple(given) if several else ()
        if not several or not all(isinstance(one, BufferReader) for one in self.buffers):
            raise ArgumentError("concat takes a list of open buffers: concat([open(first), open(second)])")
        if not self.buffers:
            raise ArgumentError("concat takes at least one open buffer")
        self._check()

    def _check(self) -> None:
        """ArgumentError: a field is not the same in all stores that have it."""
        known: dict[str, BufferReader] = {}
        for other in self.buffers:
            for name in other.schema.fields:
                first = known.setdefault(name, other)
                told = [_told(buffer.schema.fields[name]) for buffer in (first, other)]
                if told[0] != told[1]:
                    raise ArgumentError(
                        f"a field of stores that are sampled as one is the same in all: {name!r} is "
                        f"{told[0]} in {first.where}, and {told[1]} in {other.where}; sample them one by one"
                    )

    def _names(self, fields: Any) -> list[str]:
        """The names of these fields, or of all that all stores have. ArgumentError: a store lacks one that is
        asked for."""
        common = [
            name
            for name in self.buffers[0].schema.fields
            if all(name in other.schema.fields for other in self.buffers)
        ]
        if not common:
            raise ArgumentError(f"{self!r}: there is no field that all stores have")
        if fields is None:
            return common
        chosen = set[str]()
        for wanted in [fields] if isinstance(fields, str) else list(fields):
            found = [name for name in common if name == wanted or name.startswith(f"{wanted}/")]
            for number, buffer in enumerate(self.buffers):
                have = [
                    name for name in buffer.schema.fields if name == wanted or name.startswith(f"{wanted}/")
                ]
                if have and not found:
                    lacking = next(one for one in self.buffers if have[0] not in one.schema.fields)
                    raise ArgumentError(
                        f"{lacking.where} has no field {have[0]!r}, which {buffer.where} (store {number}) "
                        "has: leave it out of fields, or add it there (add_field), with its values or a fill"
                    )
            chosen.update(found or self.buffers[0].schema.select([wanted]).fields)
        return [name for name in common if name in chosen]

    def __len__(self) -> int:
        return sum(len(buffer) for buffer in self.buffers)

    def refresh(self) -> bool:
        """Go on to the newest commits; whether there was any."""
        changed = [buffer.refresh() for buffer in self.buffers]  # all of them
        return any(changed)

    def sampler(
        self,
        batch_size: int = 256,
        *,
        seed: int | None = None,
        weights: ArrayLike | None = None,
        prefetch: int | None = None,
        device: Any = None,
        **settings: Any,
    ) -> ConcatSampler:
        """Batches of the steps of all, as `Buffer.sampler` gives them, whose settings these are: each step is
        as likely as any other, whatever its store. `store` says which buffer each entry is of, `index` which
        of its rows.

        Args:
            fields: those that all stores have now, unless some of them are named.
            weights: one for each step (or trajectory) of all, store by store.
        """
        self._check()
        names, every = self._names(settings.get("fields")), settings.get("fields") is None
        settings = settings | {"fields": names, "batch_size": batch_size}
        return ConcatSampler(self.buffers, seed, weights, prefetch, device, settings, every)

    def __repr__(self) -> str:
        return f"<Concat of {', '.join(repr(buffer.where) for buffer in self.buffers)}>"


class ConcatSampler(Iterating):
    """Batches of several buffers, made by `Concat.sampler`; an iterator that ends with the epoch if the order
    is "epoch", and else never. For one thread at a time."""

    def __init__(
        self,
        buffers: tuple[BufferReader, ...],
        seed: int | None,
        weights: ArrayLike | None,
        prefetch: int | None,
        device: Any,
        settings: dict[str, Any],
        every_field: bool,
    ) -> None:
        """`every_field`: nobody said which fields: they are those that all stores have."""
        check_numbers(seed, prefetch)
        weighted = weights is not None or settings.get("order") == "prioritized"
        if prefetch and (weighted or settings.get("live")):
            raise ArgumentError(
                "what is drawn may change with every batch, so that none can be made ahead: leave out "
                "prefetch"
            )
        self.seed = int(np.random.SeedSequence().entropy if seed is None else seed)  # type: ignore[arg-type]
        """What the batches depend on; drawn by the system if none was given."""
        finish = {name: settings.pop(name, None) for name in ("dtype", "transform", "pad_values")}
        declared = {name: buffers[0].schema.fields[name] for name in settings["fields"]}
        settings["pad"], finish["pad_values"] = asked(
            settings.get("pad"), finish["pad_values"], settings.get("fragment_length"), declared
        )
        self._to_device = None if device is None else Transfer(device)
        shares = _shared(buffers, weights, settings.get("per", "step"))
        self._cautions, self._live = Cautions(), bool(settings.get("live"))
        self._joined = Joined(buffers, settings, self.seed, shares, every_field=every_field)
        fields = {name: buffers[0].schema.fields[name] for name in self._joined.there[0].recipe.names}
        self.finish = Finish.of(**finish, fields=fields)
        """What is done to batches when they have been gathered."""
        self._place: Place = (0, 0)
        self._depth = int(prefetch or 0)
        self._thread: Ahead | None = None
        self._cautions.tell(self._joined.there, 3)

    # --- batches

    def sample(self, out: Any = None) -> dict[str, Any]:
        """The next batch, as `Sampler.sample` gives it, and `store`: which buffer each entry is of. Batches
        of several buffers are always new arrays."""
        if out is not None:
            check_filled(out)
            raise ArgumentError("batches of several buffers are new arrays: leave out `out`")
        place = self._place
        if self._live and not place[1] % LOOK:
            self._cautions.tell(self._joined.there, 2)
        if self._depth:
            self._joined.check()
            if self._thread is None:
                joined, finish = self._joined, self.finish
                self._thread = Ahead(
                    self, joined if finish is None else Finished(joined, finish), place, self._depth
                )
            batch = self._thread.next()
        else:
            batch = self._joined.make(*place)
            batch = batch if self.finish is None else self.finish(batch)
        self._place = following(place, self.per_epoch)
        return batch if self._to_device is None else self._to_device(batch)

    @property
    def per_epoch(self) -> int | None:
        """How many batches an epoch has; None: the order has no end."""
        return self._joined.per_epoch

    @property
    def num_items(self) -> int:
        """How many items there are to draw from."""
        return sum(sampler.num_items for sampler in self._joined.there)

    def refresh(self) -> bool:
        """Go on to the newest commits of all, and the buffers with it; whether there was any. What is new
        gets the largest weight that there is."""
        self.close()
        changed = True  # some may have gone on before an error
        try:
            changed = self._joined.refresh()
        finally:
            epoch, number = self._place
            if changed and number and self.per_epoch is not None:
                self._place = (epoch + 1, 0)
        self._cautions.tell(self._joined.there, 2)
        return changed

    def close(self) -> None:
        """End the thread that makes batches ahead; `sample` starts it again."""
        if self._thread is not None:
            self._thread.stop()
            self._thread = None

    # --- weights

    @property
    def ignored(self) -> int:
        """How many weights were set of what had left a ring by then."""
        return sum(sampler.ignored for sampler in self._joined.there)

    def update_priorities(self, index: ArrayLike, priorities: ArrayLike, store: ArrayLike) -> None:
        """Set the priorities of steps: of the rows `batch["index"]` of the buffers `batch["store"]`."""
        self._update("priorities", index, priorities, store)

    def update_weights(self, index: ArrayLike, weights: ArrayLike, store: ArrayLike) -> None:
        """Set weights, of what `batch["index"]` (of trajectories: `batch["trajectory"]`) and `batch["store"]`
        say."""
        self._update("weights", index, weights, store)

    def _update(self, what: str, index: ArrayLike, values: ArrayLike, store: ArrayLike) -> None:
        """All of them, or none if one is wrong."""
        places, given = given_weights.flat(what, index, values)
        of = array_of("store", store)
        samplers = self._joined.samplers
        if of.shape != places.shape:
            raise ArgumentError(
                f"index, store and {what} are flat arrays of one length, not {places.shape}, {of.shape} and "
                f"{given.shape}"
            )
        if len(of) and (of.dtype.kind not in "iu" or not 0 <= of.min() <= of.max() < len(samplers)):
            raise ArgumentError(
                f"store says which of {len(samplers)} buffers it is, from 0 on: not {of!r:.80}"
            )
        given_weights.check(given, "priority" if what == "priorities" else "weight")
        found = []
        for number in np.unique(of).tolist():
            sampler, mine = samplers[number], of == number
            if sampler is None:
                raise ArgumentError(f"store {number} has nothing to draw, and no weights")
            found.append((sampler, sampler.checked_weights(what, places[mine], given[mine])))
        for sampler, weights in found:
            sampler.set_weights(*weights)
        self._joined.level()

    # --- state

    def state_dict(self) -> dict[str, Any]:
        """Where the sampler stands, as `Sampler.state_dict`: numbers, texts, lists and dicts."""
        epoch, number = self._place
        states = [None if sampler is None else sampler.state_dict() for sampler in self._joined.samplers]
        return {"seed": self.seed, "epoch": epoch, "batch": number, "stores": states}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from where another sampler of the same stores, in the same order, stood.

        Raises:
            ArgumentError: not such a state, or one of a sampler with other settings.
            ConflictError: it was of commits that show something else."""
        given: Any = state  # what the annotation says is what is checked
        if not isinstance(given, Mapping) or not {"seed", "epoch", "batch", "stores"} <= given.keys():
            raise ArgumentError(
                "this is not the state of a sampler of several stores: it has no seed or stores"
            )
        samplers, states = self._joined.samplers, state["stores"]
        seed, epoch, place = (states_of.number_of(state, name) for name in ("seed", "epoch", "batch"))
        if not isinstance(states, list | tuple):
            raise ArgumentError(f"this is not the state of a sampler: stores is {states!r:.40}, not a list")
        if len(states) != len(samplers):
            raise ArgumentError(f"the state is of {len(states)} stores; this sampler has {len(samplers)}")
        for number, (sampler, mine) in enumerate(zip(samplers, states, strict=True)):
            if (sampler is None) != (mine is None):
                raise ConflictError(f"store {number} had something to draw then or now, but not both")
        self.close()
        there = [
            (sampler, sampler.prepared(mine))
            for sampler, mine in zip(samplers, states, strict=True)
            if sampler is not None
        ]
        if len({frozenset(prepared.recipe.names) for _, prepared in there}) > 1:
            raise ArgumentError("this is not the state of a sampler: its stores show different fields")
        for sampler, prepared in there:
            sampler.resume(prepared)
        self.seed, self._place = seed, (epoch, place)
        self._joined.begin(self.seed)
        self._joined.level()

    def explain(self) -> str:
        """How batches are made; for people."""
        lines = [f"{self.num_items} items of {len(self._joined.samplers)} stores, seed {self.seed}"]
        for buffer, sampler in zip(self._joined.buffers, self._joined.samplers, strict=True):
            told = "nothing to draw yet" if sampler is None else sampler.explain().replace("\n", "\n  ")
            lines.append(f"{buffer.where}: {told}")
        shown = self._joined.there[0].recipe.names
        some = [
            name
            for buffer in self._joined.buffers
            for name in buffer.schema.fields
            if name not in shown and not all(name in one.schema.fields for one in self._joined.buffers)
        ]
        if some:
            lines.append(f"left out, as not all stores have it: {listed(dict.fromkeys(some))}")
        lines += () if self.finish is None else self.finish.explain()
        return "\n".join(lines)


def _shared(
    buffers: tuple[BufferReader, ...], weights: ArrayLike | None, per: str
) -> list[NDArray[np.float64] | None]:
    """The weights of each store, of those of all. ArgumentError: there are not as many."""
    if weights is None:
        return [None] * len(buffers)
    values = array_of("weights", weights)
    counts = [buffer.num_trajectories if per == "trajectory" else len(buffer) for buffer in buffers]
    if values.shape != (sum(counts),):
        raise ArgumentError(
            f"weights have shape {values.shape}; there must be one for each {per} of all stores, "
            f"{sum(counts)}"
        )
    return list(np.split(values, np.cumsum(counts)[:-1]))


def _told(field: Field) -> str:
    """What a field is like."""
    return f"{field.dtype} {tuple(field.shape)} ({field.role})"
