"""What every storage must do that can be read, be it only that: one class, used by this package and by
whoever brings one.

    class TestMyFiles(ReadsSuite):
        @pytest.fixture
        def reads(self) -> Callable[[Mapping[str, bytes]], Reads]:
            return lambda contents: MyFiles(contents)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest

from replaystore.errors import CorruptError, UnsupportedError
from replaystore.storage.protocol import Reads

__all__ = ["ReadsSuite"]

CONTENTS = {
    "zarr.json": b"{}",
    "a/b c/é%41": bytes(range(256)) * 300,
    "a/empty": b"",
    "a/last": b"last",
}
LONG = "a/b c/é%41"


class ReadsSuite:
    """Subclass it, and give it a fixture `reads`: files of these names and contents, to be read."""

    @pytest.fixture
    def reads(self) -> Callable[[Mapping[str, bytes]], Reads]:
        """Makes files."""
        raise NotImplementedError("a subclass of ReadsSuite has a fixture `reads`")

    @pytest.fixture
    def files(self, reads: Callable[[Mapping[str, bytes]], Reads]) -> Reads:
        """Those of `CONTENTS`."""
        return reads(CONTENTS)

    def test_files_are_read_whole_and_in_parts(self, files: Reads) -> None:
        data = CONTENTS[LONG]
        for name, content in CONTENTS.items():
            assert files.read(name) == content
            assert files.size(name) == len(content)
            assert files.status(name)[0] == len(content)
            assert files.exists(name)
            assert files.read_whole(name, len(content)) == content
            assert files.read_end(name, 100) == (content[-100:], len(content))
        assert files.read(LONG, 1000, 24) == data[1000:1024]
        assert files.read(LONG, len(data) - 5, 100) == data[-5:]
        assert files.read(LONG, len(data) - 5) == data[-5:]
        assert files.read(LONG, len(data), 10) == files.read(LONG, len(data) + 100) == b""
        assert files.read("a/last", 1, 0) == b""
        files.close()

    def test_several_ranges_are_read_at_once(self, files: Reads) -> None:
        data, wanted = CONTENTS[LONG], [(5, 10), (0, 10), (70000, 10), (5, 10), (76795, 100), (9, 0)]
        found = files.read_ranges(LONG, wanted)
        assert found == [data[offset : offset + length] for offset, length in wanted]
        target = bytearray(12)
        assert files.read_into(LONG, len(data) - 8, memoryview(target)) == 8
        assert target == data[-8:] + bytes(4)
        files.close()

    def test_what_was_announced_is_read_as_what_was_not(self, files: Reads) -> None:
        places: list[tuple[str, int, int | None]] = [
            ("a/last", 0, None),
            (LONG, 10, 20),
            (LONG, 70000, None),
            (LONG, 25, 20),
            ("a/none", 0, 5),
            ("a/empty", 0, None),
        ]
        files.fetch_ahead(places)
        for _ in range(2):
            for name, offset, length in places:
                if name not in CONTENTS:
                    with pytest.raises(FileNotFoundError):
                        files.read(name, offset, length)
                    continue
                stop = None if length is None else offset + length
                assert files.read(name, offset, length) == CONTENTS[name][offset:stop]
        files.fetch_ahead(places)  # and is not read after all
        files.forget(LONG)
        files.close()

    def test_what_is_not_there_is_told(self, files: Reads) -> None:
        for call in (files.read, files.size, files.status):
            with pytest.raises(FileNotFoundError):
                call("a/none/at/all")
        with pytest.raises(FileNotFoundError):
            files.read_ranges("none", [(0, 5)])
        assert not files.exists("none")
        assert "none" in files.path("none")
        with pytest.raises(CorruptError, match="76800"):
            files.read_whole(LONG, 76799)
        files.close()

    def test_what_is_there_is_listed_or_that_is_refused(self, files: Reads) -> None:
        if files.lists:
            assert list(files.walk()) == sorted(CONTENTS)
            assert files.list("a") == ["b c", "empty", "last"]
            assert files.list("none") == []
        else:
            for call in (files.list, files.walk):
                with pytest.raises(UnsupportedError):
                    call()
        files.close()

    def test_a_pinned_file_is_read_as_before(self, files: Reads) -> None:
        files.pin(LONG)
        assert files.read(LONG, 5, 5) == files.read(LONG, 5, 5) == CONTENTS[LONG][5:10]
        files.forget(LONG)
        files.close()
