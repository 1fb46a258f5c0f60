"""Served stores as storage: their files are read by ranges, as those of any server, with a token.

So columns, tables, samplers and older commits are read, and checked, by the same code as those of a store on
a disk, and `info`, `show`, `convert` and `verify` know nothing of servers.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from replaystore import urls
from replaystore.client.addresses import Address, of_request, with_token
from replaystore.client.server import Server
from replaystore.client.told import error_of
from replaystore.credentials import VARIABLE
from replaystore.errors import ArgumentError
from replaystore.location import Location
from replaystore.storage.http.asking import Manners, Patience
from replaystore.storage.http.files import HttpFiles
from replaystore.storage.http.places import HttpPlaces, HttpZipPlaces

__all__ = ["REPLAY", "REPLAY_ZIP", "ReplayManners", "ReplayPlaces", "ReplayZipPlaces"]


class ReplayManners(Manners):
    """How a server of served stores is spoken to."""

    advice = f"give a token of that server that may do this with token=, or set {VARIABLE} to one"

    def __init__(self, address: Address) -> None:
        self._address = address

    def shown(self, url: str) -> str:
        return of_request(url)

    def headers(self, url: str) -> dict[str, str]:
        token = self._address.token  # that of a server which was started anew may be another
        return {"Authorization": f"Bearer {token}"} if token else {}

    def refused(self, status: int, body: bytes) -> Exception | None:
        # What the disk of the server fails at may be done the next time.
        return None if status == 503 else error_of(status, body, of_request(self._address.route()))


PATIENCE = Patience(tries=9, longest=2.0)
"""With a server that is started anew meanwhile."""


class ReplayPlaces(HttpPlaces):
    """Stores at replay:// and replays:// addresses."""

    def __init__(self, patience: Patience = PATIENCE) -> None:
        super().__init__(patience)

    def below(self, path: str, *, entrance: str = "") -> HttpFiles:
        address = Address.of(path)
        url = address.files + "/" * bool(entrance)
        return HttpFiles(url, entrance=entrance, patience=self._patience, manners=ReplayManners(address))

    def exists(self, path: str) -> bool:
        alone = urls.file_name(path)
        return self.below(path).exists("zarr.json") or self.below(path, entrance=alone).exists(alone)

    def look(self, path: str, members: Sequence[str]) -> tuple[bytes | None, list[str]]:
        raise ArgumentError(
            f"{urls.shown(path)} names no store: served stores have a suffix, as replay://host/runs/ant.zarr"
        )

    def identity(self, path: str) -> object:
        return replace(Address.of(path), given="")

    def served_buffer(self) -> Any:
        from replaystore.client.buffer import ServedBuffer

        return ServedBuffer

    def create_served(self, place: Location, said: Mapping[str, Any]) -> None:
        address = Address.of(place.path)
        Server(address, str(place)).ask("POST", address.route(), json.dumps(said).encode())

    def with_token(self, place: Location, token: str) -> Location:
        return replace(place, path=with_token(place.path, token))


class ReplayZipPlaces(ReplayPlaces, HttpZipPlaces):
    """Served stores that are packed in zip files."""

    packed_from = "replay"


REPLAY, REPLAY_ZIP = ReplayPlaces(), ReplayZipPlaces()
"""As they are registered."""
