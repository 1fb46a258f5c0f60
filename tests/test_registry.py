"""What can be plugged in: found by name, by what a file begins with, by entry points; broken plug-ins."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from stranger import installed

from replaystore import registry
from replaystore.errors import ArgumentError, MissingDependencyError, PluginError
from replaystore.registry import Entry

HDF5 = b"\x89HDF\r\n\x1a\n"
ONE = Entry("one", "json:dumps", "a file of one", suffixes=(".one", ".one.gz"), magic=(b"ONE1", b"ONE2"))
LATER = Entry("later", "json", suffixes=(".gz",), magic=(HDF5,), magic_later=True)
FOLDER = Entry("folder", "json", members=("meta.json", "data"))
STORE = Entry("store", "json", schemes=("toy",))


@pytest.fixture(autouse=True)
def table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        registry, "_own", {"storage": (STORE,), "containers": (), "formats": (ONE, LATER, FOLDER)}
    )
    registry._plugins.cache_clear()


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, dict[str, str]], None]:
    """Make a module of this text, and register what these points say."""

    def done(text: str, points: dict[str, str]) -> None:
        installed(tmp_path / "site", monkeypatch, points)
        (tmp_path / "site" / "stranger_formats.py").write_text(
            "from replaystore.registry import Entry\n" + text
        )
        monkeypatch.delitem(sys.modules, "stranger_formats", raising=False)

    return done


def test_a_thing_is_imported_when_it_is_asked_for() -> None:
    import json

    assert registry.load("formats", "one") is json.dumps
    assert registry.load("formats", "later") is json


def test_an_unknown_name_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ArgumentError, match=r"no format 'two'; there are one, later, folder$"):
        registry.load("formats", "two")


def test_another_object_takes_its_place_for_a_while() -> None:
    with registry.using("formats", "one", "first"):
        with registry.using("formats", "one", "second"):
            assert registry.load("formats", "one") == "second"
        assert registry.load("formats", "one") == "first"
    assert registry.load("formats", "one") is not None


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("a.one", ["one"]),
        ("A.ONE", ["one"]),
        ("a.one.gz", ["one", "later"]),
        ("a.gz/", ["later"]),
        ("a.txt", []),
    ],
)
def test_the_longest_suffix_comes_first(name: str, found: list[str]) -> None:
    assert [known.name for known in registry.by_suffix("formats", name)] == found


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"ONE2 and more", ["one"]),
        (b"ONE3", []),
        (b"", []),
        (HDF5, ["later"]),
        (bytes(512) + HDF5, ["later"]),
        (bytes(8192) + HDF5, ["later"]),
        (bytes(1000) + HDF5, []),
    ],
)
def test_a_file_is_known_by_what_it_begins_with(tmp_path: Path, content: bytes, found: list[str]) -> None:
    (tmp_path / "file").write_bytes(content)

    assert [known.name for known in registry.by_content("formats", str(tmp_path / "file"))] == found


def test_a_folder_is_known_by_what_it_holds(tmp_path: Path) -> None:
    assert not list(registry.by_content("formats", str(tmp_path)))
    (tmp_path / "data").mkdir()
    assert [known.name for known in registry.by_content("formats", str(tmp_path))] == ["folder"]


def test_what_the_user_named_comes_before_content_and_content_before_the_suffix(tmp_path: Path) -> None:
    path = str(tmp_path / "a.one")
    Path(path).write_bytes(HDF5)

    assert [known.name for known in registry.find("formats", path)] == ["later", "one"]
    assert [known.name for known in registry.find("formats", path, named="folder")] == ["folder"]


def test_a_scheme_names_a_storage() -> None:
    assert registry.by_scheme("toy:a") is STORE
    assert registry.by_scheme("other:a") is None
    assert registry.by_scheme("toy") is None


def test_an_entry_point_is_found_after_ours(install: Any) -> None:
    install(
        "MINE = Entry('mine', 'json:loads', 'my file', suffixes=('.mine', '.one'))",
        {"replaystore.formats mine": "stranger_formats:MINE"},
    )

    assert list(registry.registered("formats")) == ["one", "later", "folder", "mine"]
    assert registry.entry("formats", "mine").package == "stranger"
    assert [known.name for known in registry.by_suffix("formats", "a.one")] == ["one", "mine"]
    assert registry.load("formats", "mine") is __import__("json").loads


def test_plug_ins_are_not_read_where_ours_will_do(install: Any) -> None:
    install("raise SystemExit", {"replaystore.formats mine": "stranger_formats:MINE"})

    assert next(registry.by_suffix("formats", "a.one")) is ONE
    assert registry.load("formats", "one")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("1 / 0", "ZeroDivisionError"),
        ("import no_such_package", "no_such_package"),
        ("", "MINE"),
        ("MINE = 7", r"is no replaystore\.registry\.Entry"),
        ("MINE = Entry('mine', 'json', suffixes='.mine')", r"suffixes .* is a tuple of str, .*not '\.mine'"),
        ("MINE = Entry('mine', 'json', suffixes=('',))", "suffixes .* none of them empty"),
        ("MINE = Entry('mine', 'json', magic=('MINE',))", "magic .* is a tuple of bytes"),
        ("MINE = Entry('other', 'json')", r"is no replaystore\.registry\.Entry of the name 'mine'"),
    ],
)
def test_a_broken_plug_in_is_an_error_for_who_asks_for_it(install: Any, text: str, reason: str) -> None:
    install(text, {"replaystore.formats mine": "stranger_formats:MINE"})

    assert list(registry.registered("formats")) == ["one", "later", "folder"]
    with pytest.raises(PluginError, match=rf"the format 'mine' of the package stranger.*{reason}.*uninstall"):
        registry.load("formats", "mine")
    with pytest.raises(ArgumentError, match="'two'; there are one, later, folder; the format 'mine' of"):
        registry.load("formats", "two")


def test_code_of_a_plug_in_that_fails_later_is_an_error_that_names_it(install: Any) -> None:
    install("MINE = Entry('mine', 'no_such_package')", {"replaystore.formats mine": "stranger_formats:MINE"})

    with pytest.raises(PluginError, match=r"the format 'mine' of the package stranger.*no_such_package"):
        registry.load("formats", "mine")


def test_a_plug_in_cannot_take_the_name_of_ours(install: Any) -> None:
    install("MINE = Entry('one', 'json')", {"replaystore.formats one": "stranger_formats:MINE"})

    assert registry.entry("formats", "one") is ONE
    assert "its name is taken" in registry.broken("formats")["one of stranger"]


def test_a_missing_package_names_the_extra_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    needs = Entry("needs", "no_such_package", extra="remote")
    monkeypatch.setitem(registry._own, "formats", (needs,))

    with pytest.raises(
        MissingDependencyError, match=r"needs no_such_package.*pip install 'replaystore\[remote\]'"
    ):
        registry.load("formats", "needs")


def test_the_extra_of_a_plug_in_is_that_of_its_package(install: Any) -> None:
    text = "MINE = Entry('mine', 'no_such_package', extra='all')"
    install(text, {"replaystore.formats mine": "stranger_formats:MINE"})

    with pytest.raises(MissingDependencyError, match=r"pip install 'stranger\[all\]'"):
        registry.load("formats", "mine")


def test_importing_the_package_reads_no_entry_points() -> None:
    program = (
        "import importlib.metadata; importlib.metadata.entry_points = None\n"
        "import replaystore; from replaystore import registry; print('done')"
    )

    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert result.stdout == "done\n"
