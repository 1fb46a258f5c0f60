"""The OpenAPI document of the routes, made of what they declare."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from typing import Any

from pydantic import BaseModel, TypeAdapter

from replaystore.service.routes import PARAMETERS, Failure, Gives, Route

__all__ = ["document"]

COMPONENTS = "#/components/schemas/"
Schema = dict[str, Any]


def document(routes: Iterable[Route]) -> dict[str, Any]:
    """The document."""
    schemas: dict[str, Schema] = {}
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        methods = paths.setdefault(route.path, {})
        methods[route.method.lower()] = _operation(route, schemas)
        if route.method == "GET":
            methods["head"] = {**methods["get"], "operationId": f"head_{route.handle.__name__}"}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "replaystore",
            "version": version("replaystore"),
            "summary": "Replay buffers that actors append to, learners sample from, and tools read.",
        },
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }


def _operation(route: Route, schemas: dict[str, Schema]) -> dict[str, Any]:
    found: dict[str, Any] = {
        "operationId": route.handle.__name__,
        "summary": route.says,
        "parameters": [*_of_path(route.path), *_of_query(route.query)],
        "responses": {str(status): _response(gives, schemas) for status, gives in route.gives.items()},
    }
    if isinstance(route.takes, str) and route.takes:
        content = {route.takes: {"schema": {"type": "string", "format": "binary"}}}
        found["requestBody"] = {"required": True, "content": content}
    elif isinstance(route.takes, type):
        content = {"application/json": {"schema": _schema(route.takes, schemas)}}
        found["requestBody"] = {"required": True, "content": content}
    failure = _response(Gives("It is refused.", model=Failure), schemas)
    found["responses"]["4XX"] = found["responses"]["5XX"] = failure
    if route.scope is not None:
        found["security"] = [{"token": []}]
        found["description"] = f"Needs a token with the scope `{route.scope}`."
    return found


def _of_path(path: str) -> list[dict[str, Any]]:
    found = []
    for name in re.findall(r"{(\w+)}", path):
        known = PARAMETERS[name]
        schema: Schema = {"type": "integer", "minimum": 0} if known.number else {"type": "string"}
        if not known.number and known.pattern != ".*" and name != "store":
            schema["pattern"] = f"^{known.pattern}$"
        found.append(
            {"name": name, "in": "path", "required": True, "description": known.says, "schema": schema}
        )
    return found


def _of_query(model: type[BaseModel] | None) -> list[dict[str, Any]]:
    if model is None:
        return []
    schema = model.model_json_schema()
    needed = schema.get("required", [])
    found = []
    for name, described in schema["properties"].items():
        told = {key: value for key, value in described.items() if key not in ("title", "description")}
        entry = {"name": name, "in": "query", "required": name in needed, "schema": told}
        if "description" in described:
            entry["description"] = described["description"]
        found.append(entry)
    return found


def _response(gives: Gives, schemas: dict[str, Schema]) -> dict[str, Any]:
    content = {}
    for kind in filter(None, (gives.type if gives.model is None else "", gives.also)):
        content[kind.partition(";")[0]] = {"schema": {"type": "string", "format": "binary"}}
    if gives.model is not None:
        content["application/json"] = {"schema": _schema(gives.model, schemas)}
    return {"description": gives.says, **({"content": content} if content else {})}


def _schema(model: Any, schemas: dict[str, Schema]) -> Schema:
    """The schema of a type, with what it is made of among the components."""
    known = (
        dict(model)
        if isinstance(model, Mapping)
        else TypeAdapter(model).json_schema(ref_template=COMPONENTS + "{model}")
    )
    schemas.update(known.pop("$defs", {}))
    title = known.get("title")
    if not isinstance(title, str):
        return known
    schemas[title] = known
    return {"$ref": COMPONENTS + title}
