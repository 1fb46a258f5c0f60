"""Clients of a `StoreWriter` that repeat, hurry and lose answers, and what has to be in the store whatever
happens meanwhile: of each client all messages up to some number, once and in order, those that were
acknowledged among them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

import replaystore as rs
from replaystore.checking.verify import verify
from replaystore.errors import ConflictError, NotFoundError, StorageError
from replaystore.schema.fields import Field, Schema
from replaystore.service.sent import Run, Sent
from replaystore.service.store_writer import StoreWriter

__all__ = ["ENVS", "SCHEMA", "check", "committed", "message", "run_clients", "session"]

SCHEMA = Schema(
    {
        "observation": Field("int32", (4,), "observation"),
        "reward": Field("float64", (), "reward"),
        "terminated": Field("bool", (), "terminated"),
    }
)
ENVS = 2
"""Environments of each client."""


def session(client: int) -> str:
    """The id of a client's session."""
    return f"{client:032x}"


def message(client: int, number: int) -> Sent:
    """What a client sends under a number: mostly one step, now and then many, of one environment or both."""
    kind = (client * 7 + number * 5) % 11
    steps = 6 if kind == 0 else 1
    envs = [0, 1] if kind in (1, 2) else [number % ENVS]
    runs = [Run(env=env, steps=steps, finals=steps if kind == 0 else 1, cut=kind == 3) for env in envs]
    rows = [(client, env, number, step) for env in envs for step in range(steps)]
    observation = np.array(rows, np.int32)
    ends = np.full(len(rows), kind in (0, 4), np.bool_)
    columns = {"observation": observation, "reward": observation[:, 2] / 8, "terminated": ends}
    finals = {"observation": observation + 1 if kind == 0 else (observation + 1)[steps - 1 :: steps]}
    return Sent(columns, finals, runs, most=ENVS)


def rows_of(client: int, count: int) -> Iterator[tuple[int, int, int]]:
    """(environment, message, step) of the first messages of a client, in their order."""
    for number in range(1, count + 1):
        for _, env, _, step in message(client, number).columns["observation"].tolist():
            yield env, number, step


def committed(buffer: rs.Buffer) -> dict[int, int]:
    """By client, the last message that a commit has."""
    kept = {key.removeprefix("replaystore.session:"): value for key, value in buffer.more.items()}
    return {int(key, 16): value[2] for key, value in kept.items()}


def check(buffer: rs.Buffer, acknowledged: dict[int, int]) -> dict[int, int]:
    """Whether a store has what it has to; the messages of each client that it has."""
    found, rows = committed(buffer), buffer["observation"][:].tolist()
    for client, number in acknowledged.items():
        assert found[client] >= number, (
            f"client {client}: {number} was acknowledged, {found[client]} is there"
        )
    there: dict[int, list[tuple[int, int, int]]] = {client: [] for client in found}
    for client, env, number, step in rows:
        there[client].append((env, number, step))
    for client, number in found.items():
        for env in range(ENVS):
            had = [row for row in there[client] if row[0] == env]
            assert had == [row for row in rows_of(client, number) if row[0] == env], f"client {client}"
    envs = buffer.trajectories["env"]
    for number in range(buffer.num_trajectories):
        steps = buffer.trajectory(number)["observation"][: int(buffer.trajectories["length"][number])]
        first = buffer.more["replaystore.session:" + session(int(steps[0][0]))][0]
        assert {(row[0], first + row[1]) for row in steps.tolist()} == {(steps[0][0], envs[number])}
    return found


def sound(location: str) -> None:
    """Nothing is wrong with a store."""
    assert verify(location).problems == []


def run_clients(
    writer: StoreWriter,
    clients: int,
    stop: int,
    *,
    seed: int = 0,
    tell: Callable[[tuple[int, int]], None] = lambda _: None,
    patience: int = 1000,
) -> list[str]:
    """Have so many clients, each in its thread, send messages up to this number, whatever is refused; what
    went wrong. `tell`: of each message that was acknowledged."""
    wrong: list[str] = []

    def one(client: int) -> None:
        try:
            _Client(writer, client, np.random.default_rng([seed, client]), tell, patience).send_all(stop)
        except BaseException as error:  # noqa: BLE001  # the test's own thread says so
            wrong.append(f"client {client}: {type(error).__name__}: {error}")

    threads = [threading.Thread(target=one, args=(client,)) for client in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return wrong


class _Client:
    def __init__(
        self, writer: StoreWriter, client: int, rng: np.random.Generator, tell: Any, patience: int
    ) -> None:
        self._writer, self._client, self._rng, self._tell = writer, client, rng, tell
        self._patience = patience

    def send_all(self, stop: int) -> None:
        number = self._begin()
        while number <= stop:
            try:
                number = self._go_on(number, stop)
            except NotFoundError:
                self._begin()
            except StorageError:
                self._patience -= 1
                if self._patience < 0:
                    raise
                number = self._begin()

    def _begin(self) -> int:
        while True:
            try:
                begun = self._writer.begin(session(self._client), ENVS).result(20)
            except StorageError:
                self._patience -= 1
                if self._patience < 0:
                    raise
            else:
                return begun.next

    def _put(self, number: int) -> Any:
        return self._writer.send(session(self._client), number, message(self._client, number))

    def _go_on(self, number: int, stop: int) -> int:
        """Send a message, in one way or another; which is the next."""
        way = int(self._rng.integers(6))
        if way == 0 and number > 1:  # an old one, once more
            assert self._put(int(self._rng.integers(1, number))).result(20).number >= number - 1
        if way == 1:  # too early
            try:
                early = self._put(number + 2).result(20)
                raise AssertionError(f"{number + 2} was taken before {number}: {early}")
            except ConflictError as error:
                assert f"{number} is the next" in str(error)  # noqa: PT017
        if way == 2:  # the answer is lost
            self._put(number)
        if way == 3 and number < stop:  # two at a time
            futures = [self._put(number), self._put(number + 1)]
            last = [future.result(20) for future in futures][-1]
            assert last.number >= number + 1
            number += 1
        else:
            assert self._put(number).result(20).number >= number
        self._tell((self._client, number))
        return number + 1
