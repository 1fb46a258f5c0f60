"""Addresses of served stores: replay://host:port/path, `replays` with TLS, and what is asked of the server
for them.

A token that was given with an address goes with it, behind a `?~`: so columns that another process gets have
it, two buffers can have two, and it is shown nowhere, as nothing behind a `?` is. It is in no address that a
user writes or that is sent.
"""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import quote, unquote, urlsplit, urlunsplit

from replaystore import credentials
from replaystore.errors import ArgumentError

__all__ = ["PORT", "Address", "of_request", "with_token"]

PORT = 8742
"""Where a server is that says no other."""
_SCHEMES = {"replay": "http", "replays": "https"}
_ROOT, _FILES = "/v1/stores/", "/files/"


@dataclass(frozen=True)
class Address:
    """A served store, or a server, if `store` is empty."""

    scheme: str
    host: str
    port: int
    store: str
    """Its path below the root of the server."""
    given: str = ""
    """The token that was given with it."""

    @classmethod
    def of(cls, text: str) -> Address:
        """What an address says, in the form in which it is kept (`urls.checked`). ArgumentError: it is
        none."""
        parts = urlsplit(text)
        if parts.query and not parts.query.startswith("~"):
            raise ArgumentError(
                f"{text.partition('?')[0]}?… has a query, and addresses of served stores have none: give a "
                f"token with token=, or as {credentials.VARIABLE}"
            )
        store = unquote(parts.path).strip("/")
        return cls(parts.scheme, parts.hostname or "", parts.port or PORT, store, parts.query[1:])

    @property
    def server(self) -> str:
        """The address of the server, for requests."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{_SCHEMES[self.scheme]}://{host}:{self.port}"

    @property
    def token(self) -> str:
        """The token to send; empty: there is none."""
        return self.given or credentials.token_for(self.host, self.port)

    def route(self, *more: str) -> str:
        """What is asked about the store: /v1/stores/<path>/<more>."""
        return "/".join([f"{self.server}{_ROOT}{quote(self.store)}", *more])

    @property
    def files(self) -> str:
        """The address of the folder of its files; with a slash behind it that of the one file it is."""
        return self.route(_FILES.strip("/"))


def with_token(text: str, token: str) -> str:
    """An address that brings its token along."""
    parts = urlsplit(text)
    return urlunsplit(parts._replace(query=f"~{credentials.checked(token)}"))


def of_request(url: str) -> str:
    """The address of what a request asks for, as the user knows it: replay://host:port/path/file."""
    parts = urlsplit(url)
    store, mark, name = unquote(parts.path).removeprefix(_ROOT).partition(_FILES)
    store = store.removesuffix(_FILES.rstrip("/"))
    scheme = next(own for own, sent in _SCHEMES.items() if sent == parts.scheme)
    return f"{scheme}://{parts.netloc}/{store}{f'/{name}' if mark and name else ''}"
