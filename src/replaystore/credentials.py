"""The token that this user has for a server: what a client finds when none was given.

1. Asked in order: what was given, `REPLAYSTORE_TOKEN`, and for a server on this machine the file that it has
   written for its user: `~/.config/replaystore/servers/<port>.token`, which nobody else may read.
2. A token is made of 256 random bits. It stays the same when a server is started again at its port, so that
   clients outlive it.
3. A token is sent in a header, to the server that it is for, and is in no address, message or log.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import re
import secrets
import stat
from pathlib import Path

from replaystore.errors import ArgumentError, StorageError

__all__ = ["VARIABLE", "checked", "file_of", "is_loopback", "kept_for_user", "new_token", "token_for"]

VARIABLE = "REPLAYSTORE_TOKEN"
_TOKEN = re.compile(r"[A-Za-z0-9_.~+/=-]{1,512}")


def new_token() -> str:
    """256 bits that nobody guesses."""
    return secrets.token_urlsafe(32)


def checked(token: object, said: str = "token") -> str:
    """A token, as it can be sent. ArgumentError: it cannot, and the message does not have it."""
    if isinstance(token, str) and _TOKEN.fullmatch(token):
        return token
    raise ArgumentError(
        f"{said} is a word of letters, digits and _.~+/=-, as `replaystore token add` prints it: "
        f"{'this has other characters' if isinstance(token, str) else f'not {type(token).__name__}'}"
    )


def is_loopback(host: str) -> bool:
    """Whether a server of this name can be reached from this machine alone."""
    host = host.strip("[]").lower()
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def file_of(port: int) -> Path:
    """Where the server at a port of this machine keeps the token of its user."""
    configured = os.environ.get("XDG_CONFIG_HOME", "")
    folder = Path(configured) if os.path.isabs(configured) else Path.home() / ".config"
    return folder / "replaystore" / "servers" / f"{port}.token"


def token_for(host: str, port: int) -> str:
    """The token to send to a server when none was given; empty: there is none. ArgumentError, StorageError:
    there is one that cannot be used."""
    given = os.environ.get(VARIABLE, "").strip()
    if given:
        return checked(given, VARIABLE)
    return _read(file_of(port)) if is_loopback(host) else ""


def kept_for_user(port: int) -> str:
    """The token of this user for the server at a port, made if there is none. StorageError: it cannot be
    kept."""
    path = file_of(port)
    known = _read(path)
    if known:
        return known
    token = new_token()
    partial = path.with_name(f"{path.name}.{secrets.token_hex(4)}.new")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(token + "\n")
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            partial.unlink()
        raise StorageError(
            f"{path} cannot be written ({error.strerror or error}), where clients find the token: make its "
            "folder one that can be written to, or give --tokens FILE",
            error.errno,
        ) from error
    return token


def _read(path: Path) -> str:
    """The token of a file that is ours alone; empty: there is none."""
    try:
        with open(path, "rb") as file:
            known, text = os.fstat(file.fileno()), file.read(1024)
    except (FileNotFoundError, NotADirectoryError):
        return ""
    except OSError as error:
        raise StorageError(
            f"{path} cannot be read ({error.strerror or error}): check its permissions, or set {VARIABLE}",
            error.errno,
        ) from error
    if known.st_uid != os.geteuid() or stat.S_IMODE(known.st_mode) & 0o077:
        raise StorageError(f"{path} may be read or written by others: remove it, and start the server anew")
    return checked(text.decode("ascii", "replace").strip(), f"what {path} holds")
