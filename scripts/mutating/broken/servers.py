"""Stores on a server."""

from __future__ import annotations

from mutant import Mutant

__all__ = ["MUTANTS"]

ASKING = "src/replaystore/storage/http/asking.py"
FAULTS = "test_http_answers.py::test_a_fault_of_the_server_is_tried_again_or_is_one_error"

MUTANTS: tuple[Mutant, ...] = (
    Mutant(
        "server-range-not-compared",
        ASKING,
        "    return said == right\n",
        "    return True\n",
        "an answer to another question is none",
        (FAULTS,),
    ),
    Mutant(
        "server-body-not-measured",
        ASKING,
        "    if len(data) != length:\n",
        "    if len(data) > length:\n",
        "a body that breaks off is asked for again",
        (FAULTS,),
    ),
    Mutant(
        "server-coding-not-looked-at",
        ASKING,
        '    if coding not in ("identity", ""):\n',
        "    if not coding:\n",
        "bytes that are coded on the way are no bytes of the file",
        (FAULTS,),
    ),
    Mutant(
        "server-without-deadline",
        "src/replaystore/storage/http/connections.py",
        "        if time.monotonic() > self._until:\n",
        "        if time.monotonic() < 0:\n",
        "a server that sends a byte now and then is left",
        ("test_http_answers.py::test_a_server_that_sends_a_byte_now_and_then_is_left",),
    ),
    Mutant(
        "server-pinned-file-not-compared",
        "src/replaystore/storage/http/files.py",
        "        if known is not None and known != version:\n",
        "        if known is None and known != version:\n",
        "a zip file that another replaces is not read on",
        ("test_http_stores.py::test_another_zip_that_takes_the_place_is_a_conflict",),
    ),
)
