"""What a text names: a kind of storage, a kind of container, and a place in it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from replaystore.errors import ArgumentError, FormatError, StorageError, UnsupportedError
from replaystore.location import Location, expanded, parse
from replaystore.testing.servers import serving

HDF5 = b"\x89HDF\r\n\x1a\n"


@pytest.mark.parametrize(
    ("text", "backend", "path"),
    [
        ("runs/a.zarr", "local zarr", "runs/a.zarr"),
        ("runs/a.zarr/", "local zarr", "runs/a.zarr"),
        ("runs/A.ZARR", "local zarr", "runs/A.ZARR"),
        ("a.zarr.zip", "zip zarr", "a.zarr.zip"),
        ("a.zip", "zip zarr", "a.zip"),
        ("a.h5", "local hdf5", "a.h5"),
        ("a.b.hdf5", "local hdf5", "a.b.hdf5"),
        ("memory:a", "memory zarr", "a"),
        ("memory:a.zarr", "memory zarr", "a.zarr"),
        ("C:\\runs\\a.zarr", "local zarr", "C:\\runs\\a.zarr"),
        ("C:/runs/a.h5", "local hdf5", "C:/runs/a.h5"),
        ("a:b.zarr", "local zarr", "a:b.zarr"),
        ("run:7/a.zarr", "local zarr", "run:7/a.zarr"),
        ("https://host/runs/a.zarr", "http zarr", "https://host/runs/a.zarr"),
        ("HTTP://host:81/a.H5/?key=a%2Fb.zip", "http hdf5", "http://host:81/a.H5?key=a%2Fb.zip"),
        ("http://host/a%2Ezip", "http-zip zarr", "http://host/a%2Ezip"),
        ("./~/a.zarr", "local zarr", "./~/a.zarr"),
        ("runs/~/a.zarr", "local zarr", "runs/~/a.zarr"),
        ("memory:~/a", "memory zarr", "~/a"),
    ],
)
def test_the_suffix_or_the_prefix_names_the_backend(text: str, backend: str, path: str) -> None:
    assert parse(text) == Location(*backend.split(), path)


@pytest.mark.parametrize("place", ["~/a.zarr", Path("~") / "a.zarr"])
def test_the_users_folder_is_what_it_is_for_a_shell(
    place: str | Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    assert parse(place) == Location("local", "zarr", "/home/me/a.zarr")
    assert expanded(7) == 7
    assert expanded("~nobody-of-this-name/a.zarr") == "~nobody-of-this-name/a.zarr"


def test_a_path_and_a_location_are_locations_too() -> None:
    assert parse(Path("runs") / "a.h5") == Location("local", "hdf5", os.path.join("runs", "a.h5"))
    assert parse(Location("memory", "zarr", "a")) == Location("memory", "zarr", "a")


@pytest.mark.parametrize(
    "text", ["runs/a.zarr", "memory:a", "a.h5", "https://host/a.zarr", "http://host/a.zip?key=x"]
)
def test_the_text_of_a_location_names_the_same_location(text: str) -> None:
    assert parse(text).text == text


@pytest.mark.parametrize(
    "text",
    [
        "s3://bucket/a.zarr",
        "gs://b/a.zarr",
        "weird+x://a.h5",
        Path("s3://bucket/a.zarr"),
    ],
)
def test_a_url_is_refused_with_what_works_instead(text: str | Path) -> None:
    with pytest.raises(UnsupportedError, match="local disk"):
        parse(text)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("http://", "names no server"),
        ("http:///a.zarr", "names no server"),
        ("http:a.zarr", "names no server"),
        ("http://:80/a.zarr", "names no server"),
        ("http://host:port/a.zarr", "is no address"),
        ("http://[::1/a.zarr", "is no address"),
        ("http://host/a b.zarr", "a space as %20"),
        ("http://host/a.zarr#x", "write it as %23"),
        ("http://me:secret@host/a.zarr", r"…@host has a user name .* into ~/\.netrc as `machine host login"),
    ],
)
def test_what_is_no_address_is_refused(text: str, problem: str) -> None:
    with pytest.raises(ArgumentError, match=problem) as caught:
        parse(text)
    assert "secret" not in str(caught.value)


def test_a_path_that_was_an_address_is_one_again() -> None:
    assert parse(Path("https://host/a.zarr")) == parse("https://host/a.zarr")


@pytest.mark.parametrize(
    ("content", "kinds"),
    [(b"PK\x03\x04rest", "http-zip zarr"), (bytes(512) + HDF5, "http hdf5"), (None, "http zarr")],
)
def test_an_address_that_does_not_say_it_is_known_by_what_is_there(
    tmp_path: Path, content: bytes | None, kinds: str
) -> None:
    if content is None:
        (tmp_path / "buffer").mkdir()
        (tmp_path / "buffer" / "zarr.json").write_text("{}")
    else:
        (tmp_path / "buffer").write_bytes(content)
    with serving(tmp_path, latency=0.25) as server:
        assert parse(f"{server.url}/buffer") == Location(*kinds.split(), f"{server.url}/buffer")
        assert server.rounds() == 1
        (tmp_path / "text").write_text("text")
        with pytest.raises(ArgumentError, match="not a store known by its content: copy it to a local disk"):
            parse(f"{server.url}/text")
        with pytest.raises(ArgumentError, match="nothing does not exist: check the address"):
            parse(f"{server.url}/nothing")


def test_a_file_url_is_refused_with_the_advice_to_give_the_path() -> None:
    with pytest.raises(UnsupportedError, match="without 'file://'"):
        parse("file:///runs/a.zarr")


@pytest.mark.parametrize("wrong", ["", "  ", "memory:", "a\0.zarr", b"a.zarr", None, 7])
def test_what_is_no_location_is_refused(wrong: Any) -> None:
    with pytest.raises(ArgumentError):
        parse(wrong)


def test_an_unknown_suffix_of_something_new_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError) as caught:
        parse(tmp_path / "a.pkl")
    assert all(suffix in str(caught.value) for suffix in (".zarr.zip", ".zip", ".zarr", ".hdf5", ".h5"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "backend"),
    [
        (b"PK\x03\x04rest", "zip zarr"),
        (b"PK\x05\x06" + bytes(18), "zip zarr"),
        (HDF5 + bytes(100), "local hdf5"),
        (b"REPLAYSTORE HDF5" + bytes(100), "local hdf5"),
        (bytes(512) + HDF5, "local hdf5"),
        (bytes(4096) + HDF5 + bytes(100), "local hdf5"),
    ],
)
def test_an_existing_file_with_an_unknown_suffix_is_known_by_its_content(
    tmp_path: Path, content: bytes, backend: str
) -> None:
    path = tmp_path / "buffer"
    path.write_bytes(content)
    assert parse(path) == Location(*backend.split(), str(path))


@pytest.mark.parametrize("content", [b"", b"PK", b"text", bytes(1000) + HDF5])
def test_a_file_of_another_kind_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "buffer.dat"
    path.write_bytes(content)
    with pytest.raises(ArgumentError, match="not a store known by its content"):
        parse(path)


def test_a_folder_with_an_unknown_suffix_is_a_store_if_it_has_a_zarr_json(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="not a store known by its content"):
        parse(tmp_path)
    (tmp_path / "zarr.json").write_text("{}")
    assert parse(tmp_path) == Location("local", "zarr", str(tmp_path))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes on this system")
def test_a_pipe_is_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ArgumentError, match="not a store known by its content"):
        parse(tmp_path / "pipe")


@pytest.mark.parametrize("name", ["a.h5", "a.hdf5", "a.zip"])
def test_a_folder_named_as_a_file_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    with pytest.raises(FormatError, match="is a folder, but its suffix names a file"):
        parse(tmp_path / name)


def test_a_file_named_as_a_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.zarr").write_bytes(b"PK\x03\x04")
    with pytest.raises(FormatError, match="is a file, but its suffix names a folder"):
        parse(tmp_path / "a.zarr")


def test_something_unreadable_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError, match="cannot be read"):
        parse(tmp_path / "file" / "below")


def test_a_name_that_is_not_there_is_looked_for_first(tmp_path: Path) -> None:
    with pytest.raises(
        ArgumentError,
        match=(
            r"nowhere' does not exist: check the path; to make a store, use "
            r"one of the suffixes \.zarr"
        ),
    ):
        parse(tmp_path / "nowhere")


@pytest.mark.parametrize("suffix", [".pkl", ".safetensors"])
def test_files_that_cannot_be_converted_are_told_why(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    path.write_bytes(b"something")
    with pytest.raises(
        FormatError, match=rf"a\{suffix} is no store of .*, and cannot be converted to one: \S+a\{suffix}"
    ):
        parse(path)


@pytest.mark.parametrize("place", ["a.zarr", "a.zarr.zip", "b/a.h5", "memory:a"])
def test_a_place_of_ours_is_known_without_reading_plug_ins(
    place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which takes some milliseconds of the first `open` of a process."""
    monkeypatch.setattr("replaystore.registry._plugins", lambda *_: pytest.fail("entry points were read"))

    assert str(parse(place)) == place
