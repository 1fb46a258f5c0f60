"""What a backend must do at a commit, and between two: what is seen when, by whom, and what can be gone back
to."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest

from replaystore.errors import ConflictError, EvictedError, NotFoundError, SchemaError
from replaystore.schema.fields import Field
from replaystore.testing.contents import Contents
from replaystore.testing.plain import PlainBuffer
from replaystore.testing.samples import columns, small, storage
from replaystore.testing.stores import Store

__all__ = ["CommitSuite"]


class CommitSuite:
    """Commits, readers, older commits, rings."""

    def test_rows_are_seen_from_the_commit_on(self, store: Store) -> None:
        buffer = store.create()
        buffer.append(columns(small(), 10, seed=1))
        assert len(buffer) == len(store.open()) == 0

        assert buffer.commit() == buffer.commit_id == 1

        assert len(buffer) == len(store.open()) == 10
        assert buffer.commit() == 1, "nothing is new"

    @pytest.mark.parametrize("ragged", [False, True])
    def test_what_is_not_committed_is_gone_after_a_crash(self, store: Store, ragged: bool) -> None:
        buffer, plain = store.create(ragged=ragged), PlainBuffer(small(ragged=ragged))
        for recorder in (buffer, plain):
            recorder.append(columns(buffer.schema, 10, seed=1))
            recorder.commit()
        buffer.append(columns(buffer.schema, 30, seed=2))
        buffer.abandon()
        assert plain.contents().difference(Contents.of(store.open())) == ""

        buffer = store.open("r+")
        assert plain.contents().difference(Contents.of(buffer)) == ""
        for recorder in (buffer, plain):
            recorder.append(columns(buffer.schema, 30, seed=3))
            recorder.close()
        assert plain.contents().difference(Contents.of(store.open())) == ""

    def test_a_late_field_that_was_not_committed_is_gone_after_a_crash(self, store: Store) -> None:
        buffer = store.create()
        buffer.append(columns(small(), 10, seed=1))
        buffer.commit()
        buffer.add_field("info/late", Field(np.dtype(np.int8), (), "info"))
        buffer.append(columns(buffer.schema, 10, seed=2))
        buffer.abandon()

        buffer = store.open("r+")

        assert "info/late" not in buffer.schema.fields
        buffer.append(columns(small(), 10, seed=3))
        buffer.add_field("info/late", Field(np.dtype(np.float64), (2,), "info"))
        buffer.close()
        assert store.open()["info/late"][:].tolist() == [[0.0, 0.0]] * 20

    def test_leaving_with_commits(self, store: Store) -> None:
        with store.create() as buffer:
            buffer.append(columns(small(), 10, seed=1))
        with contextlib.suppress(KeyError), store.open("r+") as buffer:
            buffer.append(columns(small(), 5, seed=2))
            raise KeyError

        assert len(store.open()) == 15

    def test_closing_twice_is_closing_once(self, store: Store) -> None:
        buffer = store.create()
        buffer.append(columns(small(), 10, seed=1))
        buffer.close()
        buffer.close()
        reader = store.open()
        reader.close()
        reader.close()

        assert reader.closed
        with pytest.raises(ConflictError, match="closed"):
            reader.read(slice(None))
        with pytest.raises(ConflictError, match="closed"):
            buffer.append(columns(small(), 1, seed=1))

    def test_a_reader_refuses_to_write(self, store: Store) -> None:
        store.create().close()
        reader = store.open()

        for change in (
            reader.commit,
            reader.publish,
            reader.writer,
            lambda: reader.append(columns(small(), 1, seed=1)),
            lambda: reader.rollback(0),
            lambda: reader.add_field("info/late", Field(np.dtype(np.int8), (), "info")),
            lambda: reader.set_trajectory_column("score", []),
            lambda: setattr(reader, "metadata", {}),
        ):
            with pytest.raises(ConflictError, match="open for reading"):
                change()

    def test_there_is_one_writer(self, store: Store) -> None:
        buffer = store.create()
        with pytest.raises(ConflictError, match="open for writing"):
            store.open("r+")
        buffer.close()

        with store.open("r+"), pytest.raises(ConflictError, match="open for writing"):
            store.open("r+")
        store.open("r+").close()

    @pytest.mark.parametrize("ragged", [False, True])
    def test_readers_follow_a_writer_when_they_refresh(self, store: Store, ragged: bool) -> None:
        buffer, plain = store.create(ragged=ragged), PlainBuffer(small(ragged=ragged))
        reader, late = store.open(), store.open()
        for turn in range(12):
            for recorder in (buffer, plain):
                recorder.append(columns(buffer.schema, turn, seed=turn), env=turn % 2)
            before = reader.commit_id
            assert plain.contents(before).difference(Contents.of(reader)) == ""
            buffer.commit()
            plain.commit()
            assert plain.contents(before).difference(Contents.of(reader)) == ""
            assert reader.refresh() == (turn > 0)
            assert not reader.refresh()
            assert plain.contents().difference(Contents.of(reader)) == ""
            if turn == 6:
                buffer.publish()
                plain.publish()
        assert plain.contents(0).difference(Contents.of(late)) == ""
        assert late.refresh()
        assert plain.contents().difference(Contents.of(late)) == ""
        assert not buffer.refresh()

    @pytest.mark.parametrize("ragged", [False, True])
    def test_every_commit_can_be_opened(self, store: Store, ragged: bool) -> None:
        buffer, plain = store.create(ragged=ragged), PlainBuffer(small(ragged=ragged))
        for turn in range(10):
            for recorder in (buffer, plain):
                recorder.append(
                    columns(buffer.schema, 1 + turn * 3 % 8, seed=turn),
                    env=turn % 2,
                    final_observation=None,
                )
                recorder.commit()
        for _ in range(2):
            for commit in plain.commits():
                with store.open(commit=commit) as view:
                    assert view.commit_id == commit
                    assert plain.contents(commit).difference(Contents.of(view)) == "", f"commit {commit}"
                    assert not view.refresh()
            buffer.close()
        for commit in (11, -1):
            with pytest.raises(NotFoundError, match=f"commit {commit}"):
                store.open(commit=commit)
        with pytest.raises(SchemaError, match="rollback"):
            store.open("r+", commit=1)

    @pytest.mark.parametrize(("target", "ragged"), [(0, False), (3, False), (3, True), (6, True)])
    def test_going_back_to_a_commit_gives_exactly_what_it_was(
        self, store: Store, target: int, ragged: bool
    ) -> None:
        buffer, plain = store.create(ragged=ragged), PlainBuffer(small(ragged=ragged))
        for turn in range(6):
            for recorder in (buffer, plain):
                recorder.append(columns(buffer.schema, 5 + turn, seed=turn))
                recorder.commit()
        reader, old = store.open(), store.open(commit=4)
        expected, older = plain.contents(), plain.contents(4)
        raw = next(name for name in small().fields if name not in storage(store.capabilities.default_codec))
        before, unread = reader[raw][:], store.open()
        assert expected.difference(Contents.of(reader)) == older.difference(Contents.of(old)) == ""
        for recorder in (buffer, plain):
            recorder.append(columns(buffer.schema, 50, seed=20))
            recorder.rollback(target)
            recorder.commit()
        assert plain.commit_id == buffer.commit_id == 7
        assert plain.contents().difference(Contents.of(buffer)) == ""
        for recorder in (buffer, plain):
            recorder.append(columns(buffer.schema, 70, seed=21))
            recorder.commit()

        assert reader[raw][:].tobytes() == before.tobytes(), (
            "raw rows that a reader has open stay as they are"
        )
        for view, seen in ((reader, expected), (old, older), (unread, expected)):
            try:
                shown = Contents.of(view)
            except ConflictError:
                continue
            assert seen.difference(shown) == "", "a reader sees what it saw, or is told"
        assert plain.contents().difference(Contents.of(store.open())) == ""
        assert reader.refresh()
        assert plain.contents().difference(Contents.of(reader)) == ""
        buffer.close()
        for commit in plain.commits():
            assert plain.contents(commit).difference(Contents.of(store.open(commit=commit))) == "", (
                f"commit {commit}"
            )
        for dead in range(target + 1, 7):
            with pytest.raises(NotFoundError, match="rolled back"):
                store.open(commit=dead)

    def test_going_back_before_a_late_field_takes_it_away(self, store: Store) -> None:
        buffer, plain = store.create(), PlainBuffer(small())
        for recorder in (plain, buffer):
            recorder.append(columns(small(), 9, seed=1))
            recorder.commit()
            recorder.add_field("info/late", Field(np.dtype(np.int8), (), "info"))
            recorder.append(columns(recorder.schema, 9, seed=2))
            recorder.commit()
            recorder.set_trajectory_column("score", np.arange(_ended(plain)))
            recorder.rollback(1)
            assert recorder.schema == small()
            recorder.append(columns(small(), 9, seed=3))
            recorder.close()

        assert plain.contents().difference(Contents.of(store.open())) == ""

    @pytest.mark.parametrize("shapes", [((2,), ()), ((), (2,)), ((2, 3), (4,))])
    def test_a_late_field_that_was_given_up_can_be_of_another_shape(
        self, store: Store, shapes: tuple[tuple[int, ...], ...]
    ) -> None:
        """Its rows are given up first, then the field; nothing of either is in the way of the next one."""
        buffer, plain = store.create(), PlainBuffer(small())
        for recorder in (plain, buffer):
            for shape in shapes:
                recorder.add_field("info/late", Field(np.dtype(np.float32), shape, "info"))
                recorder.commit()
                with_field = recorder.commit_id
                recorder.append(columns(recorder.schema, 9, seed=1))
                recorder.commit()
                if shape is shapes[0]:
                    recorder.rollback(with_field)
                    recorder.rollback(with_field - 1)
            recorder.close()

        assert plain.contents().difference(Contents.of(store.open())) == ""

    def test_a_writer_must_be_closed_before_going_back(self, store: Store) -> None:
        buffer = store.create()
        writer = buffer.writer(1)
        with pytest.raises(ConflictError, match="writer"):
            buffer.rollback(0)
        writer.close()
        buffer.rollback(0)
        with pytest.raises(NotFoundError, match="commit 99"):
            buffer.rollback(99)

    def test_publishing_changes_nothing_that_we_see(self, store: Store) -> None:
        buffer, plain = store.create(), PlainBuffer(small())
        for turn in range(5):
            for recorder in (buffer, plain):
                recorder.append(columns(small(), 7, seed=turn))
                recorder.publish()
                recorder.publish()
            assert plain.contents().difference(Contents.of(store.open())) == ""
        assert buffer.commit_id == 5

    # --- rings

    @pytest.mark.parametrize("ragged", [False, True])
    def test_a_ring_keeps_the_newest_steps(self, store: Store, ragged: bool) -> None:
        _need_rings(store)
        buffer = store.create(ragged=ragged, capacity=40)
        plain = PlainBuffer(buffer.schema, capacity=40)
        reader = store.open()
        for turn in range(30):
            for recorder in (buffer, plain):
                recorder.append(columns(buffer.schema, 11, seed=turn), env=turn % 2)
                recorder.commit()
            with store.open() as other:
                for view in (buffer, other):
                    assert plain.contents().difference(Contents.of(view)) == ""
            if turn % 3 == 0:
                reader.refresh()
                assert plain.contents().difference(Contents.of(reader)) == ""
        assert len(buffer) == store.open().capacity == 40
        buffer.close()
        with store.open("r+") as buffer:
            assert plain.contents().difference(Contents.of(buffer)) == ""

    def test_a_ring_forgets_older_commits(self, store: Store) -> None:
        _need_rings(store)
        buffer = store.create(capacity=40)
        for turn in range(30):
            buffer.append(columns(small(), 11, seed=turn))
            buffer.commit()

        for commit in (1, 29):
            with pytest.raises(EvictedError, match="left the ring"):
                store.open(commit=commit)
            with pytest.raises(EvictedError, match="left the ring"):
                buffer.rollback(commit)
        assert len(store.open(commit=30)) == 40

    def test_the_columns_of_a_ring_are_of_the_trajectories_kept(self, store: Store) -> None:
        _need_rings(store)
        buffer, plain = store.create(capacity=30), PlainBuffer(small(), capacity=30)
        for turn in range(8):
            for recorder in (plain, buffer):
                recorder.append(columns(small(), 13, seed=turn, ends=0.3))
                recorder.commit()
                recorder.set_trajectory_column("score", np.arange(_ended(plain), dtype=np.float64) + turn)
            assert plain.contents().difference(Contents.of(store.open())) == ""


def _ended(plain: PlainBuffer) -> int:
    return int((~plain.contents().table["open"]).sum())


def _need_rings(store: Store) -> None:
    if not store.capabilities.gives_back_space:
        pytest.skip("this backend cannot give space back, and has no rings")
