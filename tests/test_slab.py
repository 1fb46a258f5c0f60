"""Decoded chunks under one table: the rows of a plain array whatever is held, expected and taken, and nothing
that is needed makes room."""

from __future__ import annotations

import threading
from collections.abc import Callable

import numpy as np
import pytest
from columns import Coded, Counting, ints, random_rows, same
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from replaystore.columns import coded, decoding_pool
from replaystore.columns.protocol import Rows
from replaystore.columns.slab import Slab
from replaystore.containers.array_spec import ArraySpec
from replaystore.errors import CorruptError
from replaystore.storage.memory import MemoryFiles

SPEC = ArraySpec(np.dtype("f4"), (3,), 4, codec="zstd:1")


@pytest.fixture(autouse=True)
def _fresh_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding_pool, "shared", decoding_pool.Shared())
    monkeypatch.setattr(decoding_pool.shared, "workers", 1)  # beside the caller


def taken(slab: Slab, rows: NDArray[np.int64]) -> Rows:
    out = np.empty((len(rows), *SPEC.shape), SPEC.dtype)
    slab.take(rows, {"x": out})
    return out


def chunk_of(numbers: list[int]) -> NDArray[np.int64]:
    """The first row of each of these chunks."""
    return ints(*numbers) * SPEC.chunk_rows


@settings(max_examples=150)
@given(st.data(), st.integers(1, 8), st.sampled_from([1, 100, 1 << 20]))
def test_rows_are_those_of_the_array_whatever_is_expected(data: st.DataObject, slots: int, job: int) -> None:
    model = random_rows(SPEC, 4 * 12 + 3)
    column = Coded(MemoryFiles("test"), "zarr", SPEC, model).column()
    slab = Slab({"x": column}, slots * SPEC.chunk_bytes)
    chunks = st.lists(st.integers(0, 11), min_size=1, max_size=8, unique=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(coded, "JOB_BYTES", job)
        for _ in range(data.draw(st.integers(1, 12))):
            action = data.draw(st.sampled_from(["hold", "expect", "take", "choose", "choose_next"]))
            if action == "take":
                rows = ints(*data.draw(st.lists(st.integers(0, len(model) - 1), max_size=20)))
                assert same(taken(slab, rows), model[rows])
                continue
            first = chunk_of(data.draw(chunks))
            if action.startswith("choose"):
                rows = ints(*data.draw(st.lists(st.integers(0, len(model) - 1), max_size=20)))
                getattr(slab, action)(rows[:, None])
            elif action == "hold":
                most = max(1, slots // 16) if slab.chosen.active else slots
                fits = slab.hold(first, first)
                assert fits == (len(first) <= most)
                if fits:
                    assert (slab._slot[first // 4] >= 0).all()
            else:
                held = slab._slot[(slab._used[slab._slot] == slab._now) & (slab._slot >= 0)]
                slab.expect(first, first)
                # What was asked for last does not make room.
                assert set(held) <= set(slab._slot[slab._slot >= 0].tolist())
    column.close()


def gated(slots: int) -> tuple[Slab, Rows, threading.Event, Callable[[], int]]:
    """A slab whose decoding in the background waits for an event, its rows, the event, and how many chunks
    the caller has decoded."""
    model, opened, own, caller = random_rows(SPEC, 4 * 12), threading.Event(), [0], threading.get_ident()
    store = Coded(MemoryFiles("test"), "zarr", SPEC, model)
    codec = Counting(store.codec)

    def decode_all(
        stored: list[bytes], checksums: list[int], out: NDArray[np.uint8], places: list[int]
    ) -> list[int]:
        if threading.get_ident() == caller:
            own[0] += len(stored)
        else:
            opened.wait(30)
        return store.codec.decode_all(stored, checksums, out, places)

    codec.decode_all = decode_all  # type: ignore[assignment]
    return Slab({"x": store.column(codec=codec)}, slots * SPEC.chunk_bytes), model, opened, lambda: own[0]


def test_nobody_waits_for_what_was_only_expected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coded, "JOB_BYTES", 1)
    slab, model, opened, own = gated(slots=6)
    slab.expect(chunk_of([0]), chunk_of([0]))  # by the thread, which waits
    slab.hold(chunk_of([5]), chunk_of([5]))
    rows = chunk_of([5, 6])
    assert same(taken(slab, rows), model[rows])
    assert own() == 2
    opened.set()
    assert same(taken(slab, chunk_of([0])), model[:1])
    assert own() == 2


def test_who_waits_decodes_what_nobody_has_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coded, "JOB_BYTES", 1)
    slab, model, opened, own = gated(slots=6)
    slab.expect(chunk_of([0]), chunk_of([4]))
    threading.Timer(0.2, opened.set).start()
    assert same(taken(slab, chunk_of([0, 1, 2, 3, 4])), model[chunk_of([0, 1, 2, 3, 4])])
    assert own() == 4


def test_what_is_expected_never_makes_room() -> None:
    slab, model, opened, _ = gated(slots=4)
    slab.expect(chunk_of([0, 1]), chunk_of([0, 1]))
    for chunk in range(2, 9):
        slab.hold(chunk_of([chunk]), chunk_of([chunk]))
    opened.set()
    slab.hold(chunk_of([0, 1, 8]), chunk_of([0, 1, 8]))
    for chunk in (0, 1, 8):
        rows = ints(*range(4 * chunk, 4 * chunk + 4))
        assert same(taken(slab, rows), model[rows])
    slab.expect(chunk_of([2, 3, 4]), chunk_of([2, 3, 4]))  # there is no room for these
    assert slab._coming is None


def test_a_damaged_chunk_among_those_expected_is_an_error_where_it_is_asked_for() -> None:
    model = random_rows(SPEC, 4 * 8)
    store = Coded(MemoryFiles("test"), "zarr", SPEC, model)
    slab = Slab({"x": store.column()}, 6 * SPEC.chunk_bytes)
    entry = store.entries[2]
    store.files.write(entry.object, entry.offset + 5, b"\xff\x00")
    slab.expect(chunk_of([1, 2, 3]), chunk_of([1, 2, 3]))
    assert same(taken(slab, chunk_of([1])), model[chunk_of([1])])
    assert slab.hold(chunk_of([1, 2, 4]), chunk_of([1, 2, 4]))
    assert same(taken(slab, chunk_of([4])), model[chunk_of([4])])
    for _ in range(2):
        with pytest.raises(CorruptError, match="chunk 2 of steps/x"):
            taken(slab, chunk_of([1, 2, 3]))
    assert same(taken(slab, chunk_of([1, 3, 7])), model[chunk_of([1, 3, 7])])
