"""A dataset is looked through before it is read: how much there is, what is missing, and what a buffer will
not have of it. Values are not decoded for that, but for the flags and the last steps."""

from __future__ import annotations

from replaystore.errors import FormatError
from replaystore.formats.report import Fate, lost
from replaystore.formats.rlds import pictures
from replaystore.formats.rlds.columns import first_item
from replaystore.formats.rlds.episodes import Episode
from replaystore.formats.rlds.features import Features
from replaystore.formats.rlds.folder import INFO, Files, Split
from replaystore.formats.rlds.plan import Plan
from replaystore.formats.rlds.records import Shard, opened_shard
from replaystore.formats.rlds.wire import lists_of

__all__ = ["Survey", "sizes_of"]


class Survey:
    """What was seen of the splits that were looked at."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.steps = self.trajectories = self.records = 0
        self._missing: list[str] = []
        self._beside: dict[str, int] = {}
        self._cut = self._empty = self._bare = self._several = 0

    def look_at(self, split: Split) -> None:
        """Look through a split. FormatError: a file has fewer records than it is to have."""
        if len(split.paths) < split.count:
            self._missing.append(f"{split.count - len(split.paths)} of {split.count} files of {split.name!r}")
        for number, path in enumerate(split.paths):
            with opened_shard(path) as shard:
                found = shard.count() if self.plan.own is not None else self._look_through(shard)
            said = None if split.lengths is None else split.lengths[number]
            if said is not None and said != found:
                raise FormatError(
                    f"{path} has {found} episodes, and {INFO} says {said}: it is cut off, or of another "
                    "dataset: copy it again"
                )
            if self.plan.own is not None:
                self.records += found
        if self.plan.own is not None:
            self.trajectories = self.records

    def _look_through(self, shard: Shard) -> int:
        before = self.records
        for record in shard.records(checked=False):
            self.records += 1
            episode = Episode(record, self.plan)
            pieces = [piece for piece in episode.pieces() if piece.start < piece.stop]
            self._empty += not episode.count
            self._bare += bool(episode.count) and not pieces
            self._several += len(pieces) > 1
            self.trajectories += len(pieces)
            self.steps += sum(piece.stop - piece.start for piece in pieces)
            self._cut += sum(not piece.final for piece in pieces)
            if pieces and pieces[-1].final:
                for name in episode.beside_finals():
                    self._beside[name] = self._beside.get(name, 0) + 1
        return self.records - before

    def rest(self) -> dict[str, Fate]:
        """What a buffer will not have."""
        found: dict[str, Fate] = {}
        if self._missing:
            found["trajectories"] = lost(f"{' and '.join(self._missing)} are not there")
        elif self._bare + self._empty:
            found["trajectories"] = lost(f"{self._bare + self._empty} have no step")
        if self._beside:
            told = ", ".join(f"{name} in {count}" for name, count in sorted(self._beside.items()))
            found["last_step"] = lost(
                f"values beside the last observation of a trajectory, of a step that was not taken: {told}"
            )
        return found

    def remarks(self) -> list[str]:
        """What else whoever reads it should know."""
        found, plan = list[str](), self.plan
        if plan.own is not None:
            return found
        if self._cut:
            found.append(
                f"{self._cut} trajectories have no last step that is flagged is_last: they are taken for cut "
                "off, without an observation after them"
            )
        if self._several:
            found.append(f"{self._several} records hold several trajectories, which are told apart by flags")
        unseen = [
            name
            for name, feature in plan.fields.items()
            if name not in plan.observations and feature.encoding in ("text", "image", "zlib")
        ]
        if unseen and self._cut < self.trajectories:
            names = ", ".join(unseen)
            found.append(f"the step that has the last observation has more, which is left out: {names:.200}")
        if "is_terminal" not in plan.marks and "is_last" in plan.marks:
            found.append("there is no is_terminal: all that have ended are taken for truncated")
        if any(feature.encoding == "image" for feature in plan.fields.values()):
            found.append("pictures that are stored as JPEG are as Pillow decodes them")
        return found


def sizes_of(files: Files, features: Features) -> dict[str, tuple[int, int]]:
    """Heights and widths of pictures that features.json leaves open: those of the first picture."""
    wanted = {
        feature.key: feature
        for feature in features.steps
        if feature.encoding == "image" and None in feature.shape and len(feature.shape) == 3
    }
    found: dict[str, tuple[int, int]] = {}
    for path in [path for split in files.splits for path in split.paths] if wanted else ():
        with opened_shard(path) as shard:
            for record in shard.records(checked=False):
                lists = lists_of(record)
                for key in wanted.keys() - found.keys():
                    data = first_item(record, lists, wanted[key])
                    if data is not None:
                        found[key] = pictures.size_of(data, wanted[key])
                if len(found) == len(wanted):
                    return found
    return found
