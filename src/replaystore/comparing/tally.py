"""What is digested of a buffer, whatever it is read from: steps of trajectories come as they lie, and
trajectories are counted in the order that they are given.

The README has the definition. In short: a run of rows of a field is the SHA-256 of a header and of its
leaves; a field, of its runs in all trajectories; what is known of trajectories beside steps is an array with
a row for each of them.

Invariants:
1. Of a trajectory that is complete 32 bytes are kept, and what waits for one before it.
2. Nothing that is digested depends on where rows lie, nor on how they were cut.
3. A trajectory whose few steps came at once stays a `Piece` until it is complete, or the turn ends in which
   they are in memory: many such are digested together, field by field, without runs of their own.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from replaystore.comparing.leaves import SMALL, Crew, Run, bytes_of
from replaystore.schema.field import Field
from replaystore.schema.ragged import Ragged

__all__ = ["EVENTS", "Kind", "Story", "Tally", "Window", "hash_of_json", "one_row", "texts"]

BESIDE = {
    "seed": Field("int64", (), "extra"),
    "env": Field("int64", (), "extra"),
    "split": Field.of_text("extra"),
    "terminated": Field("bool", (), "extra"),
    "truncated": Field("bool", (), "extra"),
    "open": Field("bool", (), "extra"),
}
"""What is known of each trajectory beside its steps, and what its values are."""
EVENTS = ("final_observation", "terminated", "truncated")
"""What of that is part of a trajectory's own digest: what happened, and not what it was called."""
THINGS = frozenset({*BESIDE, "final_observation", "steps", "metadata", "environment", "order", "ring"})
"""Names that a column of the user's has with "column " before it."""
STORIES = 2048
"""Trajectories that are complete and not counted: each takes a few hundred bytes a field."""
SEEN = b"rest/final_observation\0"
NOTHING_SEEN = bytes(32)
"""Stands for what followed a trajectory's steps where nobody knows."""


class Kind:
    """How rows of a field are digested."""

    def __init__(self, name: str, declared: Field) -> None:
        self.name, self.declared = name, declared
        self.ragged = declared.ragged
        inner = declared.inner if declared.ragged else declared.shape
        self.width = declared.dtype.itemsize * int(np.prod(inner, dtype=np.int64))
        self._dtype = "text" if declared.text else declared.dtype.name
        self._shape = json.dumps(list(declared.shape), separators=(",", ":"))
        self.head = f'{{"dtype":"{self._dtype}","shape":{self._shape}}}'.encode()
        self._before, self._after = f'{{"dtype":"{self._dtype}","rows":', f',"shape":{self._shape}}}'

    def runs(self) -> tuple[Run, ...]:
        """For rows of a trajectory: of any length their lengths, and their values; else the rows."""
        return (Run(8), Run(self.width)) if self.ragged else (Run(self.width),)

    def digest(self, runs: tuple[Run, ...], rows: int) -> bytes:
        """Of rows that are complete."""
        found = hashlib.sha256(self._header(rows))
        for run in runs:
            found.update(run.leaves())
        return found.digest()

    def _header(self, rows: int) -> bytes:
        return f"{self._before}{rows}{self._after}".encode()

    def of_pieces(self, pieces: Iterable[Piece], place: int = 0) -> list[bytes]:
        """Of each of these rows alone, which are small: their bytes are one leaf. `place`: of this field's
        windows."""
        sha256, width, headers, found = hashlib.sha256, self.width, dict[int, bytes](), list[bytes]()
        for windows, start, stop in pieces:
            window = windows[place]
            header = headers.get(stop - start)
            if header is None:
                header = headers[stop - start] = self._header(stop - start)
            if window.offsets is None:
                leaves = sha256(window.bytes[start * width : stop * width]).digest()
            else:
                leaves = sha256(window.lengths[start * 8 : stop * 8]).digest()
                begin, end = window.offsets[start], window.offsets[stop]
                leaves += sha256(window.bytes[begin * width : end * width]).digest() if end > begin else b""
            found.append(sha256(header + leaves).digest())
        return found

    def of_each(self, rows: Any, crew: Crew) -> list[bytes]:
        """Of each of these rows alone."""
        window, found = Window(self, rows), list[bytes]()
        if window.small(0, len(rows)):
            return self.of_pieces([Piece((window,), row, row + 1) for row in range(len(rows))])
        for row in range(len(rows)):
            runs = self.runs()
            window.add(runs, crew, row, row + 1)
            found.append(self.digest(runs, 1))
        return found


class Window:
    """Rows of a field that are in memory."""

    __slots__ = ("_kind", "_rows", "bytes", "lengths", "offsets")

    def __init__(self, kind: Kind, rows: Any) -> None:
        self._kind, self._rows = kind, rows
        self.offsets: NDArray[np.int64] | None = None
        """Of any length: where the values of each row begin."""
        if kind.ragged:
            rows = rows.to_numpy()
            self._rows = rows
            self.offsets = rows.offsets - rows.offsets[0]
            self.lengths = bytes_of(np.asarray(rows.lengths, np.int64))
            self.bytes = bytes_of(rows.named)
        else:
            self.bytes = bytes_of(rows)

    def add(self, runs: tuple[Run, ...], crew: Crew, start: int, stop: int) -> None:
        """These rows, to the runs of a trajectory."""
        width = self._kind.width
        if self.offsets is not None:
            begin, end = self.offsets[start], self.offsets[stop]
            runs[0].add(self.lengths[start * 8 : stop * 8], crew)
            runs[1].add(self.bytes[begin * width : end * width], crew)
        else:
            runs[0].add(self.bytes[start * width : stop * width], crew)

    def small(self, start: int, stop: int) -> bool:
        """Whether these rows are hashed as soon as handed to a thread."""
        width = self._kind.width
        if self.offsets is None:
            return (stop - start) * width <= SMALL
        values = int(self.offsets[stop] - self.offsets[start])
        return (stop - start) * 8 <= SMALL and values * width <= SMALL

    def every(self, start: int, stop: int, stride: int) -> Window:
        """Rows start, start + stride, … before `stop` alone."""
        return Window(self._kind, self._rows[start:stop:stride])


class Piece(NamedTuple):
    """Rows of all fields, one behind another."""

    windows: Sequence[Window]
    start: int
    stop: int


class Story:
    """A trajectory, or the rows of none, whose steps come one after another."""

    __slots__ = ("_followed", "labels", "piece", "runs", "steps")

    def __init__(self) -> None:
        self.runs: list[tuple[Run, ...]] = []
        """By field; none before there is more than a piece."""
        self.piece: Piece | None = None
        """All of its steps so far, where they are few and came at once."""
        self.steps = 0
        self.labels: dict[str, bytes] = {}
        """What belongs to its own digest of that which is beside steps: the bytes of its value."""
        self._followed: Any = None

    def follow(self, digests: Collection[bytes]) -> None:
        """After the last step so far this was seen, and it is not the next one's observation: the digests of
        its fields, in the order of their names."""
        if self._followed is None:
            self._followed = hashlib.sha256()
        self._followed.update((self.steps - 1).to_bytes(8, "little") + b"".join(digests))

    @property
    def followed(self) -> bytes:
        """What was seen so, as 32 bytes."""
        return NOTHING_SEEN if self._followed is None else self._followed.digest()


class Tally:
    """Trajectories, in the order in which they are counted."""

    def __init__(
        self,
        fields: Mapping[str, Field],
        columns: Mapping[str, Field],
        crew: Crew,
        *,
        each: Collection[str] | None = None,
    ) -> None:
        """`columns`: of the table of trajectories, beside what every buffer has. `each`: what is part of each
        trajectory's own digest beside its fields; None: `EVENTS`."""
        self.crew = crew
        self.kinds = [Kind(name, fields[name]) for name in sorted(fields)]
        self.observations = [kind for kind in self.kinds if kind.declared.role == "observation"]
        self.each = sorted(EVENTS if each is None else each)
        self.digests = bytearray()
        """Of each trajectory, 32 bytes."""
        self.steps = 0
        self._columns = {name: f"column {name}" if name in THINGS else name for name in columns}
        known = {**BESIDE, **{self._columns[name]: declared for name, declared in columns.items()}}
        self._beside = {name: Kind(name, declared) for name, declared in known.items()}
        self._beside_runs = {name: kind.runs() for name, kind in self._beside.items()}
        self._seen = Kind("final_observation", Field("uint8", (32,), "extra"))
        self._seen_run = self._seen.runs()
        self._fields = [hashlib.sha256(kind.head) for kind in self.kinds]
        self._names = [f"fields/{kind.name}".encode() + b"\0" for kind in self.kinds]
        self._any = [place for place, kind in enumerate(self.kinds) if kind.ragged]
        self._few = SMALL // max([1, *(kind.width for kind in self.kinds if not kind.ragged)])
        """Steps of no more than SMALL bytes in each field that is not of any length."""
        self._pieces: list[Story] = []
        """Those that have a piece that is in memory."""
        self._complete: list[tuple[int, Story]] = []
        self._waiting: dict[int, tuple[list[bytes], Story]] = {}
        self._next = 0

    def story(self) -> Story:
        """A trajectory that begins."""
        return Story()

    def windows(self, columns: Mapping[str, Any]) -> list[Window]:
        """Rows of all fields that are in memory."""
        return [Window(kind, columns[kind.name]) for kind in self.kinds]

    def add(self, story: Story, windows: list[Window], start: int, stop: int, stride: int = 1) -> None:
        """Rows start, start + stride, … before `stop` are its next steps."""
        if stride > 1:
            windows = [window.every(start, stop, stride) for window in windows]
            start, stop = 0, -(-(stop - start) // stride)
        first, story.steps = not story.steps, story.steps + stop - start
        if first and self._small(windows, start, stop):
            story.piece = Piece(windows, start, stop)
            self._pieces.append(story)
            return
        for runs, window in zip(self._runs(story), windows, strict=True):
            window.add(runs, self.crew, start, stop)

    def _small(self, windows: list[Window], start: int, stop: int) -> bool:
        """Whether so few rows are a piece."""
        return 0 < stop - start <= self._few and all(windows[at].small(start, stop) for at in self._any)

    def _runs(self, story: Story) -> list[tuple[Run, ...]]:
        """The runs of a trajectory, with all of its steps."""
        if not story.runs:
            story.runs = [kind.runs() for kind in self.kinds]
        if story.piece is not None:
            windows, start, stop = story.piece
            story.piece = None
            for runs, window in zip(story.runs, windows, strict=True):
                window.add(runs, self.crew, start, stop)
        return story.runs

    def digests_of(self, story: Story) -> list[bytes]:
        """Of the steps of one that is complete, by field."""
        runs = zip(self.kinds, self._runs(story), strict=True)
        return [kind.digest(run, story.steps) for kind, run in runs]

    def seen(self, observations: Mapping[str, Any]) -> list[tuple[bytes, ...]]:
        """The digests of observations that follow steps: rows by field."""
        of_fields = [kind.of_each(observations[kind.name], self.crew) for kind in self.observations]
        return list(zip(*of_fields, strict=True))

    def close(self, story: Story, position: int) -> None:
        """It is complete, and has this place among all."""
        self._complete.append((position, story))
        if len(self._complete) >= STORIES:
            self._count()

    def turn(self) -> None:
        """What was added before the last turn is not in memory any more; what was complete then is
        counted."""
        self.crew.turn()
        self._count()
        for story in self._pieces:
            self._runs(story)
        self._pieces = []

    def _count(self) -> None:
        alone = [(position, story) for position, story in self._complete if story.piece is not None]
        pieces = [story.piece for _, story in alone if story.piece is not None]
        of_fields = [kind.of_pieces(pieces, place) for place, kind in enumerate(self.kinds)]
        for (position, story), *made in zip(alone, *of_fields, strict=True):
            story.piece = None
            self._waiting[position] = made, story
        for position, story in self._complete:
            if story.runs:
                self._waiting[position] = self.digests_of(story), story
                story.runs = []
        self._complete = []
        self._pieces = [story for story in self._pieces if story.piece is not None]
        ready = list[tuple[list[bytes], Story]]()
        while self._next in self._waiting:
            ready.append(self._waiting.pop(self._next))
            self._next += 1
        self._take(ready)

    def _take(self, ready: list[tuple[list[bytes], Story]]) -> None:
        """The next trajectories."""
        for thing, digests in zip(self._fields, zip(*(made for made, _ in ready), strict=True), strict=False):
            thing.update(b"".join(digests))
        self._seen_run[0].add(memoryview(b"".join([story.followed for _, story in ready])), self.crew)
        cells = [b""] * (2 * len(self._names))
        cells[::2] = self._names
        for made, story in ready:
            cells[1::2] = made
            rest = [
                SEEN + story.followed if name == "final_observation" else _part(name, story.labels[name])
                for name in self.each
            ]
            self.digests += _hash(b"".join(cells + rest))
            self.steps += story.steps

    def label(self, name: str, values: Any) -> None:
        """What is known of the next trajectories, beside their steps: a column of the table."""
        name = self._columns.get(name, name)
        Window(self._beside[name], values).add(self._beside_runs[name], self.crew, 0, len(values))

    def named(self, labels: Mapping[str, bytes]) -> dict[str, bytes]:
        """Of what is known of a trajectory, by column, that which is part of its own digest."""
        told = {self._columns.get(name, name): value for name, value in labels.items()}
        return {name: told[name] for name in self.each if name in told}

    def finish(self, loose: Story | None) -> tuple[dict[str, str], dict[str, str]]:
        """The digests of all fields, and of all else that is told of trajectories. `loose`: the rows of no
        trajectory, if they count."""
        self.crew.turn()
        self.crew.turn()
        self._count()
        assert not self._waiting, "a trajectory is missing"
        count = self._next
        rest = {name: kind.digest(self._beside_runs[name], count) for name, kind in self._beside.items()}
        if self.observations:
            rest["final_observation"] = self._seen.digest(self._seen_run, count)
        if loose is not None:
            made = self.digests_of(loose)
            rest["steps"] = _hash(
                b"".join(name + digest for name, digest in zip(self._names, made, strict=True))
            )
            self.steps += loose.steps
        fields = {kind.name: thing.hexdigest() for kind, thing in zip(self.kinds, self._fields, strict=True)}
        return fields, {name: digest.hex() for name, digest in rest.items()}


def _hash(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


@lru_cache(maxsize=1024)
def _part(name: str, value: bytes) -> bytes:
    """What is known of a trajectory beside its steps, in its own digest. Most of it is the same of many."""
    return f"rest/{name}".encode() + b"\0" + _hash(value)


def hash_of_json(value: Any) -> str:
    """Of what is JSON: keys sorted, no spaces, UTF-8."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def texts(values: Collection[str]) -> Ragged:
    """Texts, as rows."""
    return Ragged.of(values, text=True)


def one_row(declared: Field, value: Any) -> Any:
    """A value as the only row of its field; of a text a str, or its bytes."""
    if not declared.ragged:
        return np.asarray(value, declared.dtype)[None]
    if isinstance(value, str):
        value = np.frombuffer(value.encode(), np.uint8)
    values = np.asarray(value, declared.dtype).reshape(-1, *declared.inner)
    return Ragged(values, np.array([0, len(values)]), text=declared.text)
