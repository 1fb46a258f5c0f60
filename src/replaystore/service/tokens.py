"""Who may do what: tokens, of which the server knows the hashes alone.

1. A token has 256 random bits and is shown once, when it is made; kept is its SHA-256, in a file that its
   owner alone may read. Such a token needs no salt and no slow hash, since nobody guesses it.
2. A token is compared with all that there are, each in constant time (`hmac.compare_digest`), whatever is
   found: how long that takes says nothing.
3. What a token gives is said by its scopes, none of which contains another, and by the paths of stores that
   it is for (`*` within a folder, `**` across folders).
4. The file is replaced at once, and looked at whenever it is another one: `revoke` holds at once.
"""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import hashlib
import hmac
import json
import os
import re
import secrets
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from replaystore import credentials
from replaystore.errors import AlreadyExistsError, ArgumentError, FormatError, NotFoundError, StorageError

__all__ = ["SCOPES", "Grant", "Scope", "TokenFile", "Tokens"]

Scope = Literal["read", "sample", "append", "admin"]
SCOPES: tuple[Scope, ...] = get_args(Scope)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.@-]{0,63}")
_HASH = re.compile(r"[0-9a-f]{64}")
MOST_BYTES = 1 << 20
MOST_TOKENS = 1000


@dataclass(frozen=True)
class Grant:
    """What somebody who has a token may do."""

    name: str
    scopes: frozenset[Scope]
    path: str = "**"
    """Of the stores that it is for."""
    created: str = ""

    def reaches(self, store: str) -> bool:
        """Whether it is for a store, by its path below the root."""
        return _pattern(self.path).fullmatch(store) is not None

    def allows(self, scope: Scope, store: str | None = None) -> bool:
        """Whether it gives this; `store`: None for what is about no single store."""
        return scope in self.scopes and (store is None or self.reaches(store))


def _pattern(glob: str) -> re.Pattern[str]:
    known = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    parts = re.split(r"(\*\*/|\*\*|\*|\?)", glob)
    return re.compile("".join(known.get(part) or re.escape(part) for part in parts), re.DOTALL)


class Tokens:
    """The tokens that a server knows: what a file holds, and one of its user's."""

    def __init__(self, file: TokenFile | None = None, own: str | None = None) -> None:
        """`own`: a token that may do everything."""
        self._file = file
        self._own = {} if own is None else {_hash(own): Grant("owner", frozenset(SCOPES))}

    def find(self, token: str) -> Grant | None:
        """What a token gives; None: nothing. FormatError, StorageError: the file cannot be read."""
        given, found = _hash(token), None
        known = self._own if self._file is None else self._own | self._file.grants()
        for stored, grant in known.items():
            if hmac.compare_digest(given, stored):
                found = grant
        return found


class TokenFile:
    """The file of a server's tokens. One that is not there holds none."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._lock = threading.Lock()
        self._seen: object = None
        self._grants: dict[str, Grant] = {}

    def grants(self) -> dict[str, Grant]:
        """By the hash of each token."""
        with self._lock:
            try:
                known = os.stat(self.path)
                seen = known.st_ino, known.st_mtime_ns, known.st_size
                if seen != self._seen:
                    self._grants, self._seen = self._parsed(self.path.read_bytes()), seen
            except FileNotFoundError:
                self._grants, self._seen = {}, None
            except OSError as error:
                raise self._refused("read", error) from error
            return self._grants

    def add(self, name: str, scopes: Sequence[str], path: str = "**") -> str:
        """Make a token, which is shown this once. AlreadyExistsError: one has the name; ArgumentError."""
        if not _NAME.fullmatch(name):
            raise ArgumentError(
                f"{name!r:.80} is no name of a token: use letters, digits and _.@-, at most 64"
            )
        wanted = _checked_scopes(scopes)
        _check_path(path)
        token = credentials.new_token()
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")

        def change(grants: dict[str, Grant]) -> None:
            if any(grant.name == name for grant in grants.values()):
                raise AlreadyExistsError(
                    f"{self.path} has a token {name!r} already: revoke that, or choose another name"
                )
            if len(grants) >= MOST_TOKENS:
                raise ArgumentError(f"{self.path} has {MOST_TOKENS} tokens, which is the most: revoke some")
            grants[_hash(token)] = Grant(name, wanted, path, now)

        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise self._refused("written", error) from error
        self._change(change)
        return token

    def revoke(self, name: str) -> None:
        """Forget a token. NotFoundError: there is none of this name."""

        def change(grants: dict[str, Grant]) -> None:
            found = [stored for stored, grant in grants.items() if grant.name == name]
            if not found:
                raise NotFoundError(
                    f"{self.path} has no token {name!r:.80}: `replaystore token list` shows those there are"
                )
            for stored in found:
                del grants[stored]

        self._change(change)

    def _change(self, change: Callable[[dict[str, Grant]], None]) -> None:
        """Replace the file by one that is changed, while nobody else does."""
        try:
            with self._held():
                grants = dict(self.grants())
                change(grants)
                self._write(grants)
        except OSError as error:
            if isinstance(error, StorageError | NotFoundError | AlreadyExistsError):
                raise
            raise self._refused("written", error) from error

    @contextmanager
    def _held(self) -> Iterator[None]:
        """Among all processes, by the folder, which no replacement moves."""
        descriptor = os.open(self.path.parent, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def _write(self, grants: dict[str, Grant]) -> None:
        entries = [
            {
                "name": grant.name,
                "sha256": stored,
                "scopes": [scope for scope in SCOPES if scope in grant.scopes],
                "path": grant.path,
                "created": grant.created,
            }
            for stored, grant in grants.items()
        ]
        partial = self.path.with_name(f"{self.path.name}.{secrets.token_hex(4)}.new")
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(descriptor, "w", encoding="ascii") as file:
                json.dump({"tokens": entries}, file, indent=2)
                file.write("\n")
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, self.path)
        except BaseException:
            with contextlib.suppress(OSError):
                partial.unlink()
            raise

    def _parsed(self, text: bytes) -> dict[str, Grant]:
        if len(text) > MOST_BYTES:
            raise FormatError(f"{self.path} has {len(text)} bytes, and at most {MOST_BYTES} make sense")
        try:
            entries = json.loads(text)["tokens"]
            return {_stored_hash(entry): _stored_grant(entry) for entry in entries}
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise FormatError(
                f"{self.path} is no file of tokens ({type(error).__name__}): make one with "
                "`replaystore token add NAME --tokens FILE`"
            ) from error

    def _refused(self, what: str, error: OSError) -> StorageError:
        return StorageError(
            f"{self.path} cannot be {what} ({error.strerror or error}): check its permissions", error.errno
        )


def _hash(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()


def _stored_hash(entry: Any) -> str:
    found = entry["sha256"]
    if not _HASH.fullmatch(found):
        raise ValueError("sha256")
    return str(found)


def _stored_grant(entry: Any) -> Grant:
    name, path = entry["name"], entry["path"]
    if not (isinstance(name, str) and isinstance(path, str)):
        raise TypeError("name, path")
    return Grant(name, _checked_scopes(entry["scopes"]), path, str(entry.get("created", "")))


def _checked_scopes(given: Sequence[str]) -> frozenset[Scope]:
    found: frozenset[Scope] = frozenset(scope for scope in SCOPES if scope in given)
    if not given or set(given) - found:
        wrong = ", ".join(map(repr, sorted(set(given) - found))) or "none"
        raise ArgumentError(f"scopes are {', '.join(SCOPES)}, one or several of them, not {wrong:.200}")
    return found


def _check_path(path: str) -> None:
    parts = path.split("/")
    if not path or {"", ".", ".."} & set(parts) or "\0" in path:
        raise ArgumentError(
            f"{path!r:.200} is no path below the root of a server: write 'runs/*.zarr', '**/ant.h5' or '**'"
        )
