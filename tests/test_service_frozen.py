"""The frozen tree: a commit at its address, for ever the same or gone."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("starlette")
pytest.importorskip("httpx2")

from far_stores import SCHEMA, steps
from starlette.testclient import TestClient
from zarr_readers import small_chunks, value

import replaystore as rs
from replaystore.service.limits import Limits
from replaystore.service.service import Service

pytest_plugins = ["serving"]
__all__ = ["small_chunks"]

KEY = "steps/reward/c.0"


def make(place: Path, count: int) -> np.ndarray[Any, Any]:
    """A store; its rewards."""
    columns = steps(count)
    with rs.create(place, SCHEMA) as buffer:
        buffer.append(columns)
    return columns["reward"]


def address(buffer: rs.Buffer, store: str) -> str:
    return f"/v1/stores/{store}/@{buffer.id}.{buffer.commit_id}/zarr"


@pytest.mark.parametrize("suffix", [".zarr", ".h5", ".zarr.zip"])
def test_every_key_is_what_the_library_shows(
    asking: TestClient, root: Path, suffix: str, small_chunks: None
) -> None:
    make(root / f"a{suffix.removesuffix('.zip')}", 1500)
    if suffix == ".zarr.zip":
        rs.convert(root / "a.zarr", root / "a.zarr.zip")
    with rs.open(root / f"a{suffix}") as buffer:
        store = buffer.zarr_store()
        tree, at = store._source.tree(), address(buffer, f"a{suffix}")
        for key in list(tree.keys()):
            found = asking.get(f"{at}/{key}")
            assert found.status_code == 200, key
            assert found.content == value(store, key), key
            head = asking.head(f"{at}/{key}")
            assert (head.status_code, head.content) == (200, b"")
            assert {**head.headers, "date": ""} == {**found.headers, "date": ""}
            assert head.headers["content-length"] == str(len(found.content))
        for key in ("", "c.0", "steps", "steps/none/c.0", "steps/reward/c.9999", ".zarray", "..%2fzarr.json"):
            assert asking.get(f"{at}/{key}").status_code == 404, key


def test_ranges_are_answered(asking: TestClient, root: Path) -> None:
    make(root / "a.zarr", 1500)
    with rs.open(root / "a.zarr") as buffer:
        at = f"{address(buffer, 'a.zarr')}/{KEY}"
    whole = asking.get(at).content
    size = len(whole)

    def ask(part: str, **more: str) -> tuple[int, bytes, str | None]:
        found = asking.get(at, headers={"Range": part, **{key.replace("_", "-"): more[key] for key in more}})
        return found.status_code, found.content, found.headers.get("content-range")

    tag = asking.get(at).headers["etag"]
    assert ask("bytes=0-0") == (206, whole[:1], f"bytes 0-0/{size}")
    assert ask("bytes=5-99") == (206, whole[5:100], f"bytes 5-99/{size}")
    assert ask("bytes=5-") == (206, whole[5:], f"bytes 5-{size - 1}/{size}")
    assert ask("bytes=-7") == (206, whole[-7:], f"bytes {size - 7}-{size - 1}/{size}")
    assert ask(f"bytes=-{size + 9}") == (206, whole, f"bytes 0-{size - 1}/{size}")
    assert ask(f"bytes={size - 1}-{size + 9}") == (206, whole[-1:], f"bytes {size - 1}-{size - 1}/{size}")
    assert ask(f"bytes={size}-")[::2] == (416, f"bytes */{size}")
    assert ask("bytes=-0")[::2] == (416, f"bytes */{size}")
    assert ask("bytes=0-9", If_Range=tag)[:2] == (206, whole[:10])
    for none in ("bytes=9-5", "bytes=-", "lines=0-5", "bytes=0-1,3-4", "bytes=a-b"):
        assert ask(none)[:2] == (200, whole), none
    assert ask("bytes=0-9", If_Range='"other"')[:2] == (200, whole)


def test_what_does_not_change_is_kept_for_ever(asking: TestClient, root: Path) -> None:
    make(root / "a.zarr", 1500)
    with rs.open(root / "a.zarr", "r+") as buffer:
        at = address(buffer, "a.zarr")
        chunk, document = asking.get(f"{at}/{KEY}"), asking.get(f"{at}/zarr.json")
        known = {"If-None-Match": f'"x", {document.headers["etag"]}'}
        assert asking.get(f"{at}/zarr.json", headers=known).status_code == 304
        buffer.metadata = {"changed": True}

    again = asking.get(f"{at}/{KEY}", headers={"If-None-Match": chunk.headers["etag"]})

    assert chunk.headers["cache-control"] == "max-age=31536000, immutable"
    assert (again.status_code, again.content) == (304, b"")
    assert document.headers["cache-control"] == "no-cache"


def test_names_lead_to_commits_from_the_root_of_a_tree(asking: TestClient, root: Path) -> None:
    make(root / "a b.zarr", 100)
    with rs.open(root / "a b.zarr", "r+") as buffer:
        buffer.append(steps(50))
        buffer.commit("epoch-1.5")
        buffer.append(steps(50))
        buffer.commit()
        known, newest = f"@{buffer.id}.{buffer.store.places.names['epoch-1.5'].commit}", buffer.commit_id

    def led(what: str) -> str:
        found = asking.get(f"/v1/stores/a b.zarr/{what}")
        assert found.status_code == 307, found.text
        assert found.headers["cache-control"] == "no-store"
        return found.headers["location"].removeprefix("/v1/stores/a%20b.zarr/")

    assert led("@epoch-1.5/zarr") == f"{known}/zarr/"
    assert led("@epoch-1.5/rows?start=3&fields=a%2Cb") == f"{known}/rows?start=3&fields=a%2Cb"
    assert led("@latest/trajectories") == f"{known.partition('.')[0]}.{newest}/trajectories"
    assert led(f"@{newest}/zarr/") == f"{known.partition('.')[0]}.{newest}/zarr/"
    found = asking.get("/v1/stores/a b.zarr/@latest/zarr/zarr.json")
    assert (found.status_code, found.json()["error"]) == (409, "ConflictError")
    assert asking.get("/v1/stores/a b.zarr/@none/zarr").status_code == 404
    follow = asking.get("/v1/stores/a b.zarr/@latest/rows?start=3&stop=4", follow_redirects=True)
    assert follow.status_code == 200


def test_what_is_not_there_any_more_is_gone_and_never_missing(root: Path, asking: TestClient) -> None:
    with rs.create(root / "a.zarr", SCHEMA, keep_commits=2) as buffer:
        addresses = [address(buffer, "a.zarr")]
        for _ in range(6):
            buffer.append(steps(10))
            buffer.commit()
            addresses.append(address(buffer, "a.zarr"))
        buffer.rollback(buffer.commit_id - 1)
        addresses.append(address(buffer, "a.zarr"))
    dead, alive = addresses[6], addresses[7]
    assert asking.get(f"{alive}/{KEY}").status_code == 200
    beyond, other = alive.replace(".7/", ".99/"), "/v1/stores/a.zarr/@" + "0" * 32 + ".1/zarr"
    for gone in (dead, beyond, other):
        found = asking.get(f"{gone}/{KEY}")
        assert (found.status_code, found.json()["error"]) == (410, "EvictedError"), gone

    shutil.rmtree(root / "a.zarr")
    for at in (dead, addresses[0], "/v1/stores/none.zarr/@" + "0" * 32 + ".1/zarr"):
        assert asking.get(f"{at}/{KEY}").status_code == 410
        assert asking.get(f"{at}/zarr.json").status_code == 410


def test_a_store_in_its_place_is_another(root: Path, asking: TestClient) -> None:
    first = make(root / "a.zarr", 1500)
    with rs.open(root / "a.zarr") as buffer:
        at = address(buffer, "a.zarr")
    assert asking.get(f"{at}/{KEY}").status_code == 200
    with rs.create(root / "a.zarr", SCHEMA, overwrite=True) as buffer:
        buffer.append(steps(1500, 1))
        other = address(buffer, "a.zarr")
    with rs.open(root / "a.zarr") as buffer:
        other = address(buffer, "a.zarr")

    for _ in range(3):
        found = asking.get(f"{at}/steps/reward/c.0")
        if found.status_code == 200:  # what was opened before it was replaced
            np.testing.assert_array_equal(np.frombuffer(found.content, "<f4")[:1500], first)
        else:
            assert found.status_code == 410
    assert asking.get(f"{other}/steps/reward/c.0").status_code == 200
    assert asking.get(f"{at[:-6]}77/zarr/zarr.json").status_code == 410


def test_of_many_commits_few_are_open(root: Path) -> None:
    from serving import KnownTokens

    service = Service(root, KnownTokens(), limits=Limits(commits=2))
    for name in "abc":
        make(root / f"{name}.zarr", 100)
    for name in "abcabc":
        pin = service.readers.newest(f"{name}.zarr")
        assert service.readers.at(pin, lambda tree: len(tree.view)) == 100
    assert len(service.readers._pinned) == len(service.readers._followed) == 2
    service.close()
    assert not service.readers._pinned
