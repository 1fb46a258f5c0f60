"""Fields of any length that are added to steps which there are already."""

from __future__ import annotations

from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import replaystore as rs
from replaystore.buffers import late_fields
from replaystore.buffers.buffer import Buffer
from replaystore.errors import ArgumentError, SchemaError
from replaystore.testing.contents import final_by_field

places = count()
SCHEMA = rs.Schema(
    {
        "observation": rs.Field("float32", (2,), "observation"),
        "reward": rs.Field("float64", (), "reward"),
        "terminated": rs.Field("bool", (), "terminated"),
        "tokens": rs.Field("int32", (None,), "extra"),
    }
)
LATE, TEXT = rs.Field("int16", (None, 2), "extra"), rs.Field.of_text("extra")


def append(buffer: Buffer, steps: int, **more: Any) -> None:
    columns = {
        "observation": np.zeros((steps, 2), np.float32),
        "reward": np.arange(steps, dtype=float),
        "terminated": np.arange(steps) % 3 == 2,
        "tokens": [np.arange(step % 4, dtype=np.int32) for step in range(steps)],
    }
    buffer.append({**columns, **more})


@pytest.fixture(params=[None, 8], ids=["whole", "ring"])
def buffer(request: pytest.FixtureRequest) -> Any:
    with rs.create(
        f"memory:ragged-late-{next(places) % 4}", SCHEMA, overwrite=True, capacity=request.param
    ) as made:
        append(made, 11)
        made.commit()
        yield made


def late(number: int) -> Any:
    return np.full((number % 3, 2), number, np.int16)


def later(buffer: Buffer, kept: int, name: str, values: list[Any]) -> None:
    """The field has these values, and steps to come have it too, whatever follows."""
    append(buffer, 2, **{name: values[:2]})
    buffer.commit()
    assert buffer[name][:].tolist()[-kept - 2 : -2] == as_lists(values)[-len(buffer) + 2 :]
    assert buffer[name][:].tolist()[-2:] == as_lists(values[:2])


def as_lists(values: list[Any]) -> list[Any]:
    return [value if isinstance(value, str) else value.tolist() for value in values]


FORMS: dict[str, Any] = {
    "a list": lambda values: values,
    "a Ragged": lambda values: rs.Ragged.of(values, "int16", (2,)),
    "an array of objects": lambda values: np.array([*values, None], object)[:-1],
    "a function": lambda values: lambda steps: values[steps.start : steps.stop],
}


@pytest.mark.parametrize("form", FORMS)
def test_the_steps_so_far_get_values(buffer: Buffer, form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(late_fields, "BLOCK_ROWS", 3)
    kept = len(buffer)
    values = [late(number) for number in range(kept)]

    buffer.add_field("late", LATE, values=FORMS[form](values))

    assert buffer["late"][:].tolist() == as_lists(values)
    later(buffer, kept, "late", values)


def test_values_are_made_of_other_fields(buffer: Buffer) -> None:
    buffer.add_field(
        "doubled", rs.Field("int64", (None,), "extra"), values=lambda steps: doubled(steps["tokens"])
    )
    buffer.add_field("said", TEXT, values=lambda steps: [str(one.tolist()) for one in steps["doubled"]])

    expected = [[2 * number for number in one] for one in buffer["tokens"][:].tolist()]
    assert buffer["doubled"][:].tolist() == expected
    assert buffer["said"][:].tolist() == list(map(str, expected))


def doubled(tokens: rs.Ragged) -> rs.Ragged:
    return rs.Ragged(tokens.values * 2, tokens.offsets)


def test_values_come_from_another_buffer(buffer: Buffer) -> None:
    with rs.create(f"memory:ragged-late-other-{next(places) % 4}", SCHEMA, overwrite=True) as other:
        append(other, len(buffer))
        other.commit()
        buffer.add_field("theirs", rs.Field("int32", (None,), "extra"), values=other["tokens"])

        assert buffer["theirs"][:] == other["tokens"][:]


def test_without_values_they_are_empty(buffer: Buffer) -> None:
    kept = len(buffer)
    buffer.add_fields({"late": LATE, "said": TEXT, "plain": rs.Field("int8", (), "extra")}, fill={"plain": 3})

    assert buffer["late"].lengths[:].tolist() == [0] * kept
    assert buffer["said"][:].tolist() == [""] * kept
    append(buffer, 2, late=[late(1), late(2)], said=["a", ""], plain=np.zeros(2, np.int8))
    buffer.commit()
    assert buffer["late"][:].tolist()[-3:] == [[], late(1).tolist(), late(2).tolist()]
    assert buffer["said"][:].tolist()[-3:] == ["", "a", ""]


OBSERVED = {
    "a text": (rs.Field.of_text("observation"), {}, "", ["x", "y"]),
    "tokens": (rs.Field("int32", (None,), "observation"), {}, [], [[1, 2], [3]]),
    "numbers": (rs.Field("int32", (), "observation"), {"fill": 7}, 7, [1, 2]),
    "images": (rs.Field("uint8", (5000,), "observation"), {"fill": 7}, [7] * 5000, [[1] * 5000, [2] * 5000]),
}


@pytest.mark.parametrize("kind", OBSERVED)
@pytest.mark.parametrize("options", [{}, {"capacity": 50}], ids=["whole", "ring"])
@pytest.mark.parametrize("suffix", [".zarr", ".h5"])
def test_observations_may_be_added_in_the_middle_of_trajectories(
    tmp_path: Path, suffix: str, options: Any, kind: str
) -> None:
    """What ended before has what the steps before have; what was seen last, and is yet to be stepped from, is
    zeros, or empty."""
    if options and suffix == ".h5":
        return  # there are no rings in HDF5
    declared, fill, blank, values = OBSERVED[kind]
    fields = {"observation/a": rs.Field("int64", (), "observation")}
    fields |= {name: SCHEMA.fields[name] for name in ("reward", "terminated")}
    array = values if declared.ragged else np.array(values, declared.dtype)
    with rs.create(tmp_path / f"a{suffix}", rs.Schema(fields), **options) as buffer:
        writer, no = buffer.writer(2), np.zeros(2, bool)
        writer.reset({"a": np.array([1, 2])})
        writer.step(None, np.zeros(2), np.array([True, False]), None, {"a": np.array([3, 4])})
        buffer.add_field("observation/b", declared, **fill)
        writer.step(None, np.zeros(2), no, None, {"a": np.array([5, 6]), "b": array})
        writer.close()
    assert not rs.verify(tmp_path / f"a{suffix}").problems
    with rs.open(tmp_path / f"a{suffix}") as buffer:
        stories = [
            (plain_list(trajectory.columns["observation/b"]), plain_list(final_by_field(trajectory)))
            for trajectory in map(buffer.trajectory, range(buffer.num_trajectories))
        ]
    ended, first, second = sorted(stories, key=lambda story: story[1]["observation/a"])
    assert ended == ([blank], {"observation/a": 3, "observation/b": blank})
    seen = blank if declared.ragged else np.zeros_like(np.array(blank)).tolist()
    assert first == ([seen], {"observation/a": 5, "observation/b": values[0]})
    assert second == ([blank, seen], {"observation/a": 6, "observation/b": values[1]})


def plain_list(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: plain_list(one) for name, one in value.items()}
    return value if isinstance(value, str) else value.tolist()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"fill": 1}, "fill of 'late', which is of any length"),
        ({"fill": ""}, "fill of 'late', which is of any length"),
        ({"values": [late(1)]}, "has 1 values, not"),
        ({"values": np.zeros(3)}, "expected a list with an array for each step"),
        ({"values": lambda steps: [late(1)] * (len(steps) + 1)}, "values, not"),
        ({"values": lambda steps: np.zeros(len(steps))}, "expected a list with an array for each step"),
        ({"values": "text"}, "came a str"),
    ],
)
def test_what_does_not_fit_adds_nothing(buffer: Buffer, options: Any, said: str) -> None:
    before = buffer.schema
    with pytest.raises((ArgumentError, SchemaError), match=said):
        buffer.add_field("late", LATE, **options)

    assert buffer.schema is before
    append(buffer, 1)
    buffer.commit()
    buffer.add_field("late", LATE, values=[late(1)] * len(buffer))  # the name is free
    assert buffer["late"][0].tolist() == late(1).tolist()


@pytest.mark.parametrize("suffix", [".zarr", ".h5"])
def test_both_containers_keep_them(tmp_path: Path, suffix: str) -> None:
    place = tmp_path / f"a{suffix}"
    values = [late(number) for number in range(11)]
    with rs.create(place, SCHEMA) as buffer:
        append(buffer, 11)
        buffer.add_field("late", LATE, values=values)
        buffer.add_field("said", TEXT, values=["é" * number for number in range(11)])
    with rs.open(place, "r+") as buffer:
        append(buffer, 1, late=[late(1)], said=["x"])
    with rs.open(place) as buffer:
        assert buffer["late"][:].tolist() == as_lists([*values, late(1)])
        assert buffer["said"][-2:].tolist() == ["é" * 10, "x"]
    assert not rs.verify(place).problems
