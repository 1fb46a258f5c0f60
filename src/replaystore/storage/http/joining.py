"""Which requests bring several ranges of files: neighbours together, what is large in parts.

Bytes between two ranges that are fewer than a round trip is worth are read along. Where there are still many
requests, the smallest gaps are read along, too, up to a limit of bytes that nobody asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["PART", "Place", "Span", "plan"]

Place = tuple[str, int, int | None]
"""(name, offset, length) of a file; None: to its end."""

GAP = 64 << 10
"""Bytes between two ranges that are always read along: at a gigabit a second that takes as long as one
request of many side by side."""
MANY = 64
"""Requests at once: of more, those with the smallest gaps are joined."""
WASTED = 4 << 20
"""Bytes that are read along at most, of one call, so that there are fewer requests."""
PART = 4 << 20
"""What is longer is asked for in parts, side by side."""


@dataclass(frozen=True)
class Span:
    """Bytes [begin, stop) of a file, which one request brings."""

    name: str
    begin: int
    stop: int


def plan(places: Sequence[Place]) -> tuple[list[Span], list[list[int]]]:
    """The requests, and for each place the numbers of those that bring it, in order; none, if it is empty. Of
    what goes to the end of a file, the first part is brought."""
    order = sorted(
        (number for number, (_, _, length) in enumerate(places) if length is None or length > 0),
        key=lambda number: places[number][:2],
    )
    spans = [_span(places[number]) for number in order]
    apart = _apart(spans)
    requests: list[Span] = []
    brought: list[list[int]] = [[] for _ in places]
    begin = 0
    for end in [*apart, len(spans)]:
        if end == begin:
            continue
        group = spans[begin:end]
        parts = _parts(Span(group[0].name, group[0].begin, max(span.stop for span in group)))
        for number, span in zip(order[begin:end], group, strict=True):
            brought[number] = [
                len(requests) + index
                for index, part in enumerate(parts)
                if part.begin < span.stop and span.begin < part.stop
            ]
        requests += parts
        begin = end
    return requests, brought


def _span(place: Place) -> Span:
    name, offset, length = place
    return Span(name, offset, offset + (PART if length is None else length))


def _apart(spans: Sequence[Span]) -> list[int]:
    """The numbers of the ranges that begin another request, of ranges in order."""
    gaps: list[tuple[int, int]] = []
    apart: list[int] = []
    reached = 0
    for number, span in enumerate(spans):
        if number and span.name == spans[number - 1].name:
            gap = span.begin - reached
            if gap > GAP:
                gaps.append((gap, number))
            reached = max(reached, span.stop)
        else:
            apart.append(number)
            reached = span.stop
    gaps.sort()
    left = WASTED
    for joined, (gap, _) in enumerate(gaps):
        if len(apart) + len(gaps) - joined <= MANY or gap > left:
            return sorted(apart + [number for _, number in gaps[joined:]])
        left -= gap
    return sorted(apart)


def _parts(span: Span) -> list[Span]:
    if span.stop - span.begin <= PART + PART // 2:
        return [span]
    return [
        Span(span.name, begin, min(begin + PART, span.stop)) for begin in range(span.begin, span.stop, PART)
    ]
