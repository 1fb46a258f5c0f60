"""The application: who gets in, what is refused, and what each route gives; asked without a network."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("starlette")
pytest.importorskip("httpx2")

from serving import bearer
from small_stores import small_store
from starlette.testclient import TestClient

import replaystore as rs
from replaystore import wire
from replaystore.service.app import ROUTES
from replaystore.service.service import Service

pytest_plugins = ["serving"]


@pytest.fixture
def store(root: Path) -> str:
    (root / "runs").mkdir()
    small_store(root / "runs" / "small.zarr")
    return "runs/small.zarr"


@pytest.fixture
def pinned(store: str, root: Path) -> str:
    with rs.open(root / store) as buffer:
        return f"/v1/stores/{store}/@{buffer.id}.{buffer.commit_id}"


def test_a_store_is_described_as_the_library_does(asking: TestClient, store: str, root: Path) -> None:
    found = asking.get(f"/v1/stores/{store}?commits")

    assert found.status_code == 200, found.text
    with rs.open(root / store) as buffer:
        wanted = {**buffer.describe().to_json(), "location": store}
        assert [one["commit"] for one in found.json()["commits"]] == [one.commit for one in buffer.commits()]
    assert {key: found.json()[key] for key in wanted} == json.loads(json.dumps(wanted))


def test_stores_are_listed_by_their_paths(asking: TestClient, store: str, root: Path) -> None:
    small_store(root / "other.zarr")
    (root / ".hidden").mkdir()
    small_store(root / ".hidden" / "a.zarr")
    (root / "link.zarr").symlink_to(root / "other.zarr")
    (root / "broken.zarr").mkdir()

    found = asking.get("/v1/stores").json()
    page = asking.get("/v1/stores?limit=1&after=broken.zarr").json()

    assert [one["store"] for one in found["stores"]] == ["broken.zarr", "other.zarr", store]
    assert found["stores"][0]["error"] in ("NotFoundError", "FormatError")
    assert found["more"] is False
    assert [one["store"] for one in page["stores"]] == ["other.zarr"]
    assert page["more"] is True


def test_a_token_sees_the_stores_it_is_for(asking: TestClient, store: str, root: Path) -> None:
    small_store(root / "other.zarr")

    found = asking.get("/v1/stores", headers=bearer("read:runs/*"))

    assert [one["store"] for one in found.json()["stores"]] == [store]
    assert asking.get("/v1/stores/other.zarr", headers=bearer("read:runs/*")).status_code == 403
    assert asking.get("/v1/stores/none.zarr", headers=bearer("read:runs/*")).status_code == 403
    assert asking.get("/v1/stores/none.zarr").status_code == 404


def test_rows_are_those_of_the_commit(asking: TestClient, pinned: str, root: Path, store: str) -> None:
    found = asking.get(f"{pinned}/rows?start=3&stop=9&fields=observation,reward")

    arrays, said = wire.unpack(found.content)
    with rs.open(root / store) as buffer:
        wanted = buffer.read(slice(3, 9), ["observation", "reward"])
    assert arrays.keys() == wanted.keys()
    for name, values in wanted.items():
        np.testing.assert_array_equal(arrays[name], values)
        assert arrays[name].dtype == values.dtype
    assert (said["start"], said["stop"]) == (3, 9)
    assert "immutable" in found.headers["cache-control"]


def test_the_table_of_trajectories_is_json_or_arrow(asking: TestClient, pinned: str) -> None:
    pa = pytest.importorskip("pyarrow")
    kind = "application/vnd.apache.arrow.stream"
    where = f"{pinned}/trajectories?where=length > 5"

    plain = asking.get(where).json()
    arrow = asking.get(where, headers={"Accept": kind})

    assert plain["count"] == 3
    assert plain["columns"]["index"] == [1, 2, 3]
    assert plain["columns"]["split"] == ["train", "test", "train"]
    assert plain["columns"]["seed"] is not None
    table = pa.ipc.open_stream(arrow.content).read_all()
    assert arrow.headers["content-type"] == kind
    assert table["length"].to_pylist() == plain["columns"]["length"]
    assert asking.get(where, headers={"Accept": "text/html"}).status_code == 406
    assert asking.get(f"{pinned}/trajectories?where=length >").status_code == 422


def test_what_is_asked_wrongly_is_refused(asking: TestClient, pinned: str) -> None:
    for question in ("start=-1", "start=a", "nothing=1", "start=1&start=2", "fields=none", "fields=["):
        found = asking.get(f"{pinned}/rows?{question}")
        assert found.status_code == 422, question
        assert found.json().keys() == {"error", "message"}
    assert asking.put(f"{pinned}/rows", content=b"").status_code == 405
    assert asking.get("/v1/nothing").status_code == 404
    assert asking.get("/v1/nothing").json()["error"] == "NotFoundError"


@pytest.mark.parametrize(
    "path",
    [
        "../secret.zarr",
        "%2e%2e/secret.zarr",
        "runs/../../secret.zarr",
        "..%2fsecret.zarr",
        "/etc/a.zarr",
        "a.zarr/b.zarr",
        ".hidden/a.zarr",
        "link.zarr",
        "linked/a.zarr",
        "runs",
        "a%00.zarr",
        ".zarr",
        "a\\b.zarr",
    ],
)
def test_no_path_leads_out_of_the_root(asking: TestClient, root: Path, path: str) -> None:
    small_store(root.parent / "secret.zarr")
    (root / "link.zarr").symlink_to(root.parent / "secret.zarr")
    (root.parent / "folder").mkdir()
    small_store(root.parent / "folder" / "a.zarr")
    (root / "linked").symlink_to(root.parent / "folder")

    for what in ("", "/files?list", "/files/zarr.json", "/events", "/@latest/zarr"):
        found = asking.get(f"/v1/stores/{path}{what}")
        assert found.status_code == 404, (path, what, found.text)
        assert str(root.parent) not in found.text


def test_each_route_needs_its_scope(asking: TestClient, pinned: str, store: str, service: Service) -> None:
    known = {"store": store, "rest": "zarr", "name": "latest", "key": "zarr.json", "file": "zarr.json"}
    known |= {"session": "0" * 32, "number": "0"}
    known["id"], known["commit"] = pinned.rpartition("@")[2].split(".")
    for route in ROUTES:
        path = route.path.format(**known)
        if route.path.endswith("/events"):
            service.ending.set()
        for others in ({"read", "sample", "append", "admin"} - {route.scope or ""}, set()):
            given = bearer("+".join(sorted(others))) if others else {"Authorization": ""}
            status = asking.request(route.method, path, headers=given).status_code
            assert route.scope is None or status == (403 if others else 401), route
        if route.scope is not None:
            assert asking.request(route.method, path, headers=bearer(route.scope)).status_code not in (
                401,
                403,
            )
        service.ending.clear()


def test_a_server_that_ends_is_not_healthy(asking: TestClient, service: Service) -> None:
    assert asking.get("/healthz", headers={"Authorization": ""}).json() == {"status": "ok"}
    service.ending.set()
    assert asking.get("/healthz").status_code == 503
    service.ending.clear()


def test_what_is_served_is_counted(asking: TestClient, store: str) -> None:
    asking.get(f"/v1/stores/{store}")
    asking.get(f"/v1/stores/{store}")

    found = asking.get("/metrics").text

    assert 'replaystore_requests_total{route="/v1/stores/{store}",status="200"} 2\n' in found
    assert 'replaystore_request_seconds_bucket{le="+Inf",route="/v1/stores/{store}"} 2\n' in found.replace(
        'route="/v1/stores/{store}",le="+Inf"', 'le="+Inf",route="/v1/stores/{store}"'
    )
    assert store not in found


def test_the_document_has_every_route(asking: TestClient) -> None:
    found = asking.get("/openapi.json", headers={"Authorization": ""}).json()

    assert found["openapi"] == "3.1.0"
    assert {(route.path, route.method.lower()) for route in ROUTES} <= {
        (path, method) for path, methods in found["paths"].items() for method in methods
    }
