"""Samplers beside other threads of the process, that write, close or sample too, and in forked children."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from numbered_steps import FIELDS, append, check

import replaystore as rs
from replaystore.columns import coded
from replaystore.columns.coded import CodedColumn
from replaystore.errors import ConflictError, EvictedError
from replaystore.sampling.sampler import Sampler
from replaystore.views.reader import BufferReader

pytestmark = pytest.mark.filterwarnings("ignore:.*more than slab_bytes")

forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
LIMIT = 30
"""Seconds after which a child hangs."""


@pytest.fixture
def _switching() -> Iterator[None]:
    """Threads take turns all the time."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("_switching")
@pytest.mark.parametrize(("name", "capacity"), [("a.zarr", None), ("a.zarr", 500), ("a.h5", None)])
def test_threads_sample_a_buffer_while_it_is_written(tmp_path: Path, name: str, capacity: int | None) -> None:
    """All of the process's one buffer: some only sample, one goes on to each commit."""
    storage = {
        "observation": {"codec": "zstd:1", "chunk_rows": 5},
        "terminated": {"codec": "gzip:1", "chunk_rows": 3},
    }
    with rs.create(
        tmp_path / name, rs.Schema(FIELDS), capacity=capacity, storage=storage, durability="none"
    ) as writer:
        for _ in range(20):
            append(writer, 20)
        done, wrong, rng = threading.Event(), list[BaseException](), np.random.default_rng(0)
        orders = ("uniform", "epoch", "trajectory")
        samplers = [
            writer.sampler(16, order=order, seed=0, prefetch=number, slab_bytes=3000 * number)
            for number, order in enumerate(orders)
        ]

        def consume(sampler: Sampler, every: int) -> None:
            try:
                for number in range(10**9):
                    if done.is_set():
                        return
                    try:
                        check(sampler.sample(), 0, 10**9)
                    except EvictedError:
                        sampler.refresh()
                    if number % every == 0:
                        sampler.refresh()
            except BaseException as error:  # noqa: BLE001  # told below
                wrong.append(error)

        threads = [
            threading.Thread(target=consume, args=(sampler, 10 ** (number + 1)))
            for number, sampler in enumerate(samplers)
        ]
        for thread in threads:
            thread.start()
        end = time.monotonic() + 1.5
        while time.monotonic() < end and not wrong:
            append(writer, int(rng.integers(1, 50)))
        done.set()
        for thread in threads:
            thread.join()
        for sampler in samplers:
            sampler.close()
        assert not wrong, "".join(traceback.format_exception(wrong[0]))


@pytest.mark.parametrize("prefetch", [0, 2])
def test_no_batch_is_made_of_what_a_closed_buffer_did_not_decode(
    tmp_path: Path, prefetch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    with rs.create(
        tmp_path / "a.zarr", rs.Schema(FIELDS), storage={"observation": {"codec": "zstd:1", "chunk_rows": 2}}
    ) as writer:
        append(writer, 2000)
    decode, job = CodedColumn.decode_job, threading.Event()

    def slowly(self: CodedColumn, *arguments: object) -> object:
        job.set()
        time.sleep(0.005)
        return decode(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(CodedColumn, "decode_job", slowly)
    monkeypatch.setattr(coded, "JOB_BYTES", 100)
    for _ in range(5):
        reader = rs.open(tmp_path / "a.zarr")
        sampler = reader.sampler(32, seed=0, prefetch=prefetch, slab_bytes=70 * 48)
        job.clear()
        closing = threading.Thread(
            target=lambda reader=reader: (job.wait(5), time.sleep(0.02), reader.close())
        )
        closing.start()
        with pytest.raises(ConflictError, match="closed"):  # noqa: PT012  # after as many batches as there may be
            while True:
                check(sampler.sample(), 0, 2000)
        closing.join()


# --- forked children


def in_child(action: Callable[[], None]) -> None:
    """Fails if the action does, or hangs, in a forked child."""
    child = os.fork()
    if not child:
        signal.alarm(LIMIT)
        status = 1
        try:
            action()
            status = 0
        except BaseException:  # noqa: BLE001  # a child must not go on with the tests
            traceback.print_exc()
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0


def forked_buffer(path: Path) -> BufferReader:
    with rs.create(
        path,
        rs.Schema(FIELDS),
        storage={"observation": {"codec": "zstd:1", "chunk_rows": 4}},
        durability="none",
    ) as writer:
        append(writer, 4000)
    return rs.open(path)


@forks
@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
@pytest.mark.parametrize("order", ["uniform", "epoch"])
@pytest.mark.parametrize("name", ["a.zarr", "a.h5"])
def test_a_child_goes_on_with_the_sampler_whatever_its_thread_was_at(
    tmp_path: Path, name: str, order: str
) -> None:
    with forked_buffer(tmp_path / name) as reader:
        expected = reader.sampler(64, order=order, seed=3, prefetch=0, slab_bytes=80 * 96)
        sampler = reader.sampler(64, order=order, seed=3, prefetch=2, slab_bytes=80 * 96)
        for turn in range(12):
            time.sleep(turn % 5 * 0.0005)
            check(sampler.sample(), 0, 4000)
            expected.sample()
            state = expected.state_dict()

            def go_on() -> None:
                again = reader.sampler(64, order=order, seed=3, prefetch=0, slab_bytes=80 * 96)
                again.load_state_dict(state)  # noqa: B023  # it is called at once
                for _ in range(20):
                    batch, wanted = sampler.sample(), again.sample()
                    assert all(np.array_equal(batch[field], wanted[field]) for field in wanted)

            in_child(go_on)


@forks
@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
@pytest.mark.parametrize("name", ["a.zarr", "a.h5"])
def test_a_child_does_not_wait_for_locks_that_nobody_will_release(tmp_path: Path, name: str) -> None:
    with forked_buffer(tmp_path / name) as reader:
        sampler = reader.sampler(64, seed=0, prefetch=0)
        check(sampler.sample(), 0, 4000)
        column = reader.stored_column("steps/observation")
        assert isinstance(column, CodedColumn)
        locks = [
            reader._opening,
            reader.turn,
            reader._store.state_lock,
            reader._store.container.files._lock,
            column._reading,
        ]
        if name.endswith(".h5"):
            locks.append(reader._store.container._index.lock)  # type: ignore[attr-defined]
        held, enough = threading.Event(), threading.Event()

        def hold() -> None:
            for lock in locks:
                lock.acquire()
            held.set()
            enough.wait()
            for lock in locks:
                lock.release()

        thread = threading.Thread(target=hold)
        thread.start()
        held.wait()

        def read() -> None:
            for _ in range(30):
                check(sampler.sample(), 0, 4000)
            assert reader["observation"][100:200][:, 0].tolist() == list(range(100, 200))
            check(reader.sampler(64, seed=1, prefetch=2).sample(), 0, 4000)
            sampler.refresh()

        try:
            in_child(read)
        finally:
            enough.set()
            thread.join()
