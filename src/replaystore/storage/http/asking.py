"""One range of one file, asked of a server: every answer is compared with the question before it is believed.

1. Accepted is: 206 with just the range that was asked for, or what the file has of it; 200 where the whole
   file was wanted; 416 beyond the end. Everything else is asked for once more (`Patience`), or is one
   error; so is a page of HTML, which some servers have for what is not there.
2. What is promised: a server that breaks off, gives fewer or more bytes than it says, another range, another
   coding, or an error gives a retry or an error. A server that says a file is shorter than it is, or is not
   there, is believed; whoever knows better compares. Bytes that are changed on the way, in an answer that is
   sound otherwise, are found by the checksums of the store: raw rows have none that reading looks at.
"""

from __future__ import annotations

import contextlib
import email.utils
import functools
import http.client
import netrc
import random
import re
import ssl
import time
from dataclasses import dataclass, replace

import urllib3
from urllib3 import exceptions

from replaystore import urls
from replaystore.errors import ReplayStoreError, StorageError
from replaystore.storage.http import connections

__all__ = [
    "AGENT",
    "MANNERS",
    "PATIENCE",
    "Again",
    "Answer",
    "Manners",
    "Patience",
    "Wanted",
    "ask",
    "login_of",
    "retry_after",
    "why",
    "words",
]

_RANGE = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18})")
_BEYOND = re.compile(r"bytes \*/(\d{1,18})")
_NO_TLS = re.compile("(?i)wrong.version.number|record.layer.failure|unknown.protocol")
AGENT = "replaystore"
FEW = 1 << 14
"""Bytes of an answer that is no part of a file, which are read so that the connection can be used again."""


@dataclass(frozen=True)
class Patience:
    """How long a server is tried, in seconds."""

    tries: int = 6
    pause: float = 0.1
    """Before the third try; it doubles. The second try follows at once: a kept connection may be stale."""
    longest: float = 5.0
    """Of a pause, also where the server asks for more."""
    connect: float = 10.0
    stall: float = 20.0
    """In which nothing comes."""
    whole: float = 90.0
    """For a range with all tries, and for each megabyte more of it."""

    def pause_before(self, number: int, wanted: float) -> float:
        """Before try `number`, of which the server wants to have one."""
        own = 0.0 if number < 2 else self.pause * 2 ** (number - 2) * random.uniform(0.7, 1.3)  # noqa: S311
        return min(self.longest, max(own, wanted))


PATIENCE = Patience()


@dataclass(frozen=True)
class Wanted:
    """Bytes [begin, stop) of a file; or its last ones, if `last` is given."""

    begin: int = 0
    stop: int = 1
    last: int | None = None
    size_only: bool = False
    """What the answer says of the file is enough."""

    @property
    def header(self) -> str:
        return f"bytes=-{self.last}" if self.last is not None else f"bytes={self.begin}-{self.stop - 1}"

    @property
    def length(self) -> int:
        return self.stop - self.begin if self.last is None else self.last

    def within(self, size: int) -> tuple[int, int]:
        """The first byte, and the one behind the last, of a file of this size."""
        if self.last is not None:
            return max(0, size - self.last), size
        return self.begin, min(self.stop, size)


@dataclass(frozen=True)
class Answer:
    """Bytes of a file from `begin` on; fewer than wanted where it ends."""

    data: bytes
    begin: int
    size: int
    """Of the whole file."""
    version: str
    """Another one after another file has taken the name; empty: the server does not say."""


class Manners:
    """How a kind of server is spoken to: any that has files, by default."""

    advice = "check the address, whose link may have run out, or put a user name and a password into ~/.netrc"
    """Where the server refuses to answer."""

    def shown(self, url: str) -> str:
        """What messages call what has this address."""
        return urls.shown(url)

    def headers(self, url: str) -> dict[str, str]:
        """Who is asking. StorageError, ArgumentError: that cannot be said."""
        known = login_of(urls.host_of(url))
        return {"Authorization": known} if known else {}

    def refused(self, status: int, body: bytes) -> Exception | None:
        """The error that an answer tells of; None: its status tells all."""
        return None


MANNERS = Manners()


class Again(Exception):  # noqa: N818  # it is no error yet
    """It is worth another try; `after` so many seconds, if the server says so."""

    def __init__(self, reason: str, after: float = 0.0, *, advice: str = "") -> None:
        super().__init__(reason)
        self.after, self.advice = after, advice


class _NoEnd(Again):
    """Some servers (lighttpd) do not say where the end is that they speak of; another request does."""


def ask(url: str, wanted: Wanted, patience: Patience = PATIENCE, manners: Manners = MANNERS) -> Answer:
    """Ask for a range. FileNotFoundError: there is no such file; StorageError: what is wrong with the server,
    and what to do."""
    question = _Question(url, wanted, patience, manners)
    until = time.monotonic() + patience.whole * (1 + (wanted.length >> 20))
    problem, tried = Again("it takes too long"), 0
    while tried < patience.tries:
        pause = patience.pause_before(tried, problem.after)
        if time.monotonic() + pause > until:
            break
        time.sleep(pause)
        tried += 1
        try:
            try:
                return _once(question, until)
            except _NoEnd as error:
                return _beyond(error, wanted, _once(replace(question, wanted=Wanted()), until))
        except Again as error:
            problem = error
    advice = problem.advice or "try again later, or copy the store to a local disk"
    raise StorageError(f"{question.called} cannot be read: {problem} ({tried} tries): {advice}")


@dataclass(frozen=True)
class _Question:
    url: str
    wanted: Wanted
    patience: Patience
    manners: Manners

    @property
    def called(self) -> str:
        return self.manners.shown(self.url)


def _beyond(error: _NoEnd, wanted: Wanted, known: Answer) -> Answer:
    """Nothing, of a file that is known to end before."""
    if known.size > wanted.begin:
        raise error
    return Answer(b"", wanted.begin, known.size, known.version)


def _once(question: _Question, until: float) -> Answer:
    url, patience = question.url, question.patience
    headers = {
        "Range": question.wanted.header,
        "Accept-Encoding": "identity",
        "User-Agent": AGENT,
        **question.manners.headers(url),
    }
    response = None
    try:
        response = connections.send(url, headers, connect=patience.connect, stall=patience.stall, until=until)
        return _understood(question, response)
    except (exceptions.HTTPError, http.client.HTTPException, OSError, ValueError) as error:
        if isinstance(error, ReplayStoreError | FileNotFoundError):
            raise
        raise why(url, f"{question.called} cannot be read", error) from error
    finally:
        if response is not None:
            _leave(response)


def words(response: urllib3.BaseHTTPResponse) -> bytes:
    """The few words of an error, after which the connection can be used again; of more, nothing."""
    if response.headers.get("Content-Length", "").isdecimal() and response.status >= 400:
        with contextlib.suppress(exceptions.HTTPError, http.client.HTTPException, OSError, ValueError):
            if int(response.headers["Content-Length"]) <= FEW:
                return response.read(FEW, decode_content=False)
    return b""


def _leave(response: urllib3.BaseHTTPResponse) -> None:
    """Give the connection back, if no more comes than the few words of an error."""
    words(response)
    response.close()  # which closes no connection that was read to its end
    response.release_conn()  # a closed one, too, has its place among those that there may be


def _understood(question: _Question, response: urllib3.BaseHTTPResponse) -> Answer:
    status, wanted = response.status, question.wanted
    if status in (404, 410):
        raise FileNotFoundError(2, "No such file", question.called)
    if status in (206, 200):
        _check_coding(question, response)
        _check_no_page(question, response)
        return _part(wanted, response) if status == 206 else _whole(wanted, response)
    if status == 416:
        found = _BEYOND.fullmatch(response.headers.get("Content-Range", ""))
        if found is None and wanted.begin:
            raise _NoEnd("the server says that bytes lie beyond its end, and not where that is")
        if found is None or wanted.within(int(found[1]))[0] < int(found[1]):
            raise Again("the server says that bytes lie beyond its end, and not where that is")
        return Answer(b"", wanted.within(int(found[1]))[0], int(found[1]), _version(response))
    if status in (401, 403):
        raise StorageError(
            f"{question.called} cannot be read: the server refuses it ({status}): {question.manners.advice}"
        )
    reason = f"the server answers {status} {http.client.responses.get(status, '')}".rstrip()
    if status in (408, 421, 425, 429) or status >= 500:
        told = question.manners.refused(status, words(response))
        if told is not None:
            raise told
        raise Again(reason, retry_after(response.headers.get("Retry-After", "")))
    raise StorageError(f"{question.called} cannot be read: {reason}: check the address")


def _part(wanted: Wanted, response: urllib3.BaseHTTPResponse) -> Answer:
    given = response.headers.get("Content-Range", "")
    found = _RANGE.fullmatch(given)
    if found is None:
        raise Again(f"the server does not say which part of the file it sends ({given!r:.80})")
    first, last, size = map(int, found.groups())
    begin, stop = wanted.within(size)
    if not agrees((first, last + 1), (begin, stop)):
        raise Again(f"the server sends {given!r:.80} where {wanted.header!r} was asked for")
    return Answer(_body(response, stop - begin), begin, size, _version(response))


def agrees(said: tuple[int, int], right: tuple[int, int]) -> bool:
    """Whether the server says that it sends what was asked for."""
    return said == right


def _whole(wanted: Wanted, response: urllib3.BaseHTTPResponse) -> Answer:
    """The server sends all of the file, which it may if that is what was wanted."""
    length = response.headers.get("Content-Length", "")
    size = int(length) if re.fullmatch(r"\d{1,18}", length) else -1
    if size >= 0 and wanted.size_only:
        return Answer(b"", 0, size, _version(response))
    if size < 0 or wanted.within(size) != (0, size):
        raise Again(
            "the server sends whole files where a part is asked for",
            advice="serve the store with a server that knows ranges, such as nginx, Caddy or Apache "
            "(Python's http.server does not), or copy it to a local disk",
        )
    return Answer(_body(response, size), 0, size, _version(response))


def _body(response: urllib3.BaseHTTPResponse, length: int) -> bytes:
    """The body, if it has this length."""
    said = response.headers.get("Content-Length")
    if said is not None and said != str(length):
        raise Again(f"the server says that it sends {said:.40} bytes of {length}")
    data = response.read(length + 1, decode_content=False)
    if len(data) != length:
        raise Again(f"the server sent {len(data)} bytes of {length}")
    return data


def _check_coding(question: _Question, response: urllib3.BaseHTTPResponse) -> None:
    coding = response.headers.get("Content-Encoding", "identity").strip().lower()
    if coding not in ("identity", ""):
        raise StorageError(
            f"{question.called} cannot be read: the server sends it coded ({coding:.40}), unasked: "
            "turn compression off there, or copy the store to a local disk"
        )


def _check_no_page(question: _Question, response: urllib3.BaseHTTPResponse) -> None:
    """Some servers have a page for whatever is not there, whose bytes are nobody's rows."""
    if response.headers.get("Content-Type", "").partition(";")[0].strip().lower() == "text/html":
        raise StorageError(
            f"{question.called} cannot be read: the server sends a web page (text/html) and no file: check "
            "the address, and that the server answers 404 for what is not there"
        )


def _version(response: urllib3.BaseHTTPResponse) -> str:
    return response.headers.get("ETag") or response.headers.get("Last-Modified") or ""


def why(url: str, failed: str, error: Exception) -> Exception:
    """What went wrong on the way: worth another try (`Again`), or an error, which begins with `failed`."""
    reason = error.reason if isinstance(error, exceptions.MaxRetryError) and error.reason else error
    if isinstance(reason, exceptions.ResponseError):
        return StorageError(f"{failed}: the server sends from address to address: check the address")
    if isinstance(reason, exceptions.LocationParseError | exceptions.URLSchemeUnknown):
        return StorageError(f"{failed}: {reason}: check the address")
    if isinstance(reason, exceptions.SSLError) and "CERTIFICATE" in str(reason).upper():
        return StorageError(
            f"{failed}: the certificate of {urls.host_of(url)} is not one to trust "
            f"({_innermost(reason)}): check the address"
        )
    if isinstance(reason, exceptions.SSLError) and _NO_TLS.search(str(reason)):
        return StorageError(
            f"{failed}: the server does not speak https there "
            f"({_innermost(reason)}): check the address, which may have to begin with http://"
        )
    if isinstance(reason, exceptions.NameResolutionError):
        return Again(f"there is no server {urls.host_of(url)}", advice="check the address")
    if isinstance(reason, exceptions.NewConnectionError):
        return Again(
            f"{urls.host_of(url)} cannot be reached ({_innermost(reason)})", advice="check the address"
        )
    if isinstance(reason, exceptions.TimeoutError | TimeoutError | exceptions.EmptyPoolError):
        return Again("the server does not answer in time")
    return Again(f"the connection broke off ({_innermost(reason)})")


def _innermost(error: BaseException) -> str:
    """What the system said, without the objects that it went through."""
    while True:
        inner = error.__cause__ or error.__context__
        if inner is None or isinstance(error, ssl.SSLError):
            break
        error = inner
    said = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return f"{said or type(error).__name__:.120}"


def retry_after(said: str) -> float:
    """Seconds; 0: it does not say."""
    if re.fullmatch(r"\d{1,9}", said.strip()):
        return float(said)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(said).timestamp() - time.time())
    except (ValueError, TypeError, OverflowError):
        return 0.0


@functools.lru_cache(maxsize=64)
def login_of(host: str) -> str:
    """What ~/.netrc has for a server, as a header. StorageError: it cannot be understood."""
    try:
        found = netrc.netrc().authenticators(host)
    except FileNotFoundError:
        return ""
    except (OSError, netrc.NetrcParseError, UnicodeDecodeError) as error:
        raise StorageError(f"~/.netrc cannot be read ({error}): correct it, or remove it") from error
    if found is None:
        return ""
    return urllib3.make_headers(basic_auth=f"{found[0]}:{found[2] or ''}")["authorization"]
