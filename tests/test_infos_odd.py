"""An info never ends a recording, whatever it holds."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from info_tables import Table, columns_of, fields, record, vector
from tensors import torch

from replaystore.errors import ReplayStoreWarning, SchemaError
from replaystore.gymnasium import info_keys
from replaystore.gymnasium.infos import batch_of_one
from replaystore.schema.fields import Field


class Odd(dict[str, Any]):
    """A mapping of its own kind."""


def nested(depth: int) -> dict[str, Any]:
    return {"y": nested(depth - 1)} if depth else {"y": 1.0}


def cycle() -> dict[str, Any]:
    info: dict[str, Any] = {"y": 1.0}
    return info | {"again": info, "self": info.setdefault("self", info)}


ODD: dict[str, Any] = {
    "nothing": None, "bool": True, "int": 3, "large int": 2**40, "huge int": 2**70, "float": 0.1,
    "exact float": 0.5, "nan": float("nan"), "complex": 1j, "np.bool": np.bool_(True), "int8": np.int8(1),
    "uint64": np.uint64(2**64 - 1), "float16": np.float16(0.5), "float32": np.float32(0.1),
    "longdouble": np.longdouble(1), "text": "text", "bytes": b"b", "np.str": np.str_("a"), "list": [1, 2],
    "ragged": [[1], [1, 2]], "tuple": (1.0,), "set": {1}, "object": object(), "class": dict,
    "date": np.datetime64("2020-01-01"), "record": np.zeros(1, [("a", "i4")])[0], "0-d": np.array(1.5),
    "vector": np.zeros(2), "longer": np.zeros(3), "float32 vector": np.ones(2, "f4"), "matrix": np.zeros((2,
    2)), "subclass": np.zeros(2).view(np.recarray), "empty": np.zeros(0), "objects": np.array([1, "a", None],
    dtype=object), "masked": np.ma.masked_array([1.0, 2.0], [True, False]), "big endian": np.arange(2,
    dtype=">i4"), "not in order": np.zeros((2, 3), "f4").T, "backwards": np.arange(4.0)[::-2],
    "read-only": np.broadcast_to(1.0, 2), "words": np.array(["a", "b"]), "dict": {"y": 1}, "empty dict": {},
    "odd dict": Odd(y=2.0), "numbers as keys": {7: 1.0, None: 2}, "deep": nested(100), "cycle": cycle(),
}  # fmt: skip
if torch is not None:
    ODD |= {
        "tensor": torch.zeros(2),
        "tensor with a graph": torch.ones(2, requires_grad=True) * 2,
        "meta": torch.zeros(2, device="meta"),
        "bfloat16": torch.zeros(2, dtype=torch.bfloat16),
    }


@pytest.mark.parametrize("first", ODD)
def test_whatever_a_key_becomes_the_recording_goes_on_and_holds_no_other_value(first: str) -> None:
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        for then in ODD.values():
            given = [{"x": ODD[first], "z": 1}, {"x": then, "z": 2}, {"z": 3}, {"x": ODD[first], "z": 4}]
            table = Table()
            columns = columns_of(table, masks=False)
            for info in given:
                table.add(columns.columns(batch_of_one(info)))
            assert table.column("info/z") == [1, 2, 3, 4]
            known = table.schema.fields.get("info/x")
            for row, info in enumerate(given):
                there = known is not None and (
                    "info/_x" not in table.schema.fields or table.column("info/_x")[row]
                )
                if there:
                    np.testing.assert_array_equal(table.rows["info/x"][row], np.asarray(info["x"]))
                elif info.get("x") is not None and not isinstance(info["x"], Mapping):
                    assert columns.left_out["x"] > 0


@pytest.mark.parametrize("first", ODD)
def test_whatever_a_key_becomes_vectors_go_on_as_well(first: str) -> None:
    """Of an environment that has just reset, of a final info, and of others."""
    ended = np.array([True, False])
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        for then in ODD:
            for one, other in ((first, then), (then, first)):
                infos: list[dict[str, Any]] = []
                with contextlib.suppress(Exception):  # where Gymnasium itself ends
                    infos = [
                        vector({"x": ODD[a]}, {"x": ODD[b]})
                        for a, b in ((first, first), (one, other), (other, other))
                    ]
                table = Table()
                columns = columns_of(table, 2)
                for info in infos:
                    table.add(columns.columns(info), rows=2)
                    table.add(columns.columns(info, ended), ~ended, rows=2)
                    table.add(
                        columns.columns(
                            {**info, "final_info": infos[0], "_final_info": ended}, ended, infos[0]
                        ),
                        rows=2,
                    )
                assert table.rows_recorded == 5 * len(infos)


@pytest.mark.parametrize("infos", [None, [{}], (), "text", 3, np.zeros(2)])
def test_infos_that_are_no_dict_are_left_out(infos: Any) -> None:
    table, ended = Table({"info/x": Field(np.dtype(float), (), "info")}), np.array([True, False])
    columns = columns_of(table, 2)

    with pytest.warns(
        ReplayStoreWarning,
        match=(
            r"an info key is not recorded.*the infos came as a .*inside "
            r"of the wrapper"
        ),
    ):
        table.add(columns.columns(infos), rows=2)
    if infos is not None:  # which says that there are no final infos
        table.add(columns.columns(vector({"x": 1.0}, {"x": 2.0}), ended, infos), rows=2)

    assert table.column("info/_x") == [False, False, False, True][: table.rows_recorded]
    assert columns.left_out == {"*": 2 if infos is None else 3}
    assert record({"x": 1.0}, selected=False).rows_recorded == 1


def test_a_new_key_in_each_step_does_not_make_fields_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(info_keys, "MAX_KEYS", 5)
    table = Table()
    columns = columns_of(table, masks=False)

    def go_on(steps: range) -> None:
        for step in steps:
            table.add(columns.columns(batch_of_one({f"step {step}": 1.0, "x": step})))

    with pytest.warns(ReplayStoreWarning, match="over 1000 keys") as caught:  # one in all
        go_on(range(20))

    keys = ["info/step 0", "info/x", "info/step 1", "info/step 2", "info/step 3"]
    assert [name for name in fields(table) if not name.startswith("info/_")] == keys
    assert table.column("info/x") == list(range(20))
    assert columns.left_out == {"*": 16}
    assert len(caught) == 1
    # What is not recorded takes no memory.
    assert len(columns.keys.tree) == len(columns_of(Table(), masks=False).keys.tree) + 5


def test_masks_are_free_for_the_keys_that_need_them() -> None:
    """Whatever is recorded first, each key can be missing later."""
    long = "x" * 200  # its mask would have a longer name than a store can hold
    odd: list[dict[str, Any]] = [
        {"x": 1},
        {"_x": {"y": 1}},
        {"_x": 2},
        {"__x": 3},
        {long: 1.0},
        {"x": {"y": 1}},
        {},
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for one in odd:
            for other in odd:
                table = record(one, other, {}, one)
                assert table.rows_recorded == 4


def test_a_field_that_stands_where_a_mask_belongs_is_refused_at_once() -> None:
    number = Field(np.dtype(float), (), "info")
    with pytest.raises(
        SchemaError, match=("'info/_x' has the name of the mask of 'info/x': declare it with role 'mask'")
    ):
        columns_of(Table({"info/x": number, "info/_x": number}))


def test_a_mask_of_a_key_that_nobody_records_is_false() -> None:
    table = record({"y": 1}, {"y": 2}, table=Table({"info/_x": Field(np.dtype(bool), (), "mask")}))

    assert table.column("info/_x") == [False, False]
