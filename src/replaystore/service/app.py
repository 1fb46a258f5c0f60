"""The ASGI application: routes → Starlette, and what is the same for all of them.

For each request, in this order: how many there are, the token and its scope, the query, the body (bounded in
size, time and memory), the handler, the answer, one line of the access log.

Invariants:
1. A handler runs only for who has the scope that its route declares.
2. An error is JSON, `{"error": class, "message": text}`, without paths of the server's file system. What was
   not foreseen is logged, and its text is not sent.
3. No token, header or query is logged.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import re
import time
from collections.abc import AsyncIterator, Awaitable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any
from urllib.parse import parse_qsl, quote

from pydantic import BaseModel, ValidationError
from starlette.applications import Starlette
from starlette.convertors import CONVERTOR_TYPES, Convertor, StringConvertor, register_url_convertor
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route as StarletteRoute
from starlette.types import Message, Receive, Scope, Send

from replaystore.errors import ArgumentError, ReplayStoreError
from replaystore.service import about, appending, changing, files, frozen, rows, stores
from replaystore.service.answers import Answer, as_json
from replaystore.service.bounded import ABORT
from replaystore.service.openapi import document
from replaystore.service.refused import RefusedError, status_of
from replaystore.service.routes import PARAMETERS, Asked, Route
from replaystore.service.service import Service
from replaystore.service.tokens import Grant

__all__ = ["ROUTES", "make_app"]

ROUTES: tuple[Route, ...] = (
    *about.ROUTES,
    *rows.ROUTES,
    *appending.ROUTES,
    *changing.ROUTES,
    *frozen.ROUTES,  # where names lead to commits: what has an address of its own comes before
    *files.ROUTES,
    *stores.ROUTES,
)
"""All routes; of those that a path fits, the first has it."""
SLICE = 128 << 10
"""Bytes of an answer that are handed over at a time."""
MOST_PARAMETERS = 32
_BEARER = re.compile(r"(?i:bearer) +([^ ]+) *")
_access = logging.getLogger("replaystore.service.access")
_log = logging.getLogger("replaystore.service")


def make_app(service: Service, routes: Sequence[Route] = ROUTES) -> Starlette:
    """The application that serves."""

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        try:
            yield
        finally:
            service.ending.set()
            service.close()

    about_this = document(routes)
    service.openapi = about_this
    by_path: dict[str, dict[str, Route]] = {}
    for route in routes:
        by_path.setdefault(route.path, {})[route.method] = route
    return Starlette(
        routes=[
            StarletteRoute(_typed(path), _Endpoint(service, methods), include_in_schema=False)
            for path, methods in by_path.items()
        ],
        exception_handlers={HTTPException: _not_found},
        lifespan=lifespan,
    )


def _typed(path: str) -> str:
    """The path of a route for Starlette."""
    for name in re.findall(r"{(\w+)}", path):
        kind = f"replaystore_{name}"
        if kind not in CONVERTOR_TYPES:
            part = type(kind, (StringConvertor,), {"regex": PARAMETERS[name].pattern, "convert": _as_it_is})
            register_url_convertor(kind, part())
        path = path.replace(f"{{{name}}}", f"{{{name}:{kind}}}")
    return path


def _as_it_is(_: Convertor[str], value: str) -> str:
    return value


async def _not_found(_: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    text = as_json({"error": "NotFoundError", "message": "there is no such address: GET /openapi.json"}).body
    return Response(bytes(text), status, media_type="application/json")


class _Endpoint:
    """The routes of one path, as an ASGI application."""

    def __init__(self, service: Service, methods: Mapping[str, Route]) -> None:
        self._service, self._methods = service, methods

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        service, method = self._service, scope["method"]
        route = self._methods.get("GET" if method == "HEAD" else method)
        started, name = time.perf_counter(), "-"
        headers = {key.decode("latin-1"): value.decode("latin-1") for key, value in scope["headers"]}
        exchange = _Exchange(service, headers, method == "HEAD", receive, send)
        abort = scope.get("extensions", {}).get(ABORT, lambda: None)
        service.open_requests += 1
        try:
            async with AsyncExitStack() as exits:
                try:
                    if route is None:
                        allowed = sorted({*self._methods, *(["HEAD"] if "GET" in self._methods else [])})
                        raise RefusedError(
                            405, f"{method} is not for this address", {"Allow": ", ".join(allowed)}
                        )
                    grant = _granted(service, route, headers, scope["path_params"])
                    name = "-" if grant is None else grant.name
                    answer = await exchange.ask(route, scope, grant, exits)
                except Exception as error:  # noqa: BLE001  # whatever it is, it is answered
                    answer = _refusal(service, error)
                await exchange.answer(answer)
        except ConnectionAbortedError:
            abort()
            await asyncio.sleep(0)  # so that the server knows that nobody is there, and complains of nothing
        finally:
            service.open_requests -= 1
            seconds = time.perf_counter() - started
            path = self._path(route)
            service.metrics.count("replaystore_requests_total", route=path, status=str(exchange.status))
            service.metrics.time("replaystore_request_seconds", seconds, route=path)
            service.metrics.count("replaystore_sent_bytes_total", exchange.sent)
            where = quote(scope["path"], safe="/@.=+~-_")[:200]
            client = (scope.get("client") or ("-",))[0]
            _access.info(
                "%s %s %s %s %d %d B %.1f ms",
                client, name, method, where, exchange.status, exchange.sent, 1000 * seconds,
            )  # fmt: skip

    def _path(self, route: Route | None) -> str:
        return route.path if route is not None else next(iter(self._methods.values())).path


def _granted(
    service: Service, route: Route, headers: Mapping[str, str], path: Mapping[str, str]
) -> Grant | None:
    """What the token of a request gives. RefusedError: not what the route needs."""
    if route.scope is None:
        return None
    if service.open_requests > service.limits.requests:
        raise RefusedError(503, "there are too many requests: try again later", {"Retry-After": "1"})
    found = _BEARER.fullmatch(headers.get("authorization", ""))
    grant = service.tokens.find(found[1]) if found is not None else None
    if grant is None:
        raise RefusedError(
            401,
            "a token is needed, in the header `Authorization: Bearer …`: `replaystore token add` makes one"
            if found is None
            else "this token is none of this server: it was revoked, or is another's",
            {"WWW-Authenticate": 'Bearer realm="replaystore"'},
        )
    if not grant.allows(route.scope, path.get("store")):
        raise RefusedError(403, f"the token {grant.name!r} does not give {route.scope!r} here")
    if route.writes and service.read_only:
        raise RefusedError(403, "this server only reads: it was started with --read-only")
    if route.writes and service.ending.is_set():
        raise RefusedError(503, "the server is about to end: try again later", {"Retry-After": "5"})
    return grant


def _refusal(service: Service, error: Exception) -> Answer:
    """An error, as an answer."""
    headers: dict[str, str] = {}
    if isinstance(error, ReplayStoreError):
        status, kind, message = status_of(error), type(error).__name__, str(error)
        if isinstance(error, RefusedError):
            headers, kind = error.headers, error.kind
    elif isinstance(error, OSError):
        status, kind, message = 503, "StorageError", error.strerror or type(error).__name__
    else:
        status, kind, message = 500, "InternalError", "this is a fault of the server, whose log says more"
    if status == 500 or not isinstance(error, ReplayStoreError):
        _log.error("%s", message, exc_info=error)
    return as_json({"error": kind, "message": service.root.hide(message)}, status, headers)


class _Exchange:
    """A request and its answer."""

    def __init__(
        self, service: Service, headers: Mapping[str, str], head: bool, receive: Receive, send: Send
    ) -> None:
        self._service, self._headers, self._head = service, headers, head
        self._receive, self._send = receive, send
        self._left_over = headers.get("content-length", "0") != "0" or "transfer-encoding" in headers
        """A body that nobody has read: the connection is of no use afterwards."""
        self.status, self.sent = 0, 0

    async def ask(self, route: Route, scope: Scope, grant: Grant | None, exits: AsyncExitStack) -> Answer:
        """What the handler answers."""
        values = None if route.query is None else _queried(scope["query_string"], route.query)
        body = await self._body(exits) if route.takes else b""
        content = None
        if isinstance(route.takes, type):
            content = _parsed(body, route.takes)
        asked = Asked(
            self._service,
            self._headers,
            self._head,
            scope["path_params"],
            "?" + scope["query_string"].decode("latin-1") if scope["query_string"] else "",
            grant,
            values,
            body,
            content,
            exits,
            self._gone,
        )
        if inspect.iscoroutinefunction(route.handle):
            found: Awaitable[Answer] = route.handle(asked)
            return await found
        handle: Any = route.handle
        return await self._service.in_thread(lambda: handle(asked))

    async def _body(self, exits: AsyncExitStack) -> bytes:
        """The body of the request. RefusedError: it is too large, comes too slowly, or has no length."""
        limits, said = self._service.limits, self._headers.get("content-length", "")
        if not re.fullmatch(r"\d{1,18}", said):
            raise RefusedError(411, "the body has no length: send Content-Length")
        size = int(said)
        if size > limits.body:
            raise RefusedError(
                413, f"the body has {size} bytes, and at most {limits.body} are taken: send less"
            )
        await exits.enter_async_context(self._service.room.hold(size))
        pieces, found = [], 0
        try:
            async with asyncio.timeout(limits.stall + size / limits.slowest):
                more = True
                while more:
                    message = await self._receive()
                    if message["type"] == "http.disconnect":
                        raise RefusedError(400, f"the body ended after {found} of {size} bytes")
                    pieces.append(message.get("body", b""))
                    found, more = found + len(pieces[-1]), message.get("more_body", False)
        except TimeoutError:
            raise RefusedError(408, f"the body came too slowly: {found} of {size} bytes") from None
        if found != size:
            raise RefusedError(400, f"the body has {found} bytes, and {size} were announced")
        self._left_over = False
        self._service.metrics.count("replaystore_received_bytes_total", size)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    async def _gone(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass

    async def answer(self, answer: Answer) -> None:
        """Send it."""
        headers = {"Content-Type": answer.type, "X-Content-Type-Options": "nosniff", **answer.headers}
        headers.setdefault("Cache-Control", "no-store")
        size = answer.size()
        if size is not None and answer.status not in (204, 304):
            headers["Content-Length"] = str(size)
        if answer.status in (204, 304):
            del headers["Content-Type"]
        if self._left_over:
            headers["Connection"] = "close"
        self.status = answer.status
        raw = [(key.lower().encode("latin-1"), value.encode("latin-1")) for key, value in headers.items()]
        await self._send({"type": "http.response.start", "status": answer.status, "headers": raw})
        if answer.pieces is None or self._head:
            await self._send_body(b"" if self._head else answer.body)
            return
        async for piece in answer.pieces:
            await self._send_part(piece, more=True)
        await self._send_part(b"", more=False)

    async def _send_body(self, body: bytes | memoryview) -> None:
        if len(body) <= SLICE:
            await self._send_part(body, more=False)
            return
        view = memoryview(body)
        for begin in range(0, len(view), SLICE):
            await self._send_part(view[begin : begin + SLICE], more=begin + SLICE < len(view))

    async def _send_part(self, part: bytes | memoryview, *, more: bool) -> None:
        """Hand a part over, once the client has taken most of what came before."""
        message: Message = {"type": "http.response.body", "body": part, "more_body": more}
        try:
            async with asyncio.timeout(self._service.limits.stall):
                await self._send(message)
        except TimeoutError:
            raise ConnectionAbortedError("the client takes nothing") from None
        self.sent += len(part)


def _queried(text: bytes, model: type[BaseModel]) -> BaseModel:
    """The parameters of a query. RefusedError, ArgumentError: they are not those of the model."""
    try:
        pairs = parse_qsl(
            text.decode("ascii"),
            keep_blank_values=True,
            max_num_fields=MOST_PARAMETERS,
            errors="strict",
        )
    except ValueError as error:
        raise RefusedError(400, "the query is none, or is too long") from error
    if len({key for key, _ in pairs}) < len(pairs):
        raise ArgumentError("a parameter is there twice")
    try:
        return model.model_validate(dict(pairs))
    except ValidationError as error:
        raise ArgumentError(_told(error)) from None


def _parsed(body: bytes, model: type[BaseModel]) -> BaseModel:
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        raise ArgumentError(_told(error)) from None


def _told(error: ValidationError) -> str:
    """What is wrong, without what was given."""
    found = error.errors(include_url=False, include_context=False, include_input=False)
    return "; ".join(f"{'.'.join(map(str, one['loc'])) or 'the body'}: {one['msg']}" for one in found[:5])
