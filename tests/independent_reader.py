"""What a store holds, read by what FORMAT.md says: with json, struct, zipfile, NumPy, numcodecs and h5py, and
nothing of replaystore.

It is written for clarity, not speed, believes the commit log alone, and compares all checksums: an
AssertionError says what is not as the page has it.
"""

from __future__ import annotations

import io
import json
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import h5py
import numpy as np
from independent_log import State, crc32c, records, states
from numcodecs.gzip import GZip
from numcodecs.zstd import Zstd
from numpy.typing import NDArray

__all__ = ["Hdf5File", "Store", "ZarrFiles"]

PAGE = 4096
USUAL = {"shape": [], "chunks_per_shard": 128, "codec": None, "dimension": "step"}
CODED_END = 4
"""Bytes of the checksum at the end of an encoded chunk, in either container."""


def dtype_of(told: Mapping[str, Any]) -> np.dtype[Any]:
    """The dtype of a row of an array as the log has it."""
    return np.dtype((np.dtype(told["dtype"]).newbyteorder("<"), tuple(told.get("shape", []))))


class ZarrFiles:
    """A store in a folder, or in a zip file of one."""

    def __init__(self, path: Path) -> None:
        if path.is_dir():
            files = [file for file in path.rglob("*") if file.is_file()]
            self.data = {file.relative_to(path).as_posix(): file.read_bytes() for file in files}
        else:
            with zipfile.ZipFile(path) as packed:
                self.data = {
                    info.filename: packed.read(info) for info in packed.infolist() if not info.is_dir()
                }
        root = json.loads(self.data["zarr.json"])
        assert (root["zarr_format"], root["node_type"]) == (3, "group")
        self.document = root["attributes"]["replaystore"]
        text = json.dumps(self.document, sort_keys=True, separators=(",", ":"))
        assert root["attributes"]["replaystore_crc32c"] == crc32c(text.encode())

    def log(self) -> bytes:
        """The newest segment of the commit log."""
        names = [name.rpartition("/")[2] for name in self.data if name.startswith("journal/log/")]
        commits = sorted(int(name) for name in names if name.isdigit())
        named = self.data.get("journal/log/segments")
        if named is not None:  # the last may be named before it is there
            (meta, _), *_ = records(named)
            assert [commit for commit in meta["segments"] if commit in commits] == commits
        return self.data[f"journal/log/{commits[-1]}"]

    def raw(self, array: str, told: Mapping[str, Any], first: int, stop: int) -> bytes:
        """Rows of a raw array: of files of some chunks each, behind their index."""
        width, chunks = dtype_of(told).itemsize, told["chunks_per_shard"]
        per_file = told["chunk_rows"] * chunks
        index = 16 * chunks + 4
        header = index if told["chunk_rows"] * width % PAGE else -(-index // PAGE) * PAGE
        found = []
        while first < stop:
            file, at = divmod(first, per_file)
            count = min(per_file - at, stop - first)
            place = f"{array}/c.{file}" + ".0" * len(told["shape"])
            begin = header + at * width
            found.append(self.data[place][begin : begin + count * width])
            assert len(found[-1]) == count * width, place
            first += count
        return b"".join(found)

    def coded(self, array: str, told: Mapping[str, Any], chunk: int, state: State) -> bytes:
        """An encoded chunk as it is stored: where the log says, else the index of its file."""
        known = state.entries.get(array, {}).get(chunk)
        if known is None:
            file, at = divmod(chunk, told["chunks_per_shard"])
            place = f"{array}/c.{file}" + ".0" * len(told["shape"])
            index = self.data[place][: 16 * told["chunks_per_shard"] + 4]
            assert crc32c(index[:-4]) == int.from_bytes(index[-4:], "little"), place
            known = place, *struct.unpack_from("<QQ", index, 16 * at)
        place, offset, length = known
        return self.data[place][offset : offset + length]

    def decoded(self, _: str, told: Mapping[str, Any], __: int, data: bytes) -> bytes:
        """The rows of an encoded chunk."""
        assert crc32c(data[:-CODED_END]) == int.from_bytes(data[-CODED_END:], "little")
        codec = Zstd() if told["codec"].startswith("zstd:") else GZip()
        return bytes(codec.decode(data[:-CODED_END]))


class Hdf5File:
    """A store in an HDF5 file, with the newest journal laid over it."""

    def __init__(self, path: Path) -> None:
        data = bytearray(path.read_bytes())
        assert data.startswith(b"REPLAYSTORE HDF5 1\n")
        sequence, applied = struct.unpack_from("<Q", data, 12296)[0], struct.unpack_from("<Q", data, 16392)[0]
        if data[12288:12296] == b"RSJOURN1" and sequence > applied:
            assert crc32c(data[12288:12340]) == struct.unpack_from("<I", data, 12340)[0]
            place, length, checksum = struct.unpack_from("<QQI", data, 12320)
            payload = bytes(data[place : place + length])
            assert crc32c(payload) == checksum
            (count,) = struct.unpack_from("<I", payload)
            at = 4 + 24 * count
            for entry in range(count):
                offset, size, crc = struct.unpack_from("<QQQ", payload, 4 + 24 * entry)
                if crc == 2**64 - 1:
                    data[offset : offset + size] = payload[at : at + size]
                    at += size
                else:
                    assert crc32c(data[offset : offset + size]) == crc
        self.data = bytes(data)
        self.file = h5py.File(io.BytesIO(self.data), "r")
        text = bytes(self.file.attrs["replaystore"])
        assert int(self.file.attrs["replaystore_crc32c"]) == crc32c(text)
        self.document = json.loads(text)

    def log(self) -> bytes:
        """By the newest valid head in the user block."""
        heads = []
        for slot in (4096, 8192):
            sequence, _, used, count = struct.unpack_from("<QqQQ", self.data, slot + 8)
            end = slot + 40 + 16 * count
            if self.data[slot : slot + 8] != b"RSHEAD01" or count > 28:
                continue
            if crc32c(self.data[slot:end]) == int.from_bytes(self.data[end : end + 4], "little"):
                pieces = struct.iter_unpack("<QQ", self.data[slot + 40 : end])
                heads.append((sequence, b"".join(self.data[at : at + size] for at, size in pieces)[:used]))
        return max(heads)[1]

    def raw(self, array: str, told: Mapping[str, Any], first: int, stop: int) -> bytes:
        """Rows of a raw array, by HDF5."""
        found = self.file[array]
        assert (found.chunks[0], found.id.get_create_plist().get_nfilters()) == (told["chunk_rows"], 0), array
        assert found.shape[0] >= stop, array
        return bytes(found[first:stop].tobytes())

    def coded(self, array: str, told: Mapping[str, Any], chunk: int, _: State) -> bytes:
        """An encoded chunk as it is stored."""
        place = (chunk * told["chunk_rows"], *[0] * len(told["shape"]))
        return bytes(self.file[array].id.read_direct_chunk(place)[1])

    def decoded(self, array: str, told: Mapping[str, Any], chunk: int, _: bytes) -> bytes:
        """The rows of an encoded chunk, by HDF5, which has its own checksum."""
        rows = told["chunk_rows"]
        found = self.file[array][chunk * rows : (chunk + 1) * rows].tobytes()
        return bytes(found.ljust(rows * dtype_of(told).itemsize, b"\0"))


class Store:
    """A store as of its newest commit."""

    def __init__(self, path: Path) -> None:
        self.files = ZarrFiles(path) if path.is_dir() or path.suffix == ".zip" else Hdf5File(path)
        self.document = self.files.document
        assert self.document["format"] == "replaystore"
        if not self.document["format_version"].startswith("1."):
            raise ValueError(f"format version {self.document['format_version']}")
        *_, self.state = states(self.files.log())
        assert self.state.store == self.document["id"]
        for told in self.state.arrays.values():
            for key, usual in USUAL.items():
                told.setdefault(key, usual)
        self.first = self.state.first.get("steps", 0)
        arrays = [name.partition("/") for name in self.state.arrays]
        self.path = {named(path): path for folder, _, path in arrays if folder == "steps"}
        self.fields = {
            field["name"]: field
            for field in self.document["schema"]["fields"]
            if not field.get("needs")  # words, none of which version 1.0 knows
        }

    # --- arrays

    def table(self, array: str) -> NDArray[Any]:
        """Rows of a table that are there: those in its array, and those of the log."""
        state, told = self.state, self.state.arrays[array]
        if told.get("mutable"):
            return np.frombuffer(bytes(state.mutable.get(array, b"")), dtype_of(told).base).reshape(
                -1, *told["shape"]
            )
        rows, checksum, first = state.tables.get(array, [0, 0, 0])
        data = self.files.raw(array, told, first, rows)
        assert crc32c(data) == checksum, array
        found = data + state.appended.get(array, b"")
        dropped = state.dropped.get(state.group(array), 0)
        if array.startswith("checksums/"):
            dropped = self.dropped_of(array.removeprefix("checksums/")) // self.chunk_rows(array)
        return self.as_rows(told, found)[max(0, dropped - first) :]

    def chunk_rows(self, array: str) -> int:
        """Of the array that an array of checksums is about."""
        return int(self.state.arrays[array.removeprefix("checksums/")]["chunk_rows"])

    def dropped_of(self, array: str) -> int:
        """Rows of an array before this one may have gone, as of the base record."""
        return self.state.dropped.get(self.state.group(array), 0)

    def as_rows(self, told: Mapping[str, Any], data: bytes) -> NDArray[Any]:
        return np.frombuffer(data, dtype_of(told).base).reshape(-1, *told["shape"])

    def rows(self, array: str, first: int = 0) -> NDArray[Any]:
        """Rows of an array of rows, from one on, with all checksums of their chunks."""
        told, stop = self.state.arrays[array], self.state.rows(array)
        chunk_rows = told["chunk_rows"]
        begin = first // chunk_rows
        read = self.coded_chunk if told["codec"] else self.raw_chunk
        chunks = [read(array, told, chunk) for chunk in range(begin, -(-stop // chunk_rows))]
        return self.as_rows(told, b"".join(chunks))[first - begin * chunk_rows : stop - begin * chunk_rows]

    def checksum(self, array: str, chunk: int) -> int | None:
        """Of a complete chunk; None of one whose checksum has gone."""
        stored = "checksums/" + array
        gone = self.dropped_of(array) // self.state.arrays[array]["chunk_rows"]
        return int(self.table(stored)[chunk - gone]) if chunk >= gone else None

    def raw_chunk(self, array: str, told: Mapping[str, Any], chunk: int) -> bytes:
        start, stop = chunk * told["chunk_rows"], self.state.rows(array)
        data = self.files.raw(array, told, start, min(start + told["chunk_rows"], stop))
        complete = start + told["chunk_rows"] <= stop
        known = self.checksum(array, chunk) if complete else self.state.partial.get(array, 0)
        assert known in (None, crc32c(data)), f"{array}, chunk {chunk}"
        return data

    def coded_chunk(self, array: str, told: Mapping[str, Any], chunk: int) -> bytes:
        start, stop = chunk * told["chunk_rows"], self.state.rows(array)
        complete, sealed = start + told["chunk_rows"] <= stop, self.state.extra.get("sealed") is True
        if not complete and not sealed:
            return self.tail(array, start, stop)
        data = self.files.coded(array, told, chunk, self.state)
        known = self.checksum(array, chunk) if complete else self.state.partial[array]
        assert known in (None, crc32c(data[:-CODED_END])), f"{array}, chunk {chunk}"
        return self.files.decoded(array, told, chunk, data)

    def tail(self, array: str, start: int, stop: int) -> bytes:
        """Rows of an unfinished chunk of a coded array: pieces, side by side."""
        found = b""
        for begin, rows, slot, offset, checksum in self.state.tails.get(array, []):
            if begin >= start:
                assert begin == start + len(found) // self.state.width(array)
                data = self.in_tail(slot, offset, rows * self.state.width(array))
                assert crc32c(data) == checksum, array
                found += data
        assert len(found) == (stop - start) * self.state.width(array), array
        return found

    def in_tail(self, slot: int, offset: int, size: int) -> bytes:
        name = f"journal/tail/{slot}"
        return self.files.raw(name, self.state.arrays[name], offset, offset + size)

    # --- what they mean

    def values_of(self, name: str, stored: NDArray[Any]) -> list[Any]:
        """Values of a field, of what a row of `steps/` or `final/` is."""
        field, path = self.fields[name], self.path[name]
        if not field["shape"] or field["shape"][0] is not None:
            return list(stored)
        group = f"values/{path}"
        first = self.state.first.get(group, 0)
        values, found = self.rows(group, first), []
        for begin, end in stored.tolist():
            assert begin == end or first <= begin < end <= self.state.rows(group)
            value = values[begin - first : end - first] if begin < end else values[:0]
            found.append(value.tobytes().decode() if field.get("text") else value)
        return found

    def column(self, name: str) -> list[Any]:
        """Values of a field, of each step that counts."""
        stored = np.array(self.rows(f"steps/{self.path[name]}", self.first))
        if self.fields[name].get("mutable"):
            self.change(name, stored)
        return self.values_of(name, stored)

    def change(self, name: str, stored: NDArray[Any]) -> None:
        """Put the newest values of a mutable field in place."""
        steps, values = (f"changes/{self.path[name]}/{part}" for part in ("step", "value"))
        if steps in self.state.arrays:
            for step, value in zip(self.rows(steps), self.rows(values), strict=True):
                if step >= self.first:
                    stored[step - self.first] = value

    def trajectories(self) -> dict[str, NDArray[Any]]:
        """The table of ended trajectories."""
        names = [name for name in self.state.arrays if name.startswith("trajectories/")]
        return {named(name.removeprefix("trajectories/")): self.table(name) for name in names}

    def open_trajectories(self) -> NDArray[np.int64]:
        """A row for each open one: id, env, seed, split, start, length, stride, offset, flags, return."""
        found: NDArray[np.int64] = np.asarray(self.state.extra["open"])
        return found.T if found.size else np.zeros((0, 10), np.int64)

    def parts(self) -> list[list[int]]:
        """start, length, stride, trajectory, offset, final of all parts; last those that grow, whose `final`
        is -2 less the place of their trajectory among the open ones."""
        growing = [
            [start, length, stride, trajectory, offset, -2 - place]
            for place, (trajectory, _, _, _, start, length, stride, offset, *_) in enumerate(
                self.open_trajectories().tolist()
            )
            if length
        ]
        return [*self.table("parts").tolist(), *growing]

    def following(self, name: str) -> dict[int, Any]:
        """The observation after each step that counts, if there is one."""
        column, parts, first = self.column(name), self.parts(), self.first
        finals = self.finals(name)
        gone = self.state.dropped.get("final", 0)
        begins = {(part[3], part[4]): part[0] for part in parts}
        found: dict[int, Any] = {}
        for start, length, stride, trajectory, offset, final in parts:
            rows = range(start, start + length * stride, stride)
            for row in rows:
                if row < first:
                    continue
                if row != rows[-1]:
                    found[row] = column[row + stride - first]
                elif final >= 0:
                    found[row] = finals[final - gone]
                elif (trajectory, offset + length) in begins:
                    found[row] = column[begins[trajectory, offset + length] - first]
                elif final <= -2 and (after := self.attached(name, -2 - final)) is not None:
                    found[row] = after
        return found

    def finals(self, name: str) -> list[Any]:
        """Final observations that are there; None of those whose values have left."""
        array = f"final/{self.path[name]}"
        told = self.state.arrays[array]
        rows = self.rows(array) if told["codec"] else self.table(array)
        if told["shape"] == [2] and self.fields[name]["shape"][:1] == [None]:
            first = self.state.first.get(f"values/{self.path[name]}", 0)
            there = [begin == end or begin >= first for begin, end in rows.tolist()]
            return [
                self.values_of(name, row[None])[0] if kept else None
                for row, kept in zip(rows, there, strict=True)
            ]
        return self.values_of(name, rows)

    def attached(self, name: str, place: int) -> Any:
        """The observation after the last step of an open trajectory; None: it is not known."""
        known = (self.open_trajectories()[:, 8] & 4).astype(bool)
        if not known[place]:
            return None
        kept = self.state.attached[name]
        if not isinstance(kept, bytes):
            _, size, slot, offset, checksum = kept
            kept = self.in_tail(slot, offset, size)
            assert crc32c(kept) == checksum
        told = self.state.arrays[f"steps/{self.path[name]}"]
        row = self.as_rows(told, kept)[known[:place].sum()]
        return self.values_of(name, row[None])[0]

    def check(self) -> None:
        """Read everything, so that every checksum is compared."""
        for name, told in self.state.arrays.items():
            if told.get("journaled"):
                self.table(name)
            elif not name.startswith("journal/"):
                self.rows(name, self.state.first.get(self.state.group(name), 0))


def named(path: str) -> str:
    """The name of the field, or column, that a stored path is of."""
    keys = ["" if part == "%" else unquote(part, errors="strict") for part in path.split("/")]
    return "/".join(key.replace("%", "%25").replace("/", "%2F") or "%" for key in keys)
