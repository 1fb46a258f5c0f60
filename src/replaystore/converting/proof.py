"""The proof of a conversion: digests of both sides, thing by thing, for all that its report says is kept.

What is proved is proved before it gets its name (buffers/making.py, placing.py): `place` and `path` are where
it is until then.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from dataclasses import replace

import numpy as np

from replaystore.buffers.create_open import open as open_buffer
from replaystore.comparing.digest import Digest, digest_of, digest_of_source
from replaystore.comparing.in_step import InTurnError, flat_digests, largest_differences
from replaystore.converting.foreign import reading
from replaystore.errors import EvictedError, FormatError, MissingDependencyError, ProofError
from replaystore.formats.blocks import blocks_of, planned_counts
from replaystore.formats.format import Format
from replaystore.formats.options import Options
from replaystore.formats.report import KEPT, Fate, Proof, Report, after, rest_after
from replaystore.formats.source import RingSource, Source
from replaystore.location import Location
from replaystore.schema.names import listed
from replaystore.views.reader import BufferReader

__all__ = ["compare", "prove_file", "prove_store"]

ALL = "everything"
BLOCK_BYTES = 8 << 20
STRUCTURE = ("trajectories", "order", "steps")
OF_ALL = ("metadata", "environment")
"""What is known of the whole, and not of each trajectory."""


def prove_store(expected: Digest, place: Location, target: Location) -> Proof:
    """That a store, which is at `place` until it is proved, holds what was expected. ProofError."""
    begin = time.perf_counter()
    with open_buffer(place) as buffer:
        found = digest_of(buffer)
    compare(expected, found, list(expected.fields), list(expected.rest), str(target))
    return Proof(
        fields=list(expected.fields),
        rest=list(expected.rest),
        content=found.content,
        seconds=round(time.perf_counter() - begin, 3),
    )


def compare(expected: Digest, found: Digest, fields: list[str], rest: list[str], where: str) -> None:
    """ProofError: one of these things is not the same on both sides."""
    wrong = [name for name in fields if expected.fields.get(name) != found.fields.get(name)]
    wrong += [name for name in rest if expected.rest.get(name) != found.rest.get(name)]
    if wrong:
        raise _wrong(where, wrong)


def _wrong(where: str, names: Collection[str], why: str = "") -> ProofError:
    more = f" ({why})" if why else ""
    return ProofError(
        f"{where}: what was written does not have {listed(names)} as the source has{more}, and nothing is "
        "left of it. Convert again, to another disk perhaps; if it stays so, report it. proof=False "
        "(--no-proof) leaves the proof out"
    )


# --- a file of other software


def prove_file(
    view: BufferReader, format_: Format, name: str, path: str, options: Options, report: Report
) -> Proof:
    """That a file of the format of this name holds what its report says. ProofError."""
    begin = time.perf_counter()
    if not format_.reads():
        return Proof(not_proved={ALL: "files of this kind are only written"})
    try:
        with reading(name, format_, path, None) as source:
            proof = _File(view, source, path, options, report).proof()
    except MissingDependencyError as error:
        return Proof(not_proved={ALL: str(error)})
    except EvictedError:
        return Proof(not_proved={ALL: "rows of the source have left its ring meanwhile"})
    except ProofError:
        raise
    except FormatError as error:
        raise ProofError(
            f"what was written cannot be read again, and nothing is left of it: {error}"
        ) from error
    return replace(proof, seconds=round(time.perf_counter() - begin, 3))


class _File:
    """A file that was written, and is read again."""

    def __init__(
        self, view: BufferReader, source: Source | RingSource, path: str, options: Options, report: Report
    ) -> None:
        self.view, self.source, self.path, self.options, self.report = view, source, path, options, report
        self.fates: Mapping[str, Fate] = after(report.fields, source.fields)
        self.beside: Mapping[str, Fate] = rest_after(report.rest, source.rest)
        self.not_proved: dict[str, str] = {}
        schema = view.schema if options.fields is None else view.schema.select(options.fields)
        self.kept: list[str] = []
        self.changed: dict[str, float] = {}
        for field in schema.fields:
            self._sort(field)

    def _sort(self, name: str) -> None:
        """A field is kept, or changed, or nothing can be said of it."""
        fate, there = self.fates.get(name, KEPT), self.source.schema.fields.get(name)
        if fate.kind == "kept" or (fate.kind == "derived" and there is not None):
            self.kept.append(name)
        elif fate.kind == "changed" and fate.max_error is not None and there is not None:
            self.changed[name] = fate.max_error
        elif fate.kind != "lost":
            self.not_proved[name] = f"{fate.kind}: {fate.how}" if fate.how else fate.kind

    def proof(self) -> Proof:
        """ProofError: it is not so."""
        missing = [name for name in self.kept if name not in self.source.schema.fields]
        if isinstance(self.source, RingSource):
            self.not_proved |= dict.fromkeys(missing, "read again, it is what follows the steps")
            self.kept = [name for name in self.kept if name not in missing]
        elif missing:
            raise _wrong(self.path, missing, "which are not there when it is read again")
        planned, _ = planned_counts(self.view, self.options)
        inexact = {name for name in STRUCTURE if not self.beside.get(name, KEPT).exact}
        if self.report.steps != planned:
            return self._nothing(
                f"it has {self.report.steps} steps, and what was written of the source {planned}"
            )
        if isinstance(self.source, RingSource) and not self._same_ends(self.source):
            return self._nothing("read again, its rows form other trajectories")
        if "trajectories" in inexact and not isinstance(self.source, RingSource):  # a ring forms them anew
            return self._flat(ordered="order" not in inexact)
        if "order" in inexact:
            return self._in_any_order()
        return self._thing_by_thing()

    def _same_ends(self, ring: RingSource) -> bool:
        """Whether the rows of a ring, as they are read again, form trajectories as long as those of the
        source are. How a ring is read depends on its rows: it does not say where trajectories end."""
        chosen = self.options.trajectories
        mine = (self.view.trajectories if chosen is None else chosen)["length"]
        return np.array_equal(mine, ring.table["length"]) and (
            chosen is not None or len(self.view) == ring.rows
        )

    def _nothing(self, why: str) -> Proof:
        names = {**dict.fromkeys(self.kept, why), **dict.fromkeys(self.changed, why)}
        return Proof(not_proved={**names, **self.not_proved})

    # --- trajectories are the same

    def _thing_by_thing(self) -> Proof:
        mine = self._of_view()
        theirs = digest_of_source(self.source, self.path, fields=self.kept or None)
        rest = self._beside(mine)
        if isinstance(self.source, RingSource):  # as its software makes it, where that was not known
            other = [name for name in rest if mine.rest[name] != theirs.rest.get(name)]
            self.not_proved |= dict.fromkeys(other, "a ring has it as its own software makes it")
            rest = [name for name in rest if name not in other]
        compare(mine, theirs, self.kept, rest, self.path)
        within = self._within()
        whole = not self.not_proved and not within
        return Proof(self.kept, rest, within, self.not_proved, theirs.content if whole else "")

    def _of_view(self, each: Collection[str] | None = None) -> Digest:
        return digest_of(
            self.view,
            fields=self.kept or None,
            trajectories=self.options.trajectories,
            cut=True,
            each=each,
        )

    def _beside(self, mine: Digest) -> list[str]:
        """The things beside fields that are kept."""
        found = [name for name in mine.rest if self.beside.get(name, KEPT).exact and name != "open"]
        gone = {name for name, fate in self.fates.items() if not fate.exact}
        if not self.kept:
            gone |= {"steps", "final_observation"}
        return [name for name in found if name not in gone]

    def _within(self) -> dict[str, float]:
        """Fields that were changed, with by how much at most. ProofError: that is more than was said."""
        names = []
        for name in self.changed:
            mine, theirs = self.view.schema.fields[name], self.source.schema.fields[name]
            if mine.ragged or theirs.ragged or mine.shape != theirs.shape:
                self.not_proved[name] = self.fates[name].how
            elif isinstance(self.source, RingSource):
                self.not_proved[name] = "they lie in a ring, and were changed"
            else:
                names.append(name)
        if not names or isinstance(self.source, RingSource):
            return {}
        try:
            blocks = blocks_of(self.view, replace(self.options, fields=tuple(names)), BLOCK_BYTES)
            found = largest_differences(blocks, self.source.blocks(BLOCK_BYTES), names)
        except InTurnError:
            self.not_proved |= dict.fromkeys(names, "trajectories of it come in turn")
            return {}
        for name, error in found.items():
            if error > self.changed[name] * (1 + 1e-9):
                why = f"by {error:.3g}, and not by at most {self.changed[name]:.3g}"
                raise _wrong(self.path, [name], why)
        return found

    # --- they are not

    def _in_any_order(self) -> Proof:
        """As sets of trajectories, each of which may be there more than once."""
        order = "the order of trajectories is another one"
        every = self._beside(self._of_view())
        rest = [name for name in every if name not in (*OF_ALL, "steps")]
        mine = self._of_view(rest)
        theirs = digest_of_source(self.source, self.path, fields=self.kept or None, each=rest)
        if sorted(mine.trajectories) != sorted(theirs.trajectories):
            raise _wrong(self.path, [*self.kept, *rest], "taken together, in any order")
        of_all = [name for name in OF_ALL if name in every]
        compare(mine, theirs, [], of_all, self.path)
        self.not_proved |= dict.fromkeys(self.changed, order)
        return Proof(self.kept, rest + of_all, {}, self.not_proved)

    def _flat(self, *, ordered: bool) -> Proof:
        """Step by step, wherever trajectories begin and end."""
        assert isinstance(self.source, Source)
        why = f"trajectories: {self.beside['trajectories'].how or 'they are others'}"
        if not ordered or not self.kept:
            return self._nothing(why)
        fields = {name: self.view.schema.fields[name] for name in self.kept}
        options = replace(self.options, fields=tuple(self.kept))
        try:
            mine = flat_digests(blocks_of(self.view, options, BLOCK_BYTES), fields)
            theirs = flat_digests(self.source.blocks(BLOCK_BYTES), fields)
        except InTurnError:
            return self._nothing("trajectories of it come in turn")
        if mine != theirs:
            wrong = [name for name in self.kept if mine[0][name] != theirs[0][name]]
            raise _wrong(self.path, wrong, f"{mine[1]} steps, and {theirs[1]} of the file")
        self.not_proved |= dict.fromkeys(self.changed, why) | {"what is beside the steps": why}
        return Proof(self.kept, [], {}, self.not_proved)
