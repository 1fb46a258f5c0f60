"""Addresses of stores on a server, as texts: what is below one, what is above it, what may be shown of it.

1. An address is kept as it was given: its query (the signature of a link that gives access), and what is
   escaped in it. Names of files are added to its path, and escaped.
2. A user name and a password in an address are refused: addresses are shown and stored. What is behind the
   `?` is not shown, since it may give access.
"""

from __future__ import annotations

import re
from urllib.parse import quote, unquote, urlsplit, urlunsplit

from replaystore.errors import ArgumentError

__all__ = ["below", "checked", "file_name", "folder_of", "host_of", "path_of", "shown"]

_BEGINNING = re.compile(r"(?i)(https?|replays?)://?(?=[^/])")
"""Path("http://a") is http:/a."""
LONGEST = 8192
"""Characters; servers refuse longer ones."""


def checked(text: str) -> str:
    """An address in the form in which it is kept. ArgumentError: it is none, or cannot be used."""
    found = _BEGINNING.match(text)
    if found is None:
        raise ArgumentError(f"{text!r:.200} names no server: write http://server/path/a.zarr")
    text = f"{found[1].lower()}://{text[found.end() :]}"
    if len(text) > LONGEST or re.search(r"[\x00-\x20\x7f]", text):
        raise ArgumentError(
            f"{shown(text):.200} is no address: write a space as %20, and at most {LONGEST} characters"
        )
    try:
        parts = urlsplit(text)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        raise ArgumentError(f"{shown(text):.200} is no address ({error}): check it") from None
    if parts.username is not None or parts.password is not None:
        raise ArgumentError(
            f"{parts.scheme}://…@{host} has a user name in it, and addresses are shown and stored: leave it "
            f"out, and put it into ~/.netrc as `machine {host} login NAME password WORD`"
        )
    if not host:
        raise ArgumentError(f"{shown(text):.200} names no server: write http://server/path/a.zarr")
    if "#" in text:
        raise ArgumentError(f"{shown(text):.200} has a #, and what follows is not sent: write it as %23")
    return urlunsplit(parts._replace(path=parts.path.rstrip("/") or "/"))


def shown(url: str) -> str:
    """An address for messages."""
    begin, mark, query = url.partition("?")
    return begin if query.startswith("~") else begin + mark + "…" * bool(mark)  # a token is not the user's


def path_of(url: str) -> str:
    """The path of an address, as the file on the server is named."""
    return unquote(urlsplit(url).path)


def host_of(url: str) -> str:
    """The name of the server."""
    return urlsplit(url).hostname or ""


def below(url: str, name: str) -> str:
    """The address of a file below another; of that itself, if the name is empty."""
    if not name:
        return url
    parts = urlsplit(url)
    return urlunsplit(parts._replace(path=f"{parts.path.rstrip('/')}/{quote(name, safe='/')}"))


def folder_of(url: str) -> str:
    """The address of the folder that something lies in."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(path=parts.path.rpartition("/")[0] or "/"))


def file_name(url: str) -> str:
    """The name that something has in its folder."""
    return path_of(url).rpartition("/")[2]
