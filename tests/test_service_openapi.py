"""The OpenAPI document is true: every answer is as it says, and whatever is asked has an answer."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

pytest.importorskip("starlette")
pytest.importorskip("httpx2")

from serving import KnownTokens, bearer
from small_stores import small_store
from starlette.testclient import TestClient

import replaystore as rs
from replaystore.service.app import ROUTES, make_app
from replaystore.service.routes import Route
from replaystore.service.service import Service

jsonschema = pytest.importorskip("jsonschema")
MEANT = {503, 507}
"""Statuses of the server's own that are no fault of it."""


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """Parts of addresses that lead somewhere."""
    root = tmp_path_factory.mktemp("served")
    (root / "runs").mkdir()
    small_store(root / "a.zarr")
    small_store(root / "runs" / "b.h5")
    (root / "broken.zarr").mkdir()
    with rs.open(root / "a.zarr", "r+") as buffer:
        buffer.commit("first")
        return {
            "root": [str(root)],
            "store": ["a.zarr", "runs/b.h5", "broken.zarr", "none.zarr"],
            "id": [buffer.id, "0" * 32],
            "commit": [str(buffer.commit_id), "0", "1", "9", "9" * 18],
            "name": ["latest", "first", "none", "1"],
            "rest": ["zarr", "zarr/", "rows", "trajectories", "zarr/zarr.json"],
            "key": ["zarr.json", "steps/zarr.json", "steps/reward/c.0", "parts/c.0.0", "c.0", ""],
            "file": ["", "zarr.json", "steps", "steps/reward/zarr.json", "a.zarr", "b.h5.sha256"],
            "session": ["0" * 32],
            "number": ["0", "1"],
        }


@pytest.fixture(scope="module")
def client(known: dict[str, list[str]]) -> Iterator[TestClient]:
    service = Service(known["root"][0], KnownTokens())
    with TestClient(
        make_app(service), headers=bearer(), follow_redirects=False, raise_server_exceptions=False
    ) as found:
        yield found


class Document(dict[str, Any]):
    """The OpenAPI document, which Hypothesis would print."""

    def __repr__(self) -> str:
        return "<the document>"


@pytest.fixture(scope="module")
def document(client: TestClient) -> Document:
    return Document(client.get("/openapi.json").json())


def check(document: Document, route: Route, method: str, status: int, kind: str, body: bytes) -> None:
    """An answer is one that the document has."""
    told = document["paths"][route.path][method.lower()]["responses"]
    found = told.get(str(status)) or told.get(f"{status // 100}XX")
    assert found is not None, f"{route.path}: {status} is not in the document"
    if method == "HEAD" or not body:
        return
    content = found["content"]
    assert kind in content, f"{route.path}: {status} is {kind}, and not {list(content)}"
    if kind == "application/json":
        schema = {**content[kind]["schema"], "components": document["components"]}
        jsonschema.validate(json.loads(body), schema)


def test_the_document_is_one(document: Document) -> None:
    names = [each["operationId"] for methods in document["paths"].values() for each in methods.values()]
    refs = re.findall(r'"#/components/schemas/(\w+)"', json.dumps(document))

    assert len(set(names)) == len(names)
    assert set(refs) <= document["components"]["schemas"].keys()
    for path, methods in document["paths"].items():
        for each in methods.values():
            told = [found["name"] for found in each["parameters"] if found["in"] == "path"]
            assert told == re.findall(r"{(\w+)}", path)
    for schema in document["components"]["schemas"].values():
        jsonschema.Draft202012Validator.check_schema(schema)


def test_every_route_answers_as_the_document_says(
    client: TestClient, document: Document, known: dict[str, list[str]]
) -> None:
    for route in ROUTES:
        if route.method != "GET" or route.path.endswith("/events"):
            continue
        path = route.path.format(**{name: quote(values[0]) for name, values in known.items()})
        path = path.replace("/files/", "/files/zarr.json")
        path = re.sub("a.zarr/files$", "runs/b.h5/files", path)
        for question in ("", "?commits", "?list"):
            if question and (route.query is None or question[1:] not in route.query.model_fields):
                continue
            found = client.get(path + question)
            assert found.status_code < 400, (path, found.text)
            kind = found.headers.get("content-type", "").partition(";")[0]
            check(document, route, "GET", found.status_code, kind, found.content)


EVIL = st.sampled_from(
    [
        "..",
        "../..",
        "%2e%2e",
        "%00",
        "a" * 600,
        "\\",
        "@",
        "a@b",
        "%ff%fe",
        " ",
        "\u202e",
        "-1",
        "1e9",
        "NaN",
    ]
) | st.text(max_size=20).map(lambda text: quote(text.encode("utf-8", "replace"), safe="/"))
HEADERS = st.dictionaries(
    st.sampled_from(["Range", "If-Range", "If-None-Match", "Accept", "Last-Event-ID", "Content-Length"]),
    st.sampled_from(
        ["bytes=0-", "bytes=-1", "bytes=99999999999999999-", "bytes=0-0,2-3", "*", '"x"', 'W/"x"', "a", "5"]
    ),
    max_size=2,
)
QUESTIONS = st.dictionaries(
    st.sampled_from(["start", "stop", "fields", "where", "list", "commits", "limit", "after", "what"]),
    st.sampled_from(
        ["0", "3", "99", "reward", '["reward"]', "length > 5", "length >", "", "x", "-1", "9" * 30]
    ),
    max_size=3,
)


@st.composite
def requests(draw: st.DrawFn) -> tuple[Route, str | None, list[int], str, str, bytes, dict[str, str], Any]:
    route = draw(st.sampled_from([route for route in ROUTES if not route.path.endswith("/events")]))
    evil = draw(st.sampled_from([None, None, *re.findall(r"{(\w+)}", route.path)]))
    chosen = draw(st.lists(st.integers(0, 10), min_size=4, max_size=4))
    method = draw(st.sampled_from([route.method, route.method, "HEAD", "GET", "POST", "PUT", "DELETE"]))
    body = draw(st.sampled_from([b"", b"{}", b"[", b"\0" * 9]))
    given = draw(st.sampled_from([{}, {}, {}, bearer("read:a.zarr")]))
    return route, evil, chosen, draw(EVIL), method, body, {**draw(HEADERS), **given}, draw(QUESTIONS)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150)
@given(asked=requests())
def test_whatever_is_asked_has_an_answer(
    client: TestClient, document: Document, known: dict[str, list[str]], asked: Any
) -> None:
    route, evil, chosen, worst, method, body, headers, questions = asked
    names = re.findall(r"{(\w+)}", route.path)
    parts = {
        name: worst if name == evil else quote(known[name][place % len(known[name])])
        for name, place in zip(names, chosen, strict=False)
    }
    if method not in ("POST", "PUT"):
        body = b""

    path = route.path.format(**parts)
    found = client.request(method, path, params=questions, headers=headers, content=body or None)

    damaged = parts.get("store") == "broken.zarr"
    assert found.status_code < 500 or found.status_code in MEANT or damaged, found.text
    if found.status_code >= 400:
        assert method == "HEAD" or found.json().keys() == {"error", "message"}
        assert known["root"][0] not in found.text
    elif evil is None and method in ("HEAD", route.method):
        kind = found.headers.get("content-type", "").partition(";")[0]
        check(document, route, method, found.status_code, kind, found.content)
