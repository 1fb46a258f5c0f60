"""Folders that formats write: whole or not at all, under a name that was free or may be replaced."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from replaystore.errors import AlreadyExistsError, ConflictError, StorageError
from replaystore.formats.shared.new_folder import NewFolder


def made(path: Path, text: str, *, overwrite: bool = False) -> None:
    with NewFolder(str(path), overwrite=overwrite) as new:
        os.makedirs(os.path.join(new.root, "below"))
        Path(new.root, "below", "a.txt").write_text(text)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if not path.name.endswith(".lock"))


def test_it_appears_when_it_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "data"
    with NewFolder(str(path), overwrite=False) as new:
        Path(new.root, "a.txt").write_text("a")
        assert not path.exists()

    assert (path / "a.txt").read_text() == "a"
    assert [name for name in os.listdir(tmp_path / "deep") if "partial" in name] == []


def failing(path: Path) -> None:
    with NewFolder(str(path), overwrite=False) as new:
        Path(new.root, "a.txt").write_text("a")
        raise ZeroDivisionError


def test_an_error_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        failing(tmp_path / "data")

    assert [name for name in os.listdir(tmp_path) if name.startswith("data") and "lock" not in name] == []


def test_what_is_there_is_replaced_only_if_asked(tmp_path: Path) -> None:
    made(tmp_path / "data", "old")
    with pytest.raises(AlreadyExistsError, match="overwrite=True"):
        made(tmp_path / "data", "new")
    made(tmp_path / "data", "new", overwrite=True)

    assert (tmp_path / "data" / "below" / "a.txt").read_text() == "new"


def test_an_error_while_replacing_leaves_the_old_one(tmp_path: Path) -> None:
    made(tmp_path / "data", "old")
    with pytest.raises(ZeroDivisionError), NewFolder(str(tmp_path / "data"), overwrite=True):
        raise ZeroDivisionError

    assert (tmp_path / "data" / "below" / "a.txt").read_text() == "old"


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    made(tmp_path / "real", "old")
    (tmp_path / "link").symlink_to("real")
    made(tmp_path / "link", "new", overwrite=True)

    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real" / "below" / "a.txt").read_text() == "new"


def test_what_is_no_folder_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("a file")
    with pytest.raises(AlreadyExistsError, match="is a file"):
        made(tmp_path / "data", "new", overwrite=True)


def test_a_path_through_a_file_is_an_error_of_ours(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("a file")
    with pytest.raises(StorageError, match="is a file"):
        made(tmp_path / "file" / "data", "new")


def test_two_at_a_time_are_refused(tmp_path: Path) -> None:
    with NewFolder(str(tmp_path / "data"), overwrite=False):
        text = (
            "import sys; from replaystore.formats.shared.new_folder import NewFolder\n"
            "from replaystore.errors import ConflictError\n"
            "try:\n"
            "    NewFolder(sys.argv[1], overwrite=False).__enter__()\n"
            "except ConflictError as error:\n"
            "    print('refused')\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", text, str(tmp_path / "data")], capture_output=True, text=True, check=True
        )
        assert done.stdout.strip() == "refused"
        with pytest.raises(ConflictError):
            made(tmp_path / "data", "other")


def test_what_a_killed_process_left_goes(tmp_path: Path) -> None:
    text = (
        "import os, sys; from replaystore.formats.shared.new_folder import NewFolder\n"
        "new = NewFolder(sys.argv[1], overwrite=False).__enter__()\n"
        "open(os.path.join(new.root, 'left'), 'w').close(); os._exit(9)\n"
    )
    subprocess.run([sys.executable, "-c", text, str(tmp_path / "data")], check=False)
    assert (tmp_path / "data.replaystore-partial" / "left").exists()
    made(tmp_path / "data", "new")

    assert sorted(os.listdir(tmp_path / "data")) == ["below"]
    assert not (tmp_path / "data.replaystore-partial").exists()


def test_a_folder_left_aside_gets_its_name_back(tmp_path: Path) -> None:
    made(tmp_path / "data", "old")
    os.rename(tmp_path / "data", tmp_path / "data.replaystore-old")
    with pytest.raises(AlreadyExistsError):
        made(tmp_path / "data", "new")

    assert (tmp_path / "data" / "below" / "a.txt").read_text() == "old"
