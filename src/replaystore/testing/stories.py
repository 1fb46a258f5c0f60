"""What a backend must do with trajectories: where they begin and end, what is known of them, and that commits
do not matter."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from replaystore.errors import ConflictError, SchemaError, UnsupportedError
from replaystore.schema.fields import Field
from replaystore.testing.contents import Contents, final_by_field
from replaystore.testing.plain import PlainBuffer
from replaystore.testing.samples import Columns, columns, observations, play, recording, small
from replaystore.testing.stores import Store

__all__ = ["TrajectorySuite"]

INHERITED = [HealthCheck.function_scoped_fixture, HealthCheck.differing_executors]
"""Several classes of one process have the tests of a suite."""


def steps(
    count: int,
    seed: int,
    *,
    terminated: tuple[int, ...] = (),
    truncated: tuple[int, ...] = (),
    ragged: bool = False,
) -> Columns:
    """Rows that end where it is said."""
    rows = columns(small(ragged=ragged), count, seed)
    for name, places in (("terminated", terminated), ("truncated", truncated)):
        rows[name][:] = False
        rows[name][list(places)] = True
    return rows


class TrajectorySuite:
    """Trajectories, recorded by `append` and by writers."""

    def test_a_trajectory_of_one_step_is_one(self, store: Store) -> None:
        buffer = store.create()
        buffer.append(steps(3, 1, terminated=(0, 1, 2)))
        buffer.commit()

        table = store.open().trajectories

        assert table["length"].tolist() == [1, 1, 1]
        assert table["trajectory"].tolist() == [0, 1, 2]
        assert table["open"].tolist() == [False, False, False]

    def test_both_ends_at_once_are_kept_apart(self, store: Store) -> None:
        buffer = store.create()
        buffer.append(steps(9, 2, terminated=(2, 5), truncated=(5, 7)))
        buffer.commit()

        table = store.open().trajectories

        assert table["length"].tolist() == [3, 3, 2, 1]
        assert table["terminated"].tolist() == [True, True, False, False]
        assert table["truncated"].tolist() == [False, True, True, False]
        assert table["open"].tolist() == [False, False, False, True]

    def test_a_trajectory_may_be_longer_than_a_shard(self, store: Store) -> None:
        rows = steps(150, 3, truncated=(149,))
        final = {name: values[0] for name, values in observations(small(), 1, 4).items()}
        buffer = store.create()
        buffer.append({name: values[:70] for name, values in rows.items()})
        buffer.commit()
        buffer.append({name: values[70:] for name, values in rows.items()}, final_observation=_nested(final))
        buffer.commit()

        story = store.open().trajectory(0)

        assert len(story) == story.info["length"] == 150
        for name, values in rows.items():
            assert story.columns[name].tobytes() == values.tobytes()
        ending = final_by_field(story)
        assert ending is not None
        assert {name: value.tobytes() for name, value in ending.items()} == {
            n: v.tobytes() for n, v in final.items()
        }

    @pytest.mark.parametrize("ragged", [False, True])
    def test_a_final_observation_belongs_to_each_trajectory_touched(self, store: Store, ragged: bool) -> None:
        buffer, plain = store.create(ragged=ragged), PlainBuffer(small(ragged=ragged))
        finals = observations(small(ragged=ragged), 3, 5)
        for recorder in (buffer, plain):
            recorder.append(steps(6, 4, terminated=(1, 3), ragged=ragged), final_observation=_nested(finals))
            recorder.commit()
        assert plain.contents().difference(Contents.of(store.open())) == ""

        for recorder in (buffer, plain):  # does not begin with what was said to follow
            recorder.append(steps(2, 6, terminated=(1,), ragged=ragged))
            recorder.commit()
        assert plain.contents().difference(Contents.of(store.open())) == ""
        assert buffer.trajectory(2).final_observation is None
        with pytest.raises(SchemaError, match="3 rows, but these steps touch 2"):
            buffer.append(steps(6, 7, terminated=(1,), ragged=ragged), final_observation=_nested(finals))

    def test_the_source_may_say_where_trajectories_end(self, store: Store) -> None:
        buffer, plain = store.create(), PlainBuffer(small())
        for recorder in (buffer, plain):
            recorder.append(steps(8, 8, terminated=(1, 6)), ends=[3, 7])
            recorder.append(steps(4, 9), env=5, split="test", ends=[])
            recorder.append(steps(2, 10, terminated=(1,)), env=5)
            recorder.close()

        reader = store.open()

        assert plain.contents().difference(Contents.of(reader)) == ""
        assert reader.trajectories["length"].tolist() == [4, 4, 6]
        assert reader.trajectories["split"].tolist() == ["", "", "test"]

    @pytest.mark.parametrize("ragged", [False, True])
    def test_environments_take_turns(self, store: Store, ragged: bool) -> None:
        buffer, plain = store.create(ragged=ragged), PlainBuffer(small(ragged=ragged))
        for turn in range(12):
            for recorder in (buffer, plain):
                recorder.append(columns(small(ragged=ragged), turn % 5, seed=turn), env=turn * 7 % 3)
                if turn % 4 == 0:
                    recorder.commit()
        for recorder in (buffer, plain):
            recorder.commit()

        assert plain.contents().difference(Contents.of(store.open())) == ""

    @pytest.mark.parametrize("ragged", [False, True])
    @pytest.mark.parametrize("masks", [False, True])
    def test_a_writer_keeps_environments_apart(self, store: Store, masks: bool, ragged: bool) -> None:
        schema = small(ragged=ragged)
        buffer, plain = store.create(ragged=ragged), PlainBuffer(schema)
        writers = [recorder.writer(4, split="train") for recorder in (buffer, plain)]
        for step in recording(schema, 4, 40, seed=11, masks=masks):
            for writer in writers:
                play(writer, step, schema)
        for recorder in (buffer, plain):
            recorder.close()

        assert plain.contents().difference(Contents.of(store.open())) == ""

    @settings(max_examples=12, suppress_health_check=INHERITED, derandomize=True)
    @given(
        every=st.sampled_from([1, 2, 3, 7, None]),
        num_envs=st.integers(1, 4),
        seed=st.integers(0, 10**6),
        masks=st.booleans(),
        ragged=st.booleans(),
    )
    def test_how_often_one_commits_changes_nothing(
        self, store: Store, every: int | None, num_envs: int, seed: int, masks: bool, ragged: bool
    ) -> None:
        schema = small(ragged=ragged)
        calls = list(recording(schema, num_envs, 25, seed, masks=masks))
        plain = PlainBuffer(schema)
        with store.create(ragged=ragged, overwrite=True) as buffer:
            for recorder, chosen in ((buffer, every), (plain, None)):
                writer = recorder.writer(num_envs)
                for number, call in enumerate(calls):
                    play(writer, call, schema)
                    if chosen is not None and number % chosen == 0:
                        recorder.commit()
                recorder.commit()
            assert _seen(plain).difference(Contents.of(buffer).by_trajectory()) == ""
            plain.close()

        assert _seen(plain).difference(Contents.of(store.open()).by_trajectory()) == ""

    def test_a_writer_continues_after_a_late_field(self, store: Store) -> None:
        buffer, plain = store.create(), PlainBuffer(small())
        writers = [recorder.writer(2) for recorder in (buffer, plain)]
        for number, step in enumerate(recording(small(), 2, 20, seed=12)):
            info = {"info/late": np.full(2, number)} if number > 9 else {}
            if number == 10:
                buffer.add_field("info/late", Field(np.dtype(np.int64), (), "info"))
                plain.add_field("info/late", Field(np.dtype(np.int64), (), "info"))
            for writer in writers:
                values = step.columns | info if "action" in step.columns else step.columns
                play(writer, type(step)(values, step.mask, step.seeds), small())
        for recorder in (buffer, plain):
            recorder.close()

        assert plain.contents().difference(Contents.of(store.open())) == ""

    def test_one_environment_is_recorded_in_one_way_at_a_time(self, store: Store) -> None:
        buffer = store.create()
        writer = buffer.writer(2)
        with pytest.raises(ConflictError, match="writer"):
            buffer.writer()
        with pytest.raises(ConflictError, match="environment 1"):
            buffer.append(steps(2, 1), env=1)
        buffer.append(steps(2, 1), env=2)
        writer.close()
        buffer.append(steps(2, 1), env=1)
        buffer.close()

        assert store.open().trajectories["env"].tolist() == [2, 1]

    @pytest.mark.parametrize("ragged", [False, True])
    def test_reopening_continues_an_open_trajectory(self, store: Store, ragged: bool) -> None:
        plain = PlainBuffer(small(ragged=ragged))
        plain.append(steps(7, 13, ragged=ragged))
        plain.append(
            steps(6, 14, terminated=(4,), ragged=ragged),
            final_observation=_nested(observations(small(ragged=ragged), 2, 15)),
        )
        plain.commit()
        with store.create(ragged=ragged) as buffer:
            buffer.append(steps(7, 13, ragged=ragged))
        with store.open("r+") as buffer:
            buffer.append(
                steps(6, 14, terminated=(4,), ragged=ragged),
                final_observation=_nested(observations(small(ragged=ragged), 2, 15)),
            )

        reader = store.open()

        assert plain.contents().difference(Contents.of(reader)) == ""
        assert reader.trajectories["length"].tolist() == [12, 1]

    def test_a_new_writer_cuts_off_what_was_open(self, store: Store) -> None:
        with store.create() as buffer:
            buffer.append(steps(7, 13), env=1)
        with store.open("r+") as buffer:
            buffer.writer(1).close()

        table = store.open().trajectories

        assert (table["length"].tolist(), table["open"].tolist()) == ([7], [False])

    def test_columns_of_trajectories_can_be_added_and_changed(self, store: Store) -> None:
        buffer = store.create()
        buffer.append(steps(9, 16, terminated=(1, 4, 6)))
        buffer.set_trajectory_column("score", np.array([0.5, np.nan, 2.0]))
        buffer.set_trajectory_column("split", ["train", "val", "train"])
        buffer.append(steps(3, 17, truncated=(0,)))
        buffer.commit()
        reader = store.open()
        np.testing.assert_array_equal(reader.trajectories["score"], [0.5, np.nan, 2.0, np.nan, np.nan])
        buffer.set_trajectory_column("score", np.array([4.0, 3.0, 2.0, 1.0]))
        buffer.set_trajectory_column("good", np.array([True, False, True, True]))
        buffer.close()

        assert reader.refresh()
        for view in (reader, store.open()):
            assert view.trajectories["score"][:4].tolist() == [4.0, 3.0, 2.0, 1.0]
            assert view.trajectories["good"].tolist() == [True, False, True, True, False]
            assert view.trajectories["split"].tolist() == ["train", "val", "train", "", ""]
            assert len(view.trajectories.where(split="train")) == 2

    @pytest.mark.parametrize(
        ("name", "values"),
        [
            ("score", [1.0]),
            ("length", [1, 2]),
            ("score", ["a", "b"]),
            ("score", [[1.0], [2.0]]),
            ("score", [1j, 2j]),
        ],
    )
    def test_a_column_that_does_not_fit_is_refused(
        self, store: Store, name: str, values: list[object]
    ) -> None:
        buffer = store.create()
        buffer.append(steps(9, 16, terminated=(1, 4)))
        buffer.set_trajectory_column("score", np.array([0.5, 1.0]))

        with pytest.raises((SchemaError, UnsupportedError), match=name):
            buffer.set_trajectory_column(name, np.array(values))

        assert buffer.trajectories["score"][:2].tolist() == [0.5, 1.0]


def _seen(plain: PlainBuffer) -> Contents:
    return plain.contents().by_trajectory()


def _nested(leaves: Columns) -> dict[str, object]:
    """Observations as nested dicts."""
    return {name.removeprefix("observation/"): values for name, values in leaves.items()}
