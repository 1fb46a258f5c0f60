"""What is asked of a server, beside the files of its stores: once more, if no answer comes.

All that is asked may be asked twice: messages have numbers, sessions have names that their client has chosen.
"""

from __future__ import annotations

import http.client
import json
import time
from typing import Any

from urllib3 import BaseHTTPResponse, exceptions

from replaystore.client.addresses import Address
from replaystore.client.told import FULL, error_of
from replaystore.credentials import VARIABLE
from replaystore.errors import ReplayStoreError, StorageError
from replaystore.storage.http import connections
from replaystore.storage.http.asking import AGENT, Again, Patience, retry_after, why, words

__all__ = ["PATIENCE", "Server"]

PATIENCE = Patience(tries=1000, pause=0.05, longest=2.0, connect=10.0, stall=60.0, whole=60.0)
"""Until a server is given up, which may be started anew meanwhile."""
FULL_SECONDS = 2.0
"""In which a disk that is full is tried again."""
MOST_ANSWER = 1 << 20
JSON = "application/json"


class Server:
    """The server of a store."""

    def __init__(self, address: Address, where: str, patience: Patience = PATIENCE) -> None:
        """`where`: what messages call the store."""
        self.address, self.where = address, where
        self._patience = patience

    def ask(self, method: str, url: str, body: bytes | None = None, type_: str = JSON) -> dict[str, Any]:
        """What the server answers, which is JSON. The error that it tells of; StorageError: there is no
        answer, and what was asked for may have been done, or not."""
        begun, tried, after = time.monotonic(), 0, 0.0
        while True:
            try:
                return self._once(method, url, body, type_, begun + self._patience.whole)
            except Again as again:
                problem, after = again, again.after
                seconds = FULL_SECONDS if isinstance(again.__cause__, StorageError) else self._patience.whole
            tried += 1
            pause = self._patience.pause_before(min(tried, 10), after)
            if tried >= self._patience.tries or time.monotonic() + pause > begun + seconds:
                break
            time.sleep(pause)
        if isinstance(problem.__cause__, StorageError):
            raise problem.__cause__
        advice = problem.advice or "try again later"
        raise StorageError(f"{self.where} has no answer: {problem} ({tried} tries): {advice}")

    def _once(self, method: str, url: str, body: bytes | None, type_: str, until: float) -> dict[str, Any]:
        token = self.address.token
        headers = {"User-Agent": AGENT, "Accept-Encoding": "identity"}
        headers |= {"Authorization": f"Bearer {token}"} if token else {}
        headers |= {} if body is None else {"Content-Type": type_}
        response = None
        try:
            response = connections.send(
                url,
                headers,
                connect=self._patience.connect,
                stall=self._patience.stall,
                until=max(until, time.monotonic() + 1),
                method=method,
                body=body,
            )
            return self._understood(response)
        except (exceptions.HTTPError, http.client.HTTPException, OSError, ValueError) as error:
            if isinstance(error, ReplayStoreError):
                raise
            raise why(url, f"{self.where} has no answer", error) from error
        finally:
            if response is not None:
                response.close()
                response.release_conn()

    def _understood(self, response: BaseHTTPResponse) -> dict[str, Any]:
        status = response.status
        if status < 300:
            return self._content(response)
        body = words(response)
        told = error_of(status, body, self.where)
        reason = f"the server answers {status} {http.client.responses.get(status, '')}".rstrip()
        if not body and response.headers.get("Content-Length") != "0":
            raise Again(f"{reason}, and the answer broke off")
        if status in (401, 403):
            raise StorageError(
                f"{self.where}: {reason}: give a token of that server that may do this with token=, or set "
                f"{VARIABLE} to one"
            )
        if status == FULL:
            raise Again(reason) from told
        if status in (408, 425, 429, 502, 503, 504):
            raise Again(
                reason if told is None else str(told), retry_after(response.headers.get("Retry-After", ""))
            )
        raise told or StorageError(f"{self.where}: {reason}: check the address")

    def _content(self, response: BaseHTTPResponse) -> dict[str, Any]:
        data = response.read(MOST_ANSWER, decode_content=False)
        said = response.headers.get("Content-Length")
        if said != str(len(data)):
            raise Again(f"the server sent {len(data)} bytes of {said}")
        if not data:
            return {}
        found = json.loads(data)
        if not isinstance(found, dict):
            raise Again("the server answers what is none of its answers")
        return found
