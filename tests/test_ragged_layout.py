"""How fields of any length are stored: where values begin and end as other small fields are, and values."""

from __future__ import annotations

from typing import Any

import pytest

from replaystore.containers.array_spec import DTYPES
from replaystore.containers.protocol import PAGE, Capabilities
from replaystore.errors import ArgumentError
from replaystore.schema.fields import Field, Schema
from replaystore.views.layout import array_specs, field_specs

CAPABILITIES = Capabilities()
FIELDS = {
    "observation/text": Field.of_text("observation"),
    "observation/image": Field("u1", (None, 84, 84), "observation"),
    "action": Field("int32", (None,), "action"),
    "info/at": Field("f8", (None, 3), "info"),
    "extra": Field("c16", (None, 300), "extra"),
    "reward": Field("f4", (), "reward"),
}


@pytest.mark.parametrize("capacity", [None, 1, 100, 10_000, 10_000_000])
@pytest.mark.parametrize("layout", ["live", "archive"])
def test_two_arrays_a_field(layout: str, capacity: int | None) -> None:
    specs = array_specs(Schema(FIELDS), layout, CAPABILITIES, capacity=capacity, storage=None)

    for name, declared in FIELDS.items():
        spans = specs[f"steps/{name}"]
        assert (spans.dtype, spans.shape) == declared.stored
        assert (f"values/{name}" in specs) is declared.ragged
        if declared.role == "observation":
            final = specs[f"final/{name}"]
            assert ((final.dtype, final.shape), final.journaled) == (declared.stored, True)
        if not declared.ragged:
            continue
        assert (spans.codec is None) is (layout == "live" or capacity is not None)
        values = specs[f"values/{name}"]
        assert (values.dtype, values.shape) == (declared.dtype, declared.inner)
        assert (values.codec is None) is (layout == "live" and values.row_bytes <= 4096)
        assert not values.problem()
        assert values.codec is not None or values.chunk_bytes % PAGE == 0
        assert values.chunk_bytes <= max(1 << 20, 8 * values.row_bytes)
        if capacity is not None:
            shard = min(max(capacity // 8 * 512, 256 << 10), 64 << 20)
            assert values.shard_rows * values.row_bytes <= max(shard, PAGE * values.row_bytes // 16)
    plain = array_specs(
        Schema({"reward": FIELDS["reward"]}), "live", CAPABILITIES, capacity=capacity, storage=None
    )
    assert layout == "archive" or plain["steps/reward"] == specs["steps/reward"]


@pytest.mark.parametrize("dtype", sorted(DTYPES))
def test_values_of_all_sizes_have_whole_pages_in_a_small_ring(dtype: str) -> None:
    for inner in ((), (3,), (7, 5), (341,)):
        fields = {"a": Field(dtype, (None, *inner), "extra")}
        spec = field_specs(fields, "live", CAPABILITIES, capacity=64)["values/a"]
        assert not spec.problem()
        assert spec.codec is not None or spec.chunk_bytes % PAGE == 0
        assert spec.codec is not None or spec.shard_rows * spec.row_bytes <= max(256 << 10, spec.chunk_bytes)


def test_settings_are_about_the_values() -> None:
    storage: dict[str, dict[str, Any]] = {
        "action": {"codec": "zstd:3", "chunk_rows": 100},
        "info/at": {"chunk_rows": 512},
    }
    specs = field_specs(FIELDS, "live", CAPABILITIES, storage=storage)
    assert (specs["values/action"].codec, specs["values/action"].chunk_rows) == ("zstd:3", 100)
    assert (specs["values/info/at"].codec, specs["values/info/at"].chunk_rows) == (None, 512)
    assert specs["steps/action"] == specs["steps/info/at"]
    with pytest.raises(ArgumentError, match="multiple of"):
        field_specs(FIELDS, "live", CAPABILITIES, storage={"info/at": {"chunk_rows": 100}})


def test_each_field_has_a_dimension_of_its_own() -> None:
    names = ["a/b", "a_b", "a__b", "a_/b", "a/_b", "é", "e", "x" * 200, "x" * 199 + "y", "a", "a_value"]
    fields = {name: Field("f4", (None,), "extra") for name in names}
    specs = field_specs({name: f for name, f in fields.items() if name != "a"}, "live", CAPABILITIES)
    specs |= field_specs({"a": fields["a"]}, "live", CAPABILITIES)
    found = [specs[name].dimension for name in specs if name.startswith("values/")]
    assert len(set(found)) == len(names)
    assert all(name.isascii() and len(name) < 200 for name in found)
    assert "a__b_value" in found
