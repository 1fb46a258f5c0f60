"""Routes about the server itself."""

from __future__ import annotations

from replaystore.service.answers import Answer, as_json
from replaystore.service.refused import RefusedError
from replaystore.service.routes import Asked, Failure, Gives, Model, Route

__all__ = ["ROUTES"]

PROMETHEUS = "text/plain; version=0.0.4; charset=utf-8"


class Health(Model):
    """That the server answers."""

    status: str


async def health(asked: Asked) -> Answer:
    """Whether it goes on serving."""
    if asked.service.ending.is_set():
        raise RefusedError(503, "the server is about to end", {"Retry-After": "5"})
    return as_json({"status": "ok"})


async def metrics(asked: Asked) -> Answer:
    """What it counts."""
    return Answer(asked.service.metrics.text().encode(), type=PROMETHEUS)


async def openapi(asked: Asked) -> Answer:
    """What there is to ask."""
    return as_json(asked.service.openapi)


ROUTES = (
    Route(
        "GET",
        "/healthz",
        None,
        health,
        "Says whether the server goes on serving.",
        gives={200: Gives("It does.", model=Health), 503: Gives("It is about to end.", model=Failure)},
    ),
    Route(
        "GET",
        "/metrics",
        "read",
        metrics,
        "What the server counts, for Prometheus.",
        gives={200: Gives("Counters, histograms and gauges.", PROMETHEUS)},
    ),
    Route(
        "GET",
        "/openapi.json",
        None,
        openapi,
        "This document.",
        gives={200: Gives("An OpenAPI document.", model={"type": "object"})},
    ),
)
