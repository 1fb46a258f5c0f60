"""Every storage of ours, as one that only reads."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
from served import HASTY

from replaystore.storage.http.files import HttpFiles
from replaystore.storage.local import Files
from replaystore.storage.memory import MemoryFiles
from replaystore.storage.protocol import Reads
from replaystore.storage.zip import ZipFiles, pack
from replaystore.storage.zip_reads import ZipReads
from replaystore.testing.far import Asked, FarFiles
from replaystore.testing.reading import CONTENTS, ReadsSuite
from replaystore.testing.servers import serving

pytestmark = pytest.mark.timeout(60)


def made(folder: Path, contents: Mapping[str, bytes]) -> Path:
    for name, data in contents.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def memory(path: Path, contents: Mapping[str, bytes]) -> Reads:
    files = MemoryFiles("a")
    for name, data in contents.items():
        files.create(name)
        files.write(name, 0, data)
    return files


def packed(path: Path, contents: Mapping[str, bytes]) -> Path:
    """A zip file as we make it."""
    pack(Files(made(path / "folder", contents), writable=False), str(path / "a.zip"))
    return path / "a.zip"


def zipped(path: Path, contents: Mapping[str, bytes]) -> Path:
    """A zip file of other software's, whose members are described behind them."""
    with open(path / "b.zip", "wb") as out, zipfile.ZipFile(_Pipe(out), "w") as file:
        for name, data in contents.items():
            file.writestr(name, data)
    return path / "b.zip"


class _Pipe:
    """Where one cannot go back, so that sizes come behind the bytes."""

    def __init__(self, file: object) -> None:
        self.write, self.flush = file.write, file.flush  # type: ignore[attr-defined]


HERE: dict[str, Callable[[Path, Mapping[str, bytes]], Reads]] = {
    "folder": lambda path, contents: Files(made(path / "x", contents), writable=False),
    "memory": memory,
    "far": lambda path, contents: FarFiles(Files(made(path / "x", contents), writable=False), Asked()),
    "zip": lambda path, contents: ZipFiles(packed(path, contents)),
    "zip of others": lambda path, contents: ZipFiles(zipped(path, contents)),
    "zip in any storage": lambda path, contents: ZipReads(
        Files(packed(path, contents).parent, writable=False), "a.zip"
    ),
}


class TestHere(ReadsSuite):
    """Storage on this machine."""

    @pytest.fixture(params=HERE)
    def reads(self, request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[Mapping[str, bytes]], Reads]:
        return lambda contents: HERE[request.param](tmp_path, contents)


class TestServer(ReadsSuite):
    """Files on a server, and zip files there."""

    @pytest.fixture(params=["folder", "zip", "zip of others"])
    def reads(
        self, request: pytest.FixtureRequest, tmp_path: Path
    ) -> Iterator[Callable[[Mapping[str, bytes]], Reads]]:
        with serving(tmp_path) as server:

            def reads(contents: Mapping[str, bytes]) -> Reads:
                if request.param == "folder":
                    made(tmp_path, contents)
                    return HttpFiles(f"{server.url}/", patience=HASTY)
                path = (packed if request.param == "zip" else zipped)(tmp_path, contents)
                return ZipReads(
                    HttpFiles(f"{server.url}/{path.name}", entrance=path.name, patience=HASTY), path.name
                )

            yield reads


@pytest.mark.parametrize("make", [packed, zipped])
def test_a_zip_on_a_server_takes_a_request_for_its_directory_and_one_for_each_member(
    tmp_path: Path, make: Callable[[Path, Mapping[str, bytes]], Path]
) -> None:
    contents = {f"steps/{number}": bytes([number]) * 200_000 for number in range(5)}
    path = make(tmp_path, contents)
    with serving(tmp_path) as server:
        files = ZipReads(HttpFiles(f"{server.url}/{path.name}", entrance=path.name), path.name)
        assert files.exists("steps/3")
        assert files.size("steps/3") == 200_000
        assert len(server.log) == 1
        assert files.read("steps/3", 0, 1000) == b"\3" * 1000
        extra = make is zipped  # where a member begins is not what its end says
        assert len(server.log) == 2 + extra
        assert files.read("steps/3", 1000, 50) == b"\3" * 50
        assert len(server.log) == 3 + extra
        assert files.read("steps/1") == files.read("steps/1") == contents["steps/1"]  # small: it is kept
        assert files.read("steps/1", 5, 10) == b"\1" * 10
        assert len(server.log) == 4 + 2 * extra
        files.close()


def test_the_directory_of_a_zip_on_a_server_may_be_long(tmp_path: Path) -> None:
    contents = {f"steps/{'x' * 200}/{number}": b"." for number in range(500)}
    path = zipped(tmp_path, contents)
    with serving(tmp_path) as server:
        files = ZipReads(HttpFiles(f"{server.url}/{path.name}", entrance=path.name), path.name)
        assert list(files.walk()) == sorted(contents)
        assert len(server.log) == 2
        files.close()


def test_contents_are_those_of_the_suite() -> None:
    assert any(not data for data in CONTENTS.values())
