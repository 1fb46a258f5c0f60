"""The commit log, read: its records, each checked, and the state of a store that follows from replaying them.

containers/records.py has the form of a record, state.py what it does to a state, record_checks.py what it is
asked before that is believed.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Any

from replaystore.arrays.differences import Known, after, after_base, expand
from replaystore.arrays.record_checks import check_arrays, check_pieces, check_record, check_step, sound
from replaystore.arrays.state import State
from replaystore.containers.records import open_payload, whole_records
from replaystore.errors import CorruptError

__all__ = ["begin", "check", "decode_records", "follow", "now", "replay"]


def decode_records(
    data: bytes, state: Known | None = None
) -> Iterator[tuple[dict[str, Any], dict[str, bytes], int]]:
    """The valid records at the beginning of `data`, each as (JSON, blobs, where it ends), with all that it
    means. What follows the last is torn or empty. `state`: the commit that they follow, if the first of them
    is no base record.

    CorruptError: a record has its checksum, and yet is not what a writer writes."""
    before, base = state, None
    for payload, end in whole_records(data):
        with sound():
            meta, blobs = open_payload(payload)
            if meta.get("base"):
                before, base = None, (meta, blobs)
            elif not meta.get("forked"):
                before = after_base(*base) if before is None and base is not None else before
                if before is None:
                    raise ValueError("it says what has changed, and follows none")
                meta, blobs = expand(meta, blobs, before)
            check_record(meta, blobs)
            if before is not None and not meta.get("forked"):
                before = after(meta, before)
        yield meta, blobs, end


def begin(meta: Mapping[str, Any], blobs: Mapping[str, bytes]) -> State:
    """The state that a base record says. CorruptError: there is none like it."""
    with sound():
        state = State.from_base(meta, blobs)
        check_arrays(state)
    return state


def follow(state: State, meta: Mapping[str, Any], blobs: Mapping[str, bytes]) -> None:
    """Go on to the next commit, by a record that was read. CorruptError: it cannot be the next."""
    with sound():
        check_step(state, meta, blobs)
        state.apply(meta, blobs)
        if meta.get("arrays"):
            check_arrays(state)


def check(state: State, *, arrays: bool = True) -> None:
    """What records have made of a state, once they are all read. `arrays`: its arrays too, where nobody has
    looked at them before. CorruptError: there is no such state."""
    with sound():
        (check_arrays if arrays else check_pieces)(state)


def replay(data: bytes, where: str, *, until: int | None = None) -> State:
    """The state at the end of a segment (or at commit `until` of it). CorruptError: not even its base record
    is valid."""
    state: State | None = None
    try:
        for meta, blobs, end in decode_records(data):
            if state is None:
                if not meta.get("base"):
                    break
                with sound():
                    state = State.from_base(meta, blobs)
                state.base_end = end
            else:
                follow(state, meta, blobs)
            state.end = end
            if until is not None and state.commit >= until:
                break
        if state is not None:
            check(state)
    except CorruptError as error:
        raise CorruptError(f"{where}: {error}") from None
    if state is None:
        raise CorruptError(
            f"{where}: this segment of the commit log has no valid base record; run `replaystore repair`"
        )
    return state


def now() -> float:
    """The time kept with a commit, in milliseconds' resolution."""
    return round(time.time(), 3)
