"""What a backend must do with rows: what is written is what is read."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from replaystore.errors import (
    AlreadyExistsError,
    ConflictError,
    NotFoundError,
    ReplayStoreError,
    SchemaError,
    UnsupportedError,
)
from replaystore.schema.fields import Field, Schema
from replaystore.schema.ragged import Ragged
from replaystore.testing.contents import Contents, bits
from replaystore.testing.plain import PlainBuffer
from replaystore.testing.samples import RAGGED, TOKENS, columns, every_dtype, small
from replaystore.testing.stores import Store

__all__ = ["RowSuite"]


class RowSuite:
    """Columns, fields, and what is there or not."""

    def test_an_empty_buffer_has_no_rows_and_no_trajectories(self, store: Store) -> None:
        store.create().close()

        buffer = store.open()

        assert (len(buffer), buffer.num_trajectories) == (0, 0)
        assert buffer["reward"][:].shape == (0,)
        assert buffer["observation/camera"].shape == (0, 4, 3)
        assert buffer.schema == small()

    @pytest.mark.parametrize(("steps", "ragged"), [(1, False), (3, False), (4, True), (5, False), (33, True)])
    def test_rows_written_are_rows_read(self, store: Store, steps: int, ragged: bool) -> None:
        rows = columns(small(ragged=ragged), steps, seed=steps)
        buffer = store.create(ragged=ragged)
        buffer.append(rows)
        buffer.commit()

        for view in (buffer, store.open()):
            for name, values in rows.items():
                assert view[name].dtype == values.dtype
                assert len(view[name]) == len(values)
                assert _same(view[name][:], values)

    @pytest.mark.parametrize("ragged", [False, True])
    def test_rows_may_repeat_and_come_in_any_order(self, store: Store, ragged: bool) -> None:
        rows = columns(small(ragged=ragged), 70, seed=1)
        buffer = store.create(ragged=ragged)
        for start in range(0, 70, 9):
            buffer.append({name: values[start : start + 9] for name, values in rows.items()})
        buffer.commit()
        keys: list[Any] = [
            slice(5, 61),
            slice(None, None, 3),
            slice(60, 10, -7),
            slice(30, 10),
            slice(-9, None),
            0,
            -1,
            69,
        ]
        keys += [
            [3, 1, 1, 69, -70],
            np.array([], np.int64),
            np.arange(70)[::-1],
            np.arange(70) % 3 == 0,
            [8, 7, 8, 9, 40],
        ]

        reader = store.open()

        for name, values in rows.items():
            for key in keys:
                assert _same(reader[name][key], values[key]), f"{name}[{key}]"

    def test_rows_that_are_not_there_are_an_index_error(self, store: Store) -> None:
        buffer = store.create()
        buffer.append(columns(small(), 4, seed=1))
        buffer.commit()

        for key in (4, -5, [0, 4], [-5]):
            with pytest.raises(IndexError, match="4 steps"):
                buffer["observation/camera"][key]
        with pytest.raises(SchemaError, match="no field 'speed'"):
            buffer["speed"]

    def test_every_dtype_is_kept_to_the_bit(self, store: Store) -> None:
        schema = every_dtype()
        rows = columns(schema, 50, seed=2)
        with store.create(schema) as buffer:
            buffer.append(rows)

        reader = store.open()

        assert reader.schema == schema
        for name, values in reader.read(slice(None)).items():
            assert values.dtype == rows[name].dtype
            assert values.tobytes() == rows[name].tobytes(), name

    def test_every_dtype_can_be_coded(self, store: Store) -> None:
        schema = every_dtype()
        rows = columns(schema, 21, seed=3)
        setting = {"codec": store.capabilities.default_codec, "chunk_rows": 4}
        buffer = store.create(schema, storage=dict.fromkeys(schema.fields, setting))
        for stop in (7, 8, 21):
            buffer.append({name: values[len(buffer) : stop] for name, values in rows.items()})
            buffer.commit()

        for name, values in store.open().read(slice(None)).items():
            assert values.tobytes() == rows[name].tobytes(), name

    def test_nested_observations_are_taken_as_gymnasium_gives_them(self, store: Store) -> None:
        schema = every_dtype()
        rows = columns(schema, 5, seed=4)
        nested = {name: values for name, values in rows.items() if not name.startswith("observation")}
        nested["observation"] = (rows["observation/0"], {"x": rows["observation/1/x"]})
        with store.create(schema) as buffer:
            buffer.append(nested)

        reader = store.open()

        assert set(reader.read(slice(None), ["observation"])) == {"observation/0", "observation/1/x"}
        for name, values in rows.items():
            assert reader[name][:].tobytes() == values.tobytes()

    @pytest.mark.parametrize("ragged", [False, True])
    def test_both_layouts_hold_the_same(self, store: Store, ragged: bool) -> None:
        schema = small(ragged=ragged)
        rows = columns(schema, 40, seed=5)
        plain = PlainBuffer(schema)
        with store.create(schema, layout="archive") as buffer:
            for recorder in (buffer, plain):
                recorder.append(rows)
                recorder.commit()

        assert plain.contents().difference(Contents.of(store.open())) == ""
        assert store.open().layout == "archive"

    @pytest.mark.parametrize("fill", [0, 1])
    def test_a_late_field_is_filled_for_earlier_rows(self, store: Store, fill: Any) -> None:
        buffer, plain = store.create(), PlainBuffer(small())
        for recorder in (buffer, plain):
            recorder.append(columns(small(), 30, seed=6))
            recorder.commit()
            recorder.add_field("info/late.one", Field(np.dtype(np.bool_), (2,), "info"), fill=fill)
            recorder.add_field("info/later", Field(np.dtype(np.int16), (), "info"))
            recorder.append(columns(recorder.schema, 30, seed=7))
        buffer.close()
        plain.close()

        reader = store.open()

        assert plain.contents().difference(Contents.of(reader)) == ""
        assert reader["info/late.one"][:30].all() == bool(fill)

    def test_a_late_field_of_any_length_is_empty_for_earlier_rows(self, store: Store) -> None:
        buffer, plain = store.create(), PlainBuffer(small())
        for recorder in (buffer, plain):
            recorder.append(columns(small(), 30, seed=6))
            recorder.commit()
            for name, declared in RAGGED.items():
                recorder.add_field(f"info/late.{name}", replace(declared, role="info"))
            recorder.append(columns(recorder.schema, 30, seed=7))
            recorder.close()

        reader = store.open()

        assert plain.contents().difference(Contents.of(reader)) == ""
        assert not any(reader[f"info/late.{name}"].lengths[:30].any() for name in RAGGED)

    def test_values_of_any_length_lie_across_chunks(self, store: Store) -> None:
        """Of no length, of that of a chunk, one less and more, of three chunks; recorded at once and one by
        one."""
        lengths = [0, TOKENS, 1, TOKENS - 1, 0, TOKENS + 1, 3 * TOKENS, 2, 0]
        tokens = [np.arange(length, dtype=np.int32) + 7 * length for length in lengths]
        schema = Schema({"action": Field("int32", (None,), "action"), "info/text": Field.of_text("info")})
        texts = ["é" * (length // 2) for length in lengths]
        setting = {"action": {"codec": "raw", "chunk_rows": TOKENS}, "info/text": {"chunk_rows": 4 * TOKENS}}
        buffer = store.create(schema, storage=setting)
        buffer.append({"action": tokens, "info/text": texts})
        for one, text in zip(tokens, texts, strict=True):
            buffer.append({"action": [one], "info/text": [text]})
            buffer.commit()

        for view in (buffer, store.open()):
            assert [one.tolist() for one in view["action"][:]] == [one.tolist() for one in 2 * tokens]
            assert view["info/text"][:].tolist() == 2 * texts
            assert view["action"].lengths[:].tolist() == 2 * lengths

    def test_a_reader_sees_a_late_field_when_it_refreshes(self, store: Store) -> None:
        buffer = store.create()
        buffer.append(columns(small(), 5, seed=6))
        buffer.commit()
        reader = store.open()
        buffer.add_field("info/late", Field(np.dtype(np.float32), (), "info"))
        buffer.append(columns(buffer.schema, 5, seed=7))
        assert "info/late" not in store.open().schema.fields
        buffer.commit()

        assert "info/late" not in reader.schema.fields
        assert reader.refresh()
        assert reader["info/late"][:].tobytes() == buffer["info/late"][:].tobytes()

    @pytest.mark.parametrize("change", ["shape", "dtype", "missing", "unknown", "length"])
    def test_rows_that_do_not_fit_are_refused_whole(self, store: Store, change: str) -> None:
        buffer = store.create()
        buffer.append(columns(small(), 5, seed=8))
        rows: dict[str, Any] = columns(small(), 5, seed=9)
        wrong = {
            "shape": {"action": rows["action"][:, None]},
            "dtype": {"action": rows["action"].astype(np.int32)},
            "missing": {},
            "unknown": {"speed": rows["reward"]},
            "length": {"action": rows["action"][:3]},
        }[change]
        if change == "missing":
            del rows["action"]

        with pytest.raises(SchemaError, match="speed" if change == "unknown" else "action"):
            buffer.append({**rows, **wrong})

        buffer.commit()
        assert len(buffer) == 5

    def test_create_refuses_what_exists(self, store: Store) -> None:
        with store.create() as buffer:
            buffer.append(columns(small(), 5, seed=8))

        with pytest.raises(AlreadyExistsError, match="overwrite"):
            store.create()

        assert len(store.open()) == 5

    def test_create_replaces_what_exists_if_told_to(self, store: Store) -> None:
        with store.create() as buffer:
            buffer.append(columns(small(), 5, seed=8))
        reader = store.open()
        before = reader["reward"][:]
        with store.create(overwrite=True) as buffer:
            buffer.append(columns(small(), 2, seed=9))

        assert len(store.open()) == 2
        assert reader["reward"][:].tobytes() == before.tobytes()

    def test_what_is_open_for_writing_is_not_replaced(self, store: Store) -> None:
        buffer = store.create()
        buffer.append(columns(small(), 5, seed=8))

        with pytest.raises(ConflictError, match="open for writing"):
            store.create(overwrite=True)

        assert buffer.commit() == 1

    def test_open_refuses_what_is_absent(self, store: Store) -> None:
        for mode in ("r", "r+"):
            with pytest.raises(NotFoundError, match="does not exist"):
                store.open(mode)

    def test_a_failed_create_leaves_nothing(self, store: Store) -> None:
        odd = Schema({**small().fields, "info/x": Field(np.dtype(np.int8), (), "info")})
        with pytest.raises(ReplayStoreError, match="info/x"):
            store.create(odd, storage={"info/x": {"codec": "no-such-codec"}})

        with pytest.raises(NotFoundError):
            store.open()

    def test_metadata_is_kept_and_has_a_limit(self, store: Store) -> None:
        with store.create(metadata={"run": 7, "note": "ü"}) as buffer:
            assert buffer.metadata == {"run": 7, "note": "ü"}
            buffer.metadata = {"tags": ["a", None, 1.5]}
            with pytest.raises(SchemaError, match=r"metadata|user"):
                buffer.metadata = {"large": "x" * (2 << 20)}
            with pytest.raises(SchemaError):
                buffer.metadata = {"object": object()}

        assert store.open().metadata == {"tags": ["a", None, 1.5]}

    def test_a_ring_needs_a_backend_that_gives_space_back(self, store: Store) -> None:
        if store.capabilities.gives_back_space:
            pytest.skip("this backend has rings; other tests are about them")

        with pytest.raises(UnsupportedError, match=r"\.zarr"):
            store.create(capacity=10)

        with pytest.raises(NotFoundError):
            store.open()


def _same(found: Any, expected: Any) -> bool:
    """Whether rows of a field, or one of them, are these, bit for bit."""
    if isinstance(expected, Ragged):
        return bool(found == expected)
    return np.shape(found) == np.shape(expected) and bits(found) == bits(expected)
