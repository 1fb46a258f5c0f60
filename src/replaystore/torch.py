"""Datasets for `torch.utils.data.DataLoader`: whole batches, or single items.

`BatchDataset` gives the batches of a sampler, in the same order however many workers make them; give it to a
DataLoader with batch_size=None, or call `data_loader`. `ItemDataset` gives items by number, for the samplers
and collate functions of PyTorch. Where no worker processes are needed, `for batch in buffer.sampler(...,
device="cpu")` is quicker than either.

Each process opens the store for itself: neither files nor locks nor threads come along when a process is
forked. All show one commit.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Iterator, Sequence
from types import FrameType
from typing import Any

import numpy as np

from replaystore.buffers import create_open as buffers
from replaystore.buffers.buffer import Buffer
from replaystore.errors import ArgumentError, UnsupportedError
from replaystore.extras import require
from replaystore.location import parse
from replaystore.sampling.batches import Batches
from replaystore.sampling.recipe import Recipe
from replaystore.sampling.sampler import Sampler
from replaystore.schema.ragged import Ragged
from replaystore.storage.places import places_of

require("torch", "replaystore.torch", "torch")

import torch  # noqa: E402
from torch.utils.data import (  # noqa: E402
    DataLoader,
    Dataset,
    IterableDataset,
    default_collate,
    get_worker_info,
)

__all__ = ["BatchDataset", "ItemDataset", "data_loader"]

WORKERS = 1024
"""The most worker processes that epochs are counted for."""

Tensors = dict[str, Any]
"""Tensors, and of fields of any length a `Ragged` of tensors."""


class _Shown:
    """One commit of a store, opened anew in each process.

    Args:
        source: an open buffer, or where it is.
        commit: which commit to show; by default the one that the buffer shows, or the newest.
        settings: as for `buffer.sampler`.
    """

    def __init__(
        self, source: Buffer | str | os.PathLike[str], commit: int | None, settings: dict[str, Any]
    ) -> None:
        refused = {"prefetch", "device"} & settings.keys()
        if refused:
            raise ArgumentError(f"{', '.join(sorted(refused))}: the DataLoader does that")
        if settings.get("weights") is not None or settings.get("order") == "prioritized":
            raise UnsupportedError(
                "weights and priorities change in one process and are not seen in others: iterate over "
                'buffer.sampler(..., device="cpu") instead'
            )
        if settings.get("live"):
            raise UnsupportedError(
                "what no commit has is known to the process alone that writes it, and a dataset shows one "
                "commit in every process: leave out live, or iterate over buffer.sampler(..., live=True, "
                'device="cpu") instead'
            )
        place = source.whereabouts if isinstance(source, Buffer) else parse(source)
        places = places_of(place)
        self._location = os.path.abspath(place.path) if places.on_disk else place.text
        if not places.shared_between_processes:
            raise UnsupportedError(
                f"{self._location}: other processes do not see a store in memory; "
                "iterate over buffer.sampler() instead"
            )
        if isinstance(source, Buffer):
            made = self._sampler(source, settings)
        else:
            with buffers.open(source, commit=commit) as buffer:
                made = self._sampler(buffer, settings)
        self.recipe, self.seed, self.commit = made
        self._process = -1
        self._batches: Batches | None = None
        self.total, self.per_epoch = self._counts

    def _sampler(self, buffer: Buffer, settings: dict[str, Any]) -> tuple[Recipe, int, int]:
        """What a sampler makes of the settings."""
        sampler: Sampler = buffer.sampler(**settings)
        self._counts = sampler.num_items, sampler.per_epoch
        padded = set() if sampler.finish is None else sampler.finish.padded
        names = buffer.schema.ragged.keys() & set(sampler.recipe.names) - padded
        self.ragged = {*names, *(f"next_{name}" for name in names)}
        """What items have of any length."""
        self._finish, self._goals = sampler.finish, sampler.goals
        return sampler.recipe, sampler.seed, sampler.commit_id

    def batches(self) -> Batches:
        """This process's batches."""
        if self._batches is None or self._process != os.getpid():
            self._batches = Batches(
                buffers.open(self._location, commit=self.commit), self.recipe, self.seed, goals=self._goals
            )
            self._process = os.getpid()
        return self._batches

    def tensors(self, batch: dict[str, Any]) -> Tensors:
        """A batch as it is to be."""
        return _tensors(batch if self._finish is None else self._finish(batch))

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_process": -1, "_batches": None}


class BatchDataset(IterableDataset[Tensors]):
    """Batches {field: tensor} of one commit; with order "epoch" (the default) each item once in an epoch,
    whatever the number of workers.

    A DataLoader gets the batches that `buffer.sampler` with the same seed gives, in the same order: of W
    workers, each makes every W-th. It has to be made with batch_size=None (`data_loader` does that), since
    these are whole batches; otherwise iterating is a ArgumentError.

    Args:
        source: an open buffer, or the location of one.
        commit: the commit to show, by default the buffer's or the newest.
        settings: as for `buffer.sampler`, but for prefetch, device, live, weights and priorities.
    """

    def __init__(
        self,
        source: Buffer | str | os.PathLike[str],
        batch_size: int = 256,
        *,
        order: str = "epoch",
        commit: int | None = None,
        **settings: Any,
    ) -> None:
        self._shown = _Shown(source, commit, {"batch_size": batch_size, "order": order, **settings})
        self._begun = torch.zeros(WORKERS, dtype=torch.int64).share_memory_()  # type: ignore[no-untyped-call]
        """How many epochs each worker has begun. Workers may be new in each epoch, and the dataset is not
        asked in their parent."""

    def set_epoch(self, epoch: int) -> None:
        """The next iteration is over this epoch; without it, over one after the other."""
        self._begun.fill_(epoch)

    __contains__ = None
    """`x in dataset` would draw without end: it is a TypeError."""

    def __bool__(self) -> bool:
        """True, whether or not the order has an end."""
        return True

    def __len__(self) -> int:
        """How many batches an epoch has; TypeError if the order has no end."""
        if self._shown.per_epoch is None:
            raise TypeError(f'order "{self._shown.recipe.order}" has no end')
        return self._shown.per_epoch

    def __iter__(self) -> Iterator[Tensors]:
        worker = get_worker_info()
        number, step = (0, 1) if worker is None else (worker.id, worker.num_workers)
        if number >= WORKERS:
            raise UnsupportedError(f"there can be {WORKERS} workers, not {step}")
        if _is_batched_again(inspect.currentframe()):
            size = self._shown.recipe.batch_size
            raise ArgumentError(
                f"this dataset gives whole batches, of {size} each, and the DataLoader would make batches "
                "of those: "
                "DataLoader(dataset, batch_size=None), or replaystore.torch.data_loader(dataset); "
                "batch_size is for BatchDataset"
            )
        epoch = int(self._begun[number])  # now, and not when the first batch is asked for
        self._begun[number] = epoch + 1
        return self._iterate(epoch, number, step)

    def _iterate(self, epoch: int, number: int, step: int) -> Iterator[Tensors]:
        batches, last = self._shown.batches(), self._shown.per_epoch
        while last is None or number < last:
            yield self._shown.tensors(batches.make(epoch, number))
            number += step


class ItemDataset(Dataset[Tensors]):
    """Items {field: tensor} of one commit by number, in the order of rows.

    Args:
        source: an open buffer, or the location of one.
        commit: the commit to show, by default the buffer's or the newest.
        settings: as for `buffer.sampler`, but for batch_size, order, seed, prefetch, device, live and
            weights.
    """

    def __init__(
        self, source: Buffer | str | os.PathLike[str], *, commit: int | None = None, **settings: Any
    ) -> None:
        if settings.get("relabel") is not None:
            raise ArgumentError("goals are drawn with each batch: use BatchDataset, or leave out relabel")
        refused = {"batch_size", "order", "seed"} & settings.keys()
        if refused:
            raise ArgumentError(
                f"{', '.join(sorted(refused))}: the DataLoader says which items come next; see BatchDataset"
            )
        self._shown = _Shown(source, commit, settings)

    def __len__(self) -> int:
        """How many items there are."""
        return self._shown.total

    def __getitem__(self, number: int) -> Tensors:
        return self.__getitems__([number])[0]

    def __getitems__(self, numbers: Sequence[int]) -> list[Tensors]:
        """Several items, read together; DataLoader calls this for each batch."""
        wanted = np.asarray(numbers, np.int64)
        wrong = wanted[(wanted < -len(self)) | (wanted >= len(self))]
        if len(wrong):
            raise IndexError(f"item {wrong[0]}: there are {len(self)} items")
        batch = self._shown.tensors(
            self._shown.batches().items(np.where(wanted < 0, wanted + len(self), wanted))
        )
        return [{name: values[at] for name, values in batch.items()} for at in range(len(wanted))]

    def collate(self, items: Sequence[Tensors]) -> Tensors:
        """Items as a batch, with a `Ragged` of each field of any length: for the `collate_fn` of a
        DataLoader, whose own one makes tensors alone."""
        ragged = self._shown.ragged & items[0].keys()
        batch: Tensors = default_collate(
            [{k: v for k, v in item.items() if k not in ragged} for item in items]
        )
        return batch | {name: _joined([item[name] for item in items]) for name in sorted(ragged)}


def _is_batched_again(frame: FrameType | None) -> bool:
    """Whether what calls the function of a frame is a DataLoader that asks for an iterator, and is going to
    collate what it gives as single items.

    A DataLoader tells its dataset nothing of itself, and single items that are batches look like batches of
    one more dimension. One with a collate function of the user's own knows what it does."""
    caller = None if frame is None else frame.f_back
    asking = {} if caller is None else caller.f_locals
    return bool(asking.get("auto_collation")) and asking.get("collate_fn") is default_collate


def data_loader(dataset: BatchDataset, num_workers: int = 0, **settings: Any) -> DataLoader[Tensors]:
    """A DataLoader of a dataset's batches: kept workers, and pinned memory where there is a GPU. `settings`
    are DataLoader's."""
    chosen: dict[str, Any] = {"pin_memory": torch.cuda.is_available(), "persistent_workers": num_workers > 0}
    return DataLoader(dataset, batch_size=None, num_workers=num_workers, **(chosen | settings))


def _tensors(batch: dict[str, Any]) -> Tensors:
    return {
        name: values.to("cpu") if isinstance(values, Ragged) else torch.from_numpy(values)
        for name, values in batch.items()
    }


def _joined(values: list[Any]) -> Any:
    """Values of several items as one: of any length each a tensor, a text, or of fragments a `Ragged`."""
    first = values[0]
    if isinstance(first, Ragged):
        parts = Ragged.concatenate([value.to_numpy() for value in values])
        return parts.reshape(len(values), *first.lead).to("cpu")
    return Ragged.of(values, text=isinstance(first, str)).to("cpu")
