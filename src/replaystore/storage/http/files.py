"""The files below an address of a server, read by ranges.

1. Nothing is kept of a file but what was announced (`fetch_ahead`), until it is read: a read shows what the
   server has then. Files that grow are so seen to grow.
2. Of a file that is pinned (`pin`), every answer is compared with the first one: ConflictError, once another
   file has its name.
3. A thread that must not wait for others (alone.py) makes its requests itself.
4. One read that takes several requests ends where the file ended for the first of them that reached its end.
"""

from __future__ import annotations

import builtins
import os
import threading
from collections.abc import Hashable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

from replaystore import urls
from replaystore.errors import ConflictError, CorruptError, UnsupportedError
from replaystore.forks import renew_in_children
from replaystore.storage.alone import is_alone
from replaystore.storage.http.asking import MANNERS, PATIENCE, Answer, Manners, Patience, Wanted, ask
from replaystore.storage.http.connections import in_background
from replaystore.storage.http.joining import PART, Place, Span, plan
from replaystore.storage.protocol import Reads

__all__ = ["HttpFiles"]

MOST_AHEAD = 256 << 20
"""Bytes of announced ranges that are kept; what is announced beyond that is asked for when it is read."""
_NO_NAMES = frozenset(("", ".", ".."))


@dataclass
class _Request:
    """A range that is on its way, or here."""

    span: Span
    answer: Future[Answer]
    readers: int = 0
    """Places that it brings bytes of, and that are not read yet."""


@dataclass
class _Piece:
    """A place whose bytes are on their way: in these requests, in order."""

    place: Place
    requests: list[_Request] = field(default_factory=list)

    def has_failed(self) -> bool:
        """Whether an error is all that there will be."""
        done = [request.answer for request in self.requests if request.answer.done()]
        return any(answer.cancelled() or answer.exception() is not None for answer in done)


class HttpFiles(Reads):
    """The files below an address. `entrance`: the one that the whole store is, whose address is kept as it
    was given."""

    far, lists = True, False

    def __init__(
        self, url: str, *, entrance: str = "", patience: Patience = PATIENCE, manners: Manners = MANNERS
    ) -> None:
        self._folder = urls.folder_of(url) if entrance else url
        self._exactly = {entrance: url}
        self.entrance = entrance
        self._patience, self._manners = patience, manners
        self._ahead: dict[Place, _Piece] = {}
        self._held = 0
        self._versions: dict[str, tuple[int, str] | None] = {}
        """Of pinned files; None: not known yet."""
        self._process = os.getpid()
        self._lock = threading.RLock()
        renew_in_children(self, "_lock")

    def __str__(self) -> str:
        return self.path(self.entrance)

    def path(self, name: str) -> str:
        try:
            return self._manners.shown(self._url(name))
        except CorruptError:
            return f"{self._manners.shown(self._folder)}: {name!r:.200}"

    def _url(self, name: str) -> str:
        known = self._exactly.get(name)
        if known is not None:
            return known
        if name and (_NO_NAMES & set(name.split("/")) or "\0" in name):
            raise CorruptError(
                f"{self._manners.shown(self._folder)}: the name {name!r:.200} leads out of the store; "
                "do not trust it"
            )
        return urls.below(self._folder, name)

    # --- reading

    def read(self, name: str, offset: int = 0, length: int | None = None) -> bytes:
        return self._gathered([(name, offset, length)])[0]

    def read_ranges(self, name: str, ranges: Sequence[tuple[int, int]]) -> builtins.list[bytes]:
        return self._gathered([(name, offset, length) for offset, length in ranges])

    def fetch_ahead(self, places: Iterable[Place]) -> None:
        with self._lock:
            self._check_process()
            wanted: list[Place] = []
            places = dict.fromkeys(places)
            known = [self._ahead[place] for place in places if place in self._ahead]
            self._let_go([piece.place for piece in known if piece.has_failed()])  # of an error that was told
            room = MOST_AHEAD - self._held
            for place in places:
                length = PART if place[2] is None else place[2]
                if place not in self._ahead and 0 < length <= room:
                    wanted.append(place)
                    room -= length
            for piece in self._started(wanted):
                self._ahead[piece.place] = piece

    def size(self, name: str) -> int:
        return self._answer(name, Wanted(size_only=True)).size

    def status(self, name: str) -> tuple[int, Hashable]:
        found = self._answer(name, Wanted(size_only=True))
        return found.size, found.version

    def exists(self, name: str) -> bool:
        try:
            self.size(name)
        except FileNotFoundError:
            return False
        return True

    def read_end(self, name: str, length: int) -> tuple[bytes, int]:
        found = self._answer(name, Wanted(last=length))
        return found.data, found.size

    def list(self, folder: str = "") -> builtins.list[str]:
        raise UnsupportedError(
            f"{self.path(folder)}: what is there cannot be listed: copy the store to a local disk"
        )

    def walk(self) -> Iterator[str]:
        raise UnsupportedError(
            f"{self.path('')}: what is there cannot be listed: copy the store to a local disk"
        )

    # --- what is kept

    def pin(self, name: str) -> None:
        with self._lock:
            self._versions.setdefault(name, None)

    def forget(self, name: str) -> None:
        with self._lock:
            self._let_go([place for place in self._ahead if place[0] == name])
            self._versions.pop(name, None)

    def close(self) -> None:
        with self._lock:
            self._let_go(builtins.list(self._ahead))
            self._versions.clear()

    def _let_go(self, places: Iterable[Place]) -> None:
        self._check_process()
        for place in places:
            piece = self._ahead.pop(place, None)
            if piece is not None:
                self._done(piece)

    def _check_process(self) -> None:
        """In a forked child: what was on its way is the parent's."""
        if self._process != os.getpid():
            self._ahead, self._held, self._process = {}, 0, os.getpid()

    # --- requests

    def _answer(self, name: str, wanted: Wanted) -> Answer:
        found = ask(self._url(name), wanted, self._patience, self._manners)
        if name in self._versions:
            self._check_version(name, found)
        return found

    def _check_version(self, name: str, found: Answer) -> None:
        version = (found.size, found.version)
        with self._lock:
            known = self._versions.get(name)
            if name in self._versions and known is None:
                self._versions[name] = version
        if known is not None and known != version:
            raise ConflictError(f"{self.path(name)} is another file than before; open it again")

    def _started(self, places: Sequence[Place], *, here: bool = False) -> builtins.list[_Piece]:
        """Have the requests for these places made side by side. `here`: a single one is made by this thread,
        and all of them if it must not wait for others."""
        spans, brought = plan(places)
        requests = []
        for span in spans:
            wanted = Wanted(span.begin, span.stop)
            answer: Future[Answer]
            if here and (len(spans) == 1 or is_alone()):
                answer = Future()
                answer.set_result(self._answer(span.name, wanted))
            else:
                answer = in_background(self._answer, span.name, wanted)
            requests.append(_Request(span, answer))
        pieces = [
            _Piece(place, [requests[number] for number in numbers])
            for place, numbers in zip(places, brought, strict=True)
        ]
        with self._lock:
            for piece in pieces:
                for request in piece.requests:
                    request.readers += 1
            self._held += sum(request.span.stop - request.span.begin for request in requests)
        return pieces

    def _done(self, piece: _Piece) -> None:
        """Let go of what no other piece needs; the lock is held."""
        for request in piece.requests:
            request.readers -= 1
            if not request.readers:
                request.answer.cancel()
                self._held -= request.span.stop - request.span.begin
        piece.requests = []

    def _announced(self, place: Place) -> _Piece | None:
        """What was announced, unless this thread must not wait for it; the lock is held."""
        piece = self._ahead.pop(place, None)
        if piece is None or not is_alone() or all(request.answer.done() for request in piece.requests):
            return piece
        self._done(piece)
        return None

    def _gathered(self, places: Sequence[Place]) -> builtins.list[bytes]:
        with self._lock:
            self._check_process()
            known = [self._announced(place) for place in places]
        pieces = [piece for piece in known if piece is not None]
        try:
            missing = [place for place, piece in zip(places, known, strict=True) if piece is None]
            started = self._started(missing, here=True)
            pieces += started
            rest = iter(started)
            return [self._bytes(piece or next(rest)) for piece in known]
        finally:
            with self._lock:
                for piece in pieces:
                    self._done(piece)

    def _bytes(self, piece: _Piece) -> bytes:
        """The bytes of a place, once they are here."""
        name, offset, length = piece.place
        found: builtins.list[bytes | memoryview] = []
        at, size = offset, 0
        for request in piece.requests:
            answer = request.answer.result()
            size, stop = answer.size, request.span.stop
            if length is not None:
                stop = min(stop, offset + length)
            part = memoryview(answer.data)[at - answer.begin : max(0, stop - answer.begin)]
            if len(piece.requests) == 1 and len(part) == len(answer.data):
                found.append(answer.data)
            else:
                found.append(part)
            at += len(part)
            if at < stop:
                break
        else:
            if length is None and size > at:
                found.append(self._gathered([(name, at, size - at)])[0])
        return found[0] if len(found) == 1 and isinstance(found[0], bytes) else b"".join(found)
