"""A served buffer that is open for writing: beside what is appended, what a server changes for who has the
scope admin."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Never

import numpy as np

from replaystore import wire
from replaystore.arrays.naming import check_commit, check_name
from replaystore.buffers.late_fields import given_values
from replaystore.client.appending import ServedSteps
from replaystore.client.server import JSON
from replaystore.errors import ConflictError
from replaystore.schema.values import array_of
from replaystore.views.reader import BufferReader, positions_of

__all__ = ["ServedBuffer"]

Columns = Mapping[str, Any]


class ServedBuffer(ServedSteps):
    """A buffer that a server writes. Made by `replaystore.open("replay://…", "r+")`."""

    def _changed(self, route: str, said: Mapping[str, Any], arrays: Columns | None = None) -> dict[str, Any]:
        """Have the server change the store, after all that was sent; what it answers."""
        self.commit()
        if arrays is None:
            body, kind = json.dumps(said).encode(), JSON
        else:
            body, kind = wire.pack(arrays, said), wire.ARRAYS
        told = self._server.ask("POST", self._server.address.route(*route.split("/")), body, kind)
        self._newest = max(self._newest, int(told.get("commit", 0)))
        return told

    def forget(self, name: str) -> int:
        self._writable()
        self.commit()
        told = self._server.ask("DELETE", self._server.address.route("commits", check_name(name)))
        self._newest = int(told["commit"])
        return self._newest

    def publish(self) -> None:
        self._writable()
        self._changed("publish", {})

    def rollback(self, commit: int | str) -> None:
        self._writable()
        if self._writers:
            raise ConflictError(f"{self._place} has a writer: close it before rolling back")
        self.commit()
        self._newest = max(self._newest, self._sending.end())
        self._changed("rollback", {"commit": check_commit(commit)})
        self._open = set()
        BufferReader.refresh(self)

    def set_trajectory_columns(self, columns: Columns) -> None:
        self._writable()
        given = {name: array_of(f"column {name!r}", values) for name, values in columns.items()}
        texts = {name: array.tolist() for name, array in given.items() if array.dtype.kind in "UTO"}
        arrays = {name: array for name, array in given.items() if name not in texts}
        self._changed("columns", {"texts": texts} if texts else {}, arrays)

    def set_values(self, name: str, index: Any, values: Any) -> int:
        declared = self._mutable(name)
        self.commit()
        _, gone = positions_of(index, self.first_row, self._stop)
        given = given_values(name, declared, values, len(gone))
        arrays = {"index": array_of("index", index).astype(np.int64), "values": given}
        return int(self._changed("values", {"field": name}, arrays)["gone"])

    def set_rows(self, name: str, rows: Any, values: Any, in_place: bool) -> None:
        declared = self._mutable(name)
        wanted = self._rows_to_set(rows)
        given = given_values(name, declared, values, len(wanted))
        self._changed("values", {"field": name}, {"index": wanted, "values": given})

    def add_field(self, *_: Any, **__: Any) -> Never:
        self._cannot("fields are added")

    def add_fields(self, *_: Any, **__: Any) -> Never:
        self._cannot("fields are added")

    def _replace_metadata(self, value: dict[str, Any]) -> None:
        self._changed("metadata", {"metadata": value})
        self._document = self._document.replace(user=value)
