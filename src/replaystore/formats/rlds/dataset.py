"""A dataset of TFDS with episodes of steps (RLDS), as a source."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import chain

from replaystore.formats.rlds import pictures
from replaystore.formats.rlds.episodes import Episode
from replaystore.formats.rlds.features import parsed
from replaystore.formats.rlds.folder import FEATURES, METADATA, Files, Split, files_of
from replaystore.formats.rlds.own import own_of
from replaystore.formats.rlds.plan import Plan, plan_of
from replaystore.formats.rlds.records import opened_shard
from replaystore.formats.rlds.survey import Survey, sizes_of
from replaystore.formats.source import Block, Source

__all__ = ["read"]


@contextmanager
def read(path: str) -> Iterator[Source]:
    """The episodes of a dataset. FormatError, NotFoundError, StorageError, UnsupportedError."""
    files = files_of(path)
    features = parsed(files.features, f"{files.folder}/{FEATURES}")
    own = own_of(files.metadata, features, f"{files.folder}/{METADATA}")
    if any(feature.encoding == "image" for feature in features.steps):
        pictures.needed()
    plan = plan_of(features, own, sizes_of(files, features), files.folder)
    survey = Survey(plan)
    for split in files.splits:
        survey.look_at(split)
    yield Source(
        plan.schema,
        lambda most: _blocks(files, plan, most),
        environment=None if own is None else own.environment,
        metadata=None if own is None else own.metadata,
        splits=_splits(files, plan),
        columns={name: feature.dtype for name, feature in plan.columns.items()},
        steps=survey.steps if own is None else None,
        trajectories=survey.trajectories,
        details={"folder": files.folder},
        fields=plan.lost_fields,
        rest={**plan.lost_columns, **survey.rest()},
        remarks=survey.remarks(),
    )


def _splits(files: Files, plan: Plan) -> list[str]:
    if plan.own is not None:
        return list(plan.own.splits.values())
    return [split.name for split in files.splits]


def _ours(plan: Plan, split: str) -> str:
    return split if plan.own is None else plan.own.splits.get(split, split)


def _blocks(files: Files, plan: Plan, most: int) -> Iterator[Block]:
    """All trajectories: split after split, or in the order that replaystore has noted."""
    streams = [_episodes(split, plan) for split in files.splits]
    told: Iterable[tuple[str, Episode]] = chain.from_iterable(streams)
    if plan.own is not None:
        told = heapq.merge(*streams, key=lambda told: told[1].index)
    for split, episode in told:
        yield from episode.blocks(most, split, pictures.decoded)


def _episodes(split: Split, plan: Plan) -> Iterator[tuple[str, Episode]]:
    for path in split.paths:
        with opened_shard(path) as shard:
            for record in shard.records():
                yield _ours(plan, split.name), Episode(record, plan)
