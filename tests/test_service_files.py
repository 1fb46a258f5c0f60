"""The files of stores, as a client of this library reads them."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("starlette")
pytest.importorskip("httpx2")

from far_stores import SCHEMA, steps
from serving import bearer, serving
from starlette.testclient import TestClient

import replaystore as rs
from replaystore.service import files
from replaystore.service.service import Service

pytest_plugins = ["serving"]


def listed(asking: TestClient, store: str, folder: str = "") -> list[str]:
    found = asking.get(f"/v1/stores/{store}/files/{folder}?list")
    assert found.status_code == 200, found.text
    return list(found.json()["names"])


def test_every_file_is_read_as_it_is(asking: TestClient, root: Path) -> None:
    with rs.create(root / "a.zarr", SCHEMA) as buffer:
        buffer.append(steps(3000))
    folders, seen = [""], 0
    for folder in folders:
        names = listed(asking, "a.zarr", folder)
        assert names == sorted(os.listdir(root / "a.zarr" / folder))
        for name in names:
            path = f"{folder}/{name}".lstrip("/")
            if (root / "a.zarr" / path).is_dir():
                folders.append(path)
                assert asking.get(f"/v1/stores/a.zarr/files/{path}").status_code == 404
                continue
            data = (root / "a.zarr" / path).read_bytes()
            found = asking.get(f"/v1/stores/a.zarr/files/{path}")
            assert found.content == data
            assert asking.head(f"/v1/stores/a.zarr/files/{path}").headers["content-length"] == str(len(data))
            seen += 1
    assert seen > 10
    assert listed(asking, "a.zarr", "none") == listed(asking, "a.zarr", "zarr.json") == []


@pytest.mark.parametrize("suffix", [".h5", ".zarr.zip"])
def test_a_store_of_one_file_is_that_file(asking: TestClient, root: Path, suffix: str) -> None:
    with rs.create(root / "source.zarr", SCHEMA) as buffer:
        buffer.append(steps(1000))
    rs.convert(root / "source.zarr", root / f"a{suffix}", layout="archive")
    data, at = (root / f"a{suffix}").read_bytes(), f"/v1/stores/a{suffix}/files"

    whole, part = asking.get(at), asking.get(f"{at}/", headers={"Range": "bytes=100-199"})
    sidecar = asking.get(f"{at}/a{suffix}.sha256")

    assert whole.content == data
    assert (part.status_code, part.content) == (206, data[100:200])
    assert sidecar.text == (root / f"a{suffix}.sha256").read_text()
    assert asking.get(f"{at}?list").json() == {"names": []}
    for other in ("source.zarr", "zarr.json", f"a{suffix}", "../source.zarr/zarr.json"):
        assert asking.get(f"{at}/{other.replace('/', '%2f')}").status_code == 404


def test_a_large_file_comes_in_pieces(service: Service, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    urllib3 = pytest.importorskip("urllib3")
    monkeypatch.setattr(files, "AT_ONCE", 1 << 10)
    monkeypatch.setattr(files, "PIECE", 1 << 12)
    with rs.create(root / "a.zarr", SCHEMA) as buffer:
        buffer.append(steps(1000))
    name = "steps/observation/c.0"
    path = next((root / "a.zarr" / "steps" / "observation").glob("c*"))
    data, name = path.read_bytes(), str(path.relative_to(root / "a.zarr"))
    with serving(service) as url:
        at = f"{url}/v1/stores/a.zarr/files/{name}"
        whole = urllib3.request("GET", at, headers=bearer())
        part = urllib3.request("GET", at, headers={**bearer(), "Range": "bytes=5-60000"})
        again = urllib3.request("GET", at, headers={**bearer(), "If-None-Match": whole.headers["etag"]})

    assert len(data) > 60_000
    assert whole.data == data
    assert whole.headers["content-length"] == str(len(data))
    assert (part.status, part.data) == (206, data[5:60001])
    assert (again.status, again.data) == (304, b"")


def test_what_is_no_part_of_a_store_is_not_shown(asking: TestClient, root: Path) -> None:
    outside = root.parent / "secret"
    outside.write_text("what it holds")
    with rs.create(root / "a.zarr", SCHEMA) as buffer:
        buffer.append(steps(10))
        buffer.commit()
        store = root / "a.zarr"
        (store / "link").symlink_to(outside)
        (store / "linked").symlink_to(root.parent)
        (store / "zarr.json.new").write_text("half")
        os.mkfifo(store / "pipe")
        hidden = ["link", "linked/secret", "zarr.json.new", "pipe", "..%2f..%2fsecret", "%2e%2e/secret"]
        hidden += ["steps/..%2fzarr.json", "%2fetc%2fpasswd", "zarr.json%00", "steps%2f%2freward%2fzarr.json"]
        hidden += [str(path.relative_to(store)) for path in store.rglob("*lock*")]
        assert len(hidden) > 10, "a writer has a lock"
        for name in hidden:
            found = asking.get(f"/v1/stores/a.zarr/files/{name}")
            assert found.status_code == 404, name
            assert "what it holds" not in found.text
        assert not {"link", "linked", "zarr.json.new"} & set(listed(asking, "a.zarr"))
        assert not [name for name in listed(asking, "a.zarr", "journal") if "lock" in name]
        assert listed(asking, "a.zarr", "linked") == []


def test_the_library_reads_the_files_of_a_served_store(
    service: Service, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REPLAYSTORE_TOKEN", "read")
    columns = steps(3000)
    with rs.create(root / "a.zarr", SCHEMA) as writer, serving(service) as url:
        writer.append(columns)
        writer.commit("first")
        at = f"{url.replace('http', 'replay')}/a.zarr"
        with rs.open(at) as buffer:
            np.testing.assert_array_equal(buffer["observation"][:], columns["observation"])
            writer.append(steps(50))
            writer.commit()
            assert buffer.refresh()
            assert len(buffer) == 3050
        with rs.open(at, commit="first") as buffer:
            assert len(buffer) == 3000
