"""What every storage must do: one class, used by this package and by whoever brings a storage.

    class TestMyStorage(StorageSuite):
        @pytest.fixture
        def location(self) -> str:
            return "mine:buffer.zarr"

The storage is registered by then (an entry point `replaystore.storage`). What a buffer needs beyond this is
tried by `BackendSuite`, with the same fixture.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from replaystore.containers.located import exists, lock_place, lock_store, remove, resolved, same
from replaystore.errors import ConflictError, CorruptError, StorageError
from replaystore.location import Location, parse
from replaystore.storage.places import Places, places_of
from replaystore.storage.protocol import Reads, Storage, Writes

__all__ = ["StorageSuite"]

BESIDE = ".beside"


class StorageSuite:
    """Subclass it, and give it a fixture `location`: where a store of many files can be made."""

    @pytest.fixture
    def location(self) -> str:
        """Where a store can be made; nothing is there."""
        raise NotImplementedError("a subclass of StorageSuite has a fixture `location`")

    @pytest.fixture
    def place(self, location: str) -> Iterator[Location]:
        """The same; what was made there, and beside it, is removed in the end."""
        found = parse(location)
        yield found
        for path in (found.path, found.path + BESIDE):
            places_of(found).remove(path)

    @pytest.fixture
    def places(self, place: Location) -> Places:
        """The storage."""
        return places_of(place)

    @pytest.fixture
    def files(self, place: Location, places: Places) -> Iterator[Storage]:
        """The files of a new store, none yet."""
        places.make_room(place.path)
        made = places.new_files(place.path, called=place.path)
        yield made
        made.close()

    @staticmethod
    def _write(files: Storage, name: str, data: bytes) -> None:
        files.create(name)
        files.write(name, 0, data)

    # --- files

    def test_what_was_written_is_read(self, files: Storage) -> None:
        self._write(files, "a/b/c", b"0123456789")
        files.write("a/b/c", 4, b"xy")
        files.write("a/b/c", 9, memoryview(b"zz"))

        assert files.read("a/b/c") == b"0123xy678zz"
        assert files.read("a/b/c", 3, 4) == b"3xy6"
        assert files.read("a/b/c", 9, 100) == b"zz"
        assert files.read("a/b/c", 20, 5) == b""
        assert files.size("a/b/c") == 11
        assert files.read_ranges("a/b/c", [(0, 2), (9, 9), (4, 2)]) == [b"01", b"zz", b"xy"]
        target = bytearray(4)
        assert files.read_into("a/b/c", 9, memoryview(target)) == 2
        assert target == b"zz\0\0"

    def test_what_was_never_written_reads_as_zeros(self, files: Storage) -> None:
        files.create("a")
        files.write("a", 5, b"x")
        files.resize("a", 8)
        assert files.read("a") == b"\0\0\0\0\0x\0\0"
        files.resize("a", 5)
        files.resize("a", 7)
        assert files.read("a") == bytes(7)

    def test_a_file_that_is_made_anew_is_empty(self, files: Storage) -> None:
        self._write(files, "a", b"old")
        files.create("a")
        assert (files.size("a"), files.read("a")) == (0, b"")

    def test_a_name_is_given_at_once_to_another_file(self, files: Storage) -> None:
        self._write(files, "f/new", b"new")
        self._write(files, "f/old", b"old")
        files.rename("f/new", "f/old")
        assert files.read("f/old") == b"new"
        assert not files.exists("f/new")
        assert files.list("f") == ["old"]
        files.replace("f/old", b"newest")
        assert files.read_whole("f/old", 6) == b"newest"
        assert files.list("f") == ["old"]

    def test_what_is_there_is_listed(self, files: Storage) -> None:
        assert files.list() == []
        for name in ("b", "a/2", "a/1", "a/deep/3"):
            self._write(files, name, name.encode())
        assert files.list() == ["a", "b"]
        assert files.list("a") == ["1", "2", "deep"]
        assert files.list("b") == files.list("nowhere") == []
        assert list(files.walk()) == ["a/1", "a/2", "a/deep/3", "b"]
        assert [files.exists(name) for name in ("a", "a/1", "a/deep", "a/4", "c")] == [1, 1, 1, 0, 0]

    def test_what_is_removed_is_gone(self, files: Storage) -> None:
        for name in ("a/1", "a/b/2", "c"):
            self._write(files, name, b"x")
        files.remove("c")
        files.remove("c")
        files.clear("a")
        files.clear("nowhere")
        assert list(files.walk()) == []
        self._write(files, "a/1", b"again")
        assert files.read("a/1") == b"again"

    def test_what_is_not_there_is_an_error_that_names_it(self, files: Storage) -> None:
        for call in (files.read, files.size):
            with pytest.raises(FileNotFoundError):
                call("none/at/all")
        assert "none/at/all" in files.path("none/at/all")

    def test_more_than_makes_sense_is_not_read(self, files: Storage) -> None:
        self._write(files, "large", bytes(100))
        with pytest.raises(CorruptError, match="100"):
            files.read_whole("large", 99)

    def test_syncing_is_allowed_whenever_something_is_there(self, files: Storage) -> None:
        self._write(files, "a/1", b"x")
        files.sync_files(["a/1"])
        files.sync_folders(["a", ""])
        files.write_back("a/1", 0, 1)
        assert files.read("a/1") == b"x"

    # --- stores

    def test_a_store_is_there_when_it_has_been_made(self, place: Location, places: Places) -> None:
        assert not exists(place)
        places.make_room(place.path)
        made = places.new_files(place.path, called=place.path)
        self._write(made, "a", b"one")
        made.close()
        assert exists(place)
        for writable in (False, True):
            found: Reads = places.files(place.path, writable=writable)
            assert found.read("a") == b"one"
            assert isinstance(found, Writes) or not writable
            found.close()
        remove(place)
        remove(place)
        assert not exists(place)

    def test_who_reads_a_file_goes_on_with_it_when_another_takes_its_name(
        self, place: Location, places: Places, files: Storage
    ) -> None:
        self._write(files, "a", b"old")
        reader = places.files(place.path, writable=False)
        if reader is files:
            pytest.skip("there is one object for all: only what is mapped goes on")
        assert reader.read("a") == b"old"
        files.replace("a", b"new")
        assert reader.read("a") == b"old"
        reader.forget("a")
        assert reader.read("a") == b"new"
        reader.close()

    def test_a_new_store_takes_the_place_of_an_old_one(self, place: Location, places: Places) -> None:
        beside = place.path + BESIDE
        for path, data in ((place.path, b"old"), (beside, b"new")):
            places.make_room(path)
            made = places.new_files(path, called=place.path)
            self._write(made, "a", data)
            made.close()
        places.put(beside, place.path, aside=place.path + ".aside")
        places.sync_name(place.path)
        found = places.files(place.path, writable=False)
        assert found.read("a") == b"new"
        found.close()
        assert not places.exists(place.path + ".aside")
        places.remove(beside)
        places.move(place.path, beside)
        assert not exists(place)
        found = places.files(beside, writable=False)
        assert found.read("a") == b"new"
        found.close()

    def test_names_of_a_store_are_told_from_those_of_another(self, place: Location) -> None:
        assert same(place, place)
        assert not same(place, replace(place, path=place.path + BESIDE))
        assert same(place, resolved(place))
        assert parse(str(place)) == place

    def test_one_at_a_time_makes_a_store_and_writes_to_it(self, place: Location, files: Storage) -> None:
        self._write(files, "journal/log/1", b"as a container has it")
        for lock in (lock_place, lock_store):
            first = lock(place)
            with pytest.raises((ConflictError, StorageError)):
                lock(place)
            first.check()
            first.release()
            first.release()
            lock(place).release()

    def test_who_makes_a_store_may_hold_the_one_that_is_there(self, place: Location, files: Storage) -> None:
        self._write(files, "journal/log/1", b"as a container has it")
        making = lock_place(place)
        held = lock_store(place, replace=True)
        with pytest.raises(ConflictError):
            lock_store(place)
        held.release()
        making.release()
