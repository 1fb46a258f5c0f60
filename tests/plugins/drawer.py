"""A storage of a stranger: stores in drawers of this process, files as plain bytes. Registered as
`drawer = drawer:ENTRY`, "drawer:name" is a location."""

from __future__ import annotations

import builtins
from typing import Any

from replaystore.registry import Entry
from replaystore.storage.places import Places
from replaystore.storage.protocol import Storage

ENTRY = Entry("drawer", "drawer:DRAWERS", "a drawer", schemes=("drawer",), container="zarr")


class Drawer(Storage):
    def __init__(self, called: str, content: dict[str, bytearray]) -> None:
        self.called, self.content, self.opened = called, content, dict[str, bytearray]()

    def path(self, name: str) -> str:
        return f"drawer:{self.called}/{name}".rstrip("/")

    def _file(self, name: str) -> bytearray:
        if name not in self.opened:
            if name not in self.content:
                raise FileNotFoundError(2, "No such file", self.path(name))
            self.opened[name] = self.content[name]
        return self.opened[name]

    def read(self, name: str, offset: int = 0, length: int | None = None) -> bytes:
        return bytes(self._file(name)[offset : None if length is None else offset + length])

    def size(self, name: str) -> int:
        return len(self._file(name))

    def exists(self, name: str) -> bool:
        return name in self.content or bool(self.list(name))

    def list(self, folder: str = "") -> builtins.list[str]:
        above = f"{folder}/" if folder else ""
        return sorted({name[len(above) :].split("/")[0] for name in self.content if name.startswith(above)})

    def create(self, name: str) -> None:
        self.opened[name] = self.content[name] = bytearray()

    def write(self, name: str, offset: int, data: Any) -> None:
        file = self._file(name)
        file.extend(bytes(max(0, offset - len(file))))
        file[offset : offset + len(data)] = data

    def resize(self, name: str, size: int) -> None:
        file = self._file(name)
        file[size:] = bytes(max(0, size - len(file)))

    def rename(self, old: str, new: str) -> None:
        self.opened[new] = self.content[new] = self.content.pop(old)
        self.opened.pop(old, None)

    def remove(self, name: str) -> None:
        self.opened.pop(name, None), self.content.pop(name, None)

    def clear(self, folder: str) -> None:
        for name in [name for name in self.content if name.startswith(f"{folder}/")]:
            self.remove(name)

    def forget(self, name: str) -> None:
        self.opened.pop(name, None)

    def close(self) -> None:
        self.opened.clear()

    def sync_file(self, name: str) -> None: ...
    def sync_folder(self, folder: str) -> None: ...


class Drawers(Places):
    def __init__(self) -> None:
        super().__init__()
        self.drawers = dict[str, dict[str, bytearray]]()

    def exists(self, path: str) -> bool:
        return path in self.drawers

    def files(self, path: str, *, writable: bool) -> Drawer:
        return Drawer(path, self.drawers[path])

    def new_files(self, path: str, *, called: str) -> Drawer:
        self.drawers[path] = {}
        return Drawer(called, self.drawers[path])

    def remove(self, path: str) -> None:
        self.drawers.pop(path, None)

    def move(self, old: str, new: str) -> None:
        self.drawers[new] = self.drawers.pop(old)


DRAWERS = Drawers()
