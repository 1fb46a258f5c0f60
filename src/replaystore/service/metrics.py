"""What the server counts, as Prometheus reads it. Nothing here names a store, a token or a client."""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

__all__ = ["KNOWN", "Metrics"]

KNOWN: dict[str, tuple[str, str]] = {
    "replaystore_requests_total": ("counter", "Requests that were answered, by route and status."),
    "replaystore_request_seconds": ("histogram", "Time from a request to the end of its answer, by route."),
    "replaystore_received_bytes_total": ("counter", "Bytes of the bodies of requests."),
    "replaystore_sent_bytes_total": ("counter", "Bytes of the bodies of answers."),
    "replaystore_open_requests": ("gauge", "Requests that are being answered."),
    "replaystore_held_bytes": ("gauge", "Memory that bodies of requests and answers take."),
    "replaystore_appended_steps_total": ("counter", "Steps that were appended."),
    "replaystore_sampled_steps_total": ("counter", "Steps in batches that were sampled."),
    "replaystore_commits_total": ("counter", "Commits that were made."),
    "replaystore_commit_seconds": ("histogram", "Time that a commit takes until it is durable."),
    "replaystore_writers": ("gauge", "Sessions of writers."),
    "replaystore_samplers": ("gauge", "Sessions of samplers."),
}
"""Name → kind and help. What is counted has its line here."""
BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Seconds, of histograms."""

Labels = tuple[tuple[str, str], ...]


@dataclass
class _Histogram:
    buckets: list[int] = field(default_factory=lambda: [0] * (len(BOUNDS) + 1))
    total: float = 0.0


class Metrics:
    """Counters and histograms that any thread may add to, and gauges that are asked for."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: dict[str, dict[Labels, float]] = {}
        self._times: dict[str, dict[Labels, _Histogram]] = {}
        self._gauges: dict[str, Callable[[], float]] = {}

    def count(self, name: str, amount: float = 1, **labels: str) -> None:
        """Add to a counter."""
        assert KNOWN[name][0] == "counter", name
        key = tuple(sorted(labels.items()))
        with self._lock:
            counts = self._counts.setdefault(name, {})
            counts[key] = counts.get(key, 0) + amount

    def time(self, name: str, seconds: float, **labels: str) -> None:
        """Add a time to a histogram."""
        assert KNOWN[name][0] == "histogram", name
        key = tuple(sorted(labels.items()))
        with self._lock:
            found = self._times.setdefault(name, {}).setdefault(key, _Histogram())
            found.buckets[bisect_left(BOUNDS, seconds)] += 1
            found.total += seconds

    def gauge(self, name: str, ask: Callable[[], float]) -> None:
        """Have a gauge asked for when it is read."""
        assert KNOWN[name][0] == "gauge", name
        self._gauges[name] = ask

    def total(self, name: str) -> float:
        """A counter, whatever its labels."""
        with self._lock:
            return sum(self._counts.get(name, {}).values())

    def times(self, name: str) -> tuple[int, float]:
        """How often a time was added to a histogram, and all of them together, whatever its labels."""
        with self._lock:
            found = self._times.get(name, {}).values()
            return sum(sum(one.buckets) for one in found), sum(one.total for one in found)

    def text(self) -> str:
        """All of them, in the text format of Prometheus."""
        return "".join(f"{line}\n" for line in self._lines())

    def _lines(self) -> Iterator[str]:
        gauges = {name: ask() for name, ask in list(self._gauges.items())}
        with self._lock:
            for name, (kind, says) in KNOWN.items():
                yield f"# HELP {name} {says}"
                yield f"# TYPE {name} {kind}"
                if name in gauges:
                    yield f"{name} {gauges[name]:g}"
                for labels, amount in self._counts.get(name, {}).items():
                    yield f"{name}{_braced(labels)} {amount:.17g}"
                for labels, found in self._times.get(name, {}).items():
                    yield from _histogram(name, labels, found)


def _histogram(name: str, labels: Labels, found: _Histogram) -> Iterator[str]:
    below = 0
    for bound, many in zip((*map(str, BOUNDS), "+Inf"), found.buckets, strict=True):
        below += many
        yield f"{name}_bucket{_braced((*labels, ('le', bound)))} {below}"
    yield f"{name}_sum{_braced(labels)} {found.total:.9g}"
    yield f"{name}_count{_braced(labels)} {below}"


def _braced(labels: Labels) -> str:
    told = ",".join(f'{key}="{_escaped(value)}"' for key, value in labels)
    return f"{{{told}}}" if told else ""


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
