"""Appending through the routes of a service: sessions, messages, names, and what an administrator changes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from serving import KnownTokens, asking, bearer, root, service  # noqa: F401

import replaystore as rs

pytest.importorskip("starlette")

from starlette.testclient import TestClient

from replaystore import wire
from replaystore.errors import UnsupportedError
from replaystore.schema.fields import Field, Schema
from replaystore.service.app import ROUTES, make_app
from replaystore.service.service import Service

SCHEMA = Schema(
    {
        "observation": Field("float32", (2,), "observation"),
        "reward": Field("float64", (), "reward"),
        "terminated": Field("bool", (), "terminated"),
        "advantage": Field("float32", (), "extra", mutable=True),
    }
)
STORE = "/v1/stores/runs/a.zarr"
ID, OTHER = "0" * 31 + "1", "0" * 31 + "2"


def steps(count: int, begin: int = 0, *, last: bool = False) -> dict[str, Any]:
    numbers = np.arange(begin, begin + count)
    ends = np.zeros(count, np.bool_)
    ends[-1:] = last
    return {
        "observation": np.stack([numbers, -numbers], 1).astype(np.float32),
        "reward": numbers / 4,
        "terminated": ends,
        "advantage": np.zeros(count, np.float32),
    }


def new_store(asking: TestClient, **more: Any) -> Any:  # noqa: F811
    return asking.post(STORE, json={"schema": SCHEMA.to_json(), **more})


def begin(asking: TestClient, session: str = ID, **more: Any) -> Any:  # noqa: F811
    return asking.post(f"{STORE}/writers", json={"session": session, **more})


def put(asking: TestClient, number: int, arrays: Any, said: Any = None, session: str = ID) -> Any:  # noqa: F811
    return asking.put(f"/v1/writers/{session}/{number}", content=wire.pack(arrays, said))


def test_a_store_is_made_and_filled(asking: TestClient, root: Path) -> None:  # noqa: F811
    made = new_store(asking, metadata={"run": 7}, environment="Ant-v5", keep_commits=50)
    assert (made.status_code, made.json()["location"]) == (201, "runs/a.zarr")
    assert begin(asking, environments=2).json() == {"session": ID, "first": 0, "environments": 2, "next": 1}
    final = {"final/observation": np.ones((1, 2), np.float32)}
    assert put(asking, 1, steps(3) | final).json() == {"number": 1, "commit": 2}
    said = {"runs": [{"env": 1, "steps": 2, "ends": [1], "seed": 5, "split": "train", "finals": 1}]}
    assert put(asking, 2, steps(2, 10, last=True) | final, said).status_code == 200
    assert put(asking, 1, steps(3)).json()["number"] == 2, "sent again, and not there twice"
    assert begin(asking, environments=2).json()["next"] == 3
    with rs.open(root / "runs/a.zarr") as buffer:
        assert (len(buffer), buffer.metadata, buffer.environment["id"]) == (5, {"run": 7}, "Ant-v5")
        assert sorted(buffer.trajectories["length"].tolist()) == [2, 3]
        ended = int(np.flatnonzero(~buffer.trajectories["open"])[0])
        assert (buffer.trajectories["split"][ended], buffer.trajectories["seed"][ended]) == ("train", 5)
        assert buffer.trajectory(ended)["next_observation"].tolist() == [[11, -11], [1, 1]]
    assert new_store(asking).status_code == 409
    assert new_store(asking, overwrite=True).status_code == 201
    answer = put(asking, 3, steps(1))
    assert (answer.status_code, answer.json()["error"]) == (404, "NotFoundError")
    assert begin(asking).json()["next"] == 1


def test_what_is_wrong_is_refused_and_changes_nothing(asking: TestClient) -> None:  # noqa: F811
    assert begin(asking).status_code == 404
    assert asking.post(STORE, json={"schema": {"fields": [{"name": "x"}]}}).status_code == 422
    assert asking.post("/v1/stores/a.h5", json={"schema": SCHEMA.to_json(), "capacity": 5}).status_code == 422
    assert asking.post(STORE, json={"schema": SCHEMA.to_json(), "unknown": 1}).status_code == 422
    new_store(asking)
    assert put(asking, 1, steps(1)).status_code == 404
    assert begin(asking, session="x").status_code == 422
    begin(asking)
    assert begin(asking, OTHER, first=0).status_code == 409
    early = put(asking, 2, steps(1))
    assert (early.status_code, "1 is the next" in early.json()["message"]) == (409, True)
    for arrays, said in (
        ({"observation": np.zeros((1, 2), np.float32)}, None),
        (steps(2), {"runs": [{"steps": 1}]}),
        (steps(1), {"runs": [{"steps": 1, "env": 1}]}),
        (steps(1), {"runs": "x"}),
        (steps(1), {"name": "7"}),
    ):
        assert put(asking, 1, arrays, said).status_code == 422
    for body in (b"", b"x" * 100, wire.pack(steps(1))[:-1], wire.pack(steps(1)) + b"x"):
        assert asking.put(f"/v1/writers/{ID}/1", content=body).status_code in (411, 422)
    assert put(asking, 1, steps(1)).json()["number"] == 1
    assert asking.get(STORE).json()["steps"] == 1


def test_a_token_is_for_its_scopes_and_stores_alone(asking: TestClient) -> None:  # noqa: F811
    new_store(asking)
    begin(asking)
    body = wire.pack(steps(1))
    for token, status in (("read", 403), ("append:other/*", 403), ("append:runs/*", 200)):
        answer = asking.put(f"/v1/writers/{ID}/1", content=body, headers=bearer(token))
        assert answer.status_code == status
    replace = {"schema": SCHEMA.to_json(), "overwrite": True}
    assert asking.post(STORE, json=replace, headers=bearer("append")).status_code == 403
    assert asking.delete(f"/v1/writers/{ID}", headers=bearer("append:x/*")).status_code == 403
    assert asking.get(STORE).json()["steps"] == 1
    for route in ROUTES:
        changes = route.method != "GET" and route.scope in ("append", "admin")
        assert route.writes or not changes


def test_sessions_end_and_commits_get_names(asking: TestClient, root: Path) -> None:  # noqa: F811
    new_store(asking)
    begin(asking)
    put(asking, 1, steps(2))
    put(asking, 2, {}, {"name": "two"})
    put(asking, 3, steps(2, 2))
    assert asking.post(f"{STORE}/commits", json={"name": "four"}).status_code == 201
    assert asking.post(f"{STORE}/commits", json={"name": "4"}).status_code == 422
    for _ in range(2):
        assert asking.delete(f"/v1/writers/{ID}").status_code == 200
    with rs.open(root / "runs/a.zarr") as buffer:
        assert (buffer.names, buffer.more) == (["two", "four"], {})
        assert buffer.trajectories["open"].tolist() == [False]
    with rs.open(root / "runs/a.zarr", commit="two") as buffer:
        assert len(buffer) == 2


def test_an_administrator_changes_what_there_is(asking: TestClient, root: Path) -> None:  # noqa: F811
    new_store(asking)
    begin(asking)
    put(asking, 1, steps(3, last=True))
    put(asking, 2, {}, {"name": "three"})
    put(asking, 3, steps(2, 3, last=True))
    values = {"index": np.array([0, 4]), "values": np.array([5, 6], np.float32)}
    answer = asking.post(f"{STORE}/values", content=wire.pack(values, {"field": "advantage"}))
    assert (answer.status_code, answer.json()["gone"]) == (200, 0)
    columns = wire.pack({"score": np.array([1.5, 2.5])}, {"texts": {"split": ["a", "b"]}})
    assert asking.post(f"{STORE}/columns", content=columns).status_code == 200
    late = [{"name": "late", **Field("int16", (), "extra").to_json()}]
    fields = wire.pack({"late": np.arange(5, dtype=np.int16)}, {"fields": late})
    assert asking.post(f"{STORE}/fields", content=fields).status_code == 200
    assert asking.post(f"{STORE}/fields", content=fields).status_code == 409
    assert asking.post(f"{STORE}/metadata", json={"metadata": {"a": 1}}).status_code == 200
    assert asking.post(f"{STORE}/publish").status_code == 200
    with rs.open(root / "runs/a.zarr") as buffer:
        assert buffer["advantage"][:].tolist() == [5, 0, 0, 0, 6]
        assert buffer["late"][:].tolist() == [0, 1, 2, 3, 4]
        assert (buffer.trajectories["score"].tolist(), buffer.metadata) == ([1.5, 2.5], {"a": 1})
        assert buffer.trajectories["split"].tolist() == ["a", "b"]
    begin(asking, OTHER)
    assert asking.post(f"{STORE}/rollback", json={"commit": "three", "session": ID}).status_code == 409
    asking.delete(f"/v1/writers/{OTHER}")
    answer = asking.post(f"{STORE}/rollback", json={"commit": "three", "session": ID})
    assert (answer.status_code, asking.get(STORE).json()["steps"]) == (200, 3)
    assert put(asking, 4, steps(1)).status_code == 200
    assert asking.delete(f"{STORE}/commits/three").status_code == 200
    assert asking.delete(f"{STORE}/commits/three").status_code == 404
    assert asking.post(f"{STORE}/rollback", json={"commit": 1}, headers=bearer("append")).status_code == 403


def test_what_was_acknowledged_is_there_after_the_service_has_ended(service: Service, root: Path) -> None:  # noqa: F811
    with TestClient(make_app(service), base_url="http://127.0.0.1", headers=bearer()) as client:
        new_store(client)
        begin(client)
        assert put(client, 1, steps(3)).status_code == 200
    with rs.open(root / "runs/a.zarr", "r+") as buffer:
        assert len(buffer) == 3
    again = Service(root, service.tokens)
    with TestClient(make_app(again), base_url="http://127.0.0.1", headers=bearer()) as client:
        assert put(client, 2, steps(1)).status_code == 404
        assert begin(client).json()["next"] == 2
        assert put(client, 2, steps(1)).json()["number"] == 2


def test_an_archive_is_sealed_when_its_sessions_have_ended(root: Path) -> None:  # noqa: F811
    for number in (1, 2):
        served = Service(root, KnownTokens())
        with TestClient(make_app(served), base_url="http://127.0.0.1", headers=bearer()) as client:
            assert new_store(client, layout="archive").status_code == (201 if number == 1 else 409)
            begin(client)
            assert put(client, number, steps(3, last=True)).status_code == 200
            if number == 2:
                client.delete(f"/v1/writers/{ID}")
    with pytest.raises(UnsupportedError):
        rs.open(root / "runs/a.zarr", "r+")
    with rs.open(root / "runs/a.zarr") as buffer:
        assert len(buffer) == 6
