"""A writer takes every schema that `append` takes, and makes the same trajectories of it."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import replaystore as rs
from replaystore.errors import SchemaError, UnsupportedError
from replaystore.testing.contents import final_by_field

ENVS, STEPS = 2, 6
ENDS = {0: [2, 5], 1: [3]}
"""Steps after which a trajectory of each environment ends."""

FIELDS = {
    "observation": rs.Field(np.dtype(np.float32), (2,), "observation"),
    "action": rs.Field(np.dtype(np.int64), (), "action"),
    "reward": rs.Field(np.dtype(np.float64), (), "reward"),
    "terminated": rs.Field(np.dtype(np.bool_), (), "terminated"),
    "truncated": rs.Field(np.dtype(np.bool_), (), "truncated"),
}
REWARD = rs.Field(np.dtype(np.float32), (), "reward")
OTHERS: dict[str, dict[str, rs.Field]] = {
    "a vector of rewards": {"reward": rs.Field(np.dtype(np.float64), (3,), "reward")},
    "one agent's reward": {"reward/a0": REWARD},
    "rewards of two agents": {"reward/a0": REWARD, "reward/a1": rs.Field(np.dtype(np.int64), (), "reward")},
    "vector rewards of two agents": {
        name: rs.Field(np.dtype(np.float32), (2,), "reward") for name in ("reward/a0", "reward/a1")
    },
    "rewards of two shapes": {
        "reward/a0": REWARD,
        "reward/a1": rs.Field(np.dtype(np.float32), (2,), "reward"),
    },
    "fields of agents": {
        f"{role}/{agent}": rs.Field(np.dtype(np.float32), (size,), role)
        for role, size in (("observation", 3), ("action", 1))
        for agent in ("a0", "a1")
    },
    "an extra field": {"extra/value": rs.Field(np.dtype(np.float32), (), "extra")},
    "only an extra field": {"x": rs.Field(np.dtype(np.float32), (), "extra")},
}


def schemas() -> dict[str, rs.Schema]:
    found = {}
    for size in range(len(FIELDS)):
        for left_out in itertools.combinations(FIELDS, size):
            found[f"without {', '.join(left_out) or 'nothing'}"] = rs.Schema(
                {n: f for n, f in FIELDS.items() if n not in left_out}
            )
    for name, more in OTHERS.items():
        tops = {field.partition("/")[0] for field in more}
        known = (
            {}
            if name.startswith("only")
            else {field: declared for field, declared in FIELDS.items() if field not in tops}
        )
        found[name] = rs.Schema(known | more)
    return found


SCHEMAS = schemas()


def columns_of(schema: rs.Schema) -> dict[str, Any]:
    """For each field the values of all steps and environments, (STEPS, ENVS, *shape), and of observations
    those after the last step."""
    generator = np.random.default_rng(0)
    found: dict[str, Any] = {}
    for name, declared in schema.fields.items():
        rows = STEPS + (declared.role == "observation")
        found[name] = generator.integers(0, 9, (rows, ENVS, *declared.shape)).astype(declared.dtype)
    for name in {"terminated", "truncated"} & schema.fields.keys():
        found[name] = np.zeros((STEPS, ENVS), np.bool_)
    flag = next((name for name in ("truncated", "terminated") if name in schema.fields), None)
    if flag is not None:
        for env, ends in ENDS.items():
            found[flag][ends, env] = True
    return found


def part_of(schema: rs.Schema, columns: dict[str, Any], role: str, key: Any) -> Any:
    """What a caller gives for a role: None if there is nothing."""
    named = {name: columns[name][key] for name in schema.names(role)}
    return named.get(role, named or None)


def write(buffer: rs.Buffer, columns: dict[str, Any]) -> None:
    """Where an observation ends a trajectory, the next one is the first of the next, as if the environment
    went on from there."""
    schema = buffer.schema
    writer = buffer.writer(ENVS)
    writer.reset(part_of(schema, columns, "observation", 0))
    for step in range(STEPS):
        roles = {
            role: part_of(schema, columns, role, step)
            for role in ("action", "reward", "terminated", "truncated")
        }
        extra = {name: columns[name][step] for name in schema.names("extra")}
        writer.step(**roles, observation=part_of(schema, columns, "observation", step + 1), info=extra)
        if step == 1:
            buffer.commit()  # how often one commits changes nothing
        mask = np.array([step in ENDS[env] for env in range(ENVS)])
        if mask.any() and step + 1 < STEPS:
            writer.reset(part_of(schema, columns, "observation", step + 1), mask=mask)
    writer.close()


def append(buffer: rs.Buffer, columns: dict[str, Any]) -> None:
    schema = buffer.schema
    for env in range(ENVS):
        begin = 0
        for end in sorted({*ENDS[env], STEPS - 1}):
            rows = {name: columns[name][begin : end + 1, env] for name in schema.fields}
            final = part_of(schema, columns, "observation", (end + 1, env))
            buffer.append(rows, env=env, ends=[end - begin], final_observation=final)
            begin = end + 1


def trajectories(buffer: rs.Buffer) -> list[Any]:
    """Everything about them but their numbers, by environment."""
    found = []
    for number in range(buffer.num_trajectories):
        one = buffer.trajectory(number)
        info = {name: np.asarray(value).tolist() for name, value in one.info.items() if name != "trajectory"}
        last = final_by_field(one)
        final = None if last is None else {name: value.tolist() for name, value in last.items()}
        found.append((info, {name: values.tolist() for name, values in one.columns.items()}, final))
    return sorted(found, key=lambda entry: int(entry[0]["env"]))


@pytest.mark.parametrize("suffix", ["zarr", "h5"])
@pytest.mark.parametrize("case", SCHEMAS)
def test_a_writer_makes_the_trajectories_that_append_makes(tmp_path: Path, suffix: str, case: str) -> None:
    schema = SCHEMAS[case]
    columns = columns_of(schema)
    for fill in (write, append):
        with rs.create(tmp_path / f"{fill.__name__}.{suffix}", schema) as buffer:
            fill(buffer, columns)

    written, appended = rs.open(tmp_path / f"write.{suffix}"), rs.open(tmp_path / f"append.{suffix}")

    assert trajectories(written) == trajectories(appended)
    assert [entry[0]["length"] for entry in trajectories(written)] == [3, 3, 4, 2]
    assert not rs.verify(tmp_path / f"write.{suffix}").problems
    other = tmp_path / f"b.{'h5' if suffix == 'zarr' else 'zarr'}"
    rs.convert(tmp_path / f"write.{suffix}", other)
    assert trajectories(rs.open(other)) == trajectories(written)
    written.sampler(4).sample()
    written.sampler(4, fragment_length=2).sample()
    assert written.statistics() is not None


@pytest.mark.parametrize(
    "case",
    [
        *(case for case in OTHERS if SCHEMAS[case].names("reward")),
        "without nothing",
        "without terminated, truncated",
    ],
)
def test_returns_are_sums_of_all_rewards(tmp_path: Path, case: str) -> None:
    schema = SCHEMAS[case]
    columns = columns_of(schema)
    with rs.create(tmp_path / "a.zarr", schema) as buffer:
        write(buffer, columns)
        buffer.commit()
        table = buffer.trajectories
        for row in range(len(table)):
            one = buffer.trajectory(row)
            values = [one[name].astype(np.float64) for name in schema.names("reward")]
            same = len({value.shape for value in values}) == 1
            expected = sum(value.sum(axis=0) if same else value.sum() for value in values)
            assert np.array_equal(table["return"][row], expected)
        batch = buffer.sampler(64, n_step=3, gamma=0.5, next_observation=False, seed=1).sample()

    for name in schema.names("reward"):  # each of them is discounted, up to the end of its trajectory
        known = set()
        for row in range(len(table)):
            rewards = buffer_rows(tmp_path / "a.zarr", row, name)
            for start in range(len(rewards)):
                weights = 0.5 ** np.arange(len(rewards[start : start + 3]))
                known.add(
                    str(np.tensordot(weights, rewards[start : start + 3].astype(np.float64), 1).tolist())
                )
        assert {str(value.astype(np.float64).tolist()) for value in batch[name]} <= known


def buffer_rows(path: Path, row: int, name: str) -> Any:
    with rs.open(path) as buffer:
        return buffer.trajectory(row)[name]


def test_what_the_schema_has_no_field_of_is_refused_and_nothing_is_lost(tmp_path: Path) -> None:
    flags = np.zeros(ENVS, np.bool_)
    for case in ("without reward, terminated, truncated", "without action", "without observation"):
        schema = SCHEMAS[case]
        columns = columns_of(schema)
        with rs.create(tmp_path / f"{case}.zarr", schema) as buffer:
            buffer.append({name: columns[name][:STEPS, 0] for name in schema.fields}, env=ENVS)
            write(buffer, columns)
            writer = buffer.writer(ENVS)
            observation = part_of(schema, columns, "observation", 0)
            writer.reset(observation)
            given: dict[str, Any] = {
                "action": np.zeros(ENVS, int),
                "reward": np.zeros(ENVS),
                "terminated": flags,
                "truncated": flags,
            }
            given["observation"] = np.zeros((ENVS, 2), np.float32)
            for role in given.keys() - schema.fields.keys():
                right = {name: value if name in schema.fields else None for name, value in given.items()}
                with pytest.raises(
                    SchemaError, match=(f"there is no field '{role}' in the schema .*leave it out")
                ):
                    writer.step(**{**right, role: given[role]})
                writer.step(**right)
            if observation is None:
                with pytest.raises(
                    SchemaError,
                    match=(
                        r"there is no field 'observation' in the schema "
                        r".*leave it out"
                    ),
                ):
                    writer.reset(np.zeros((ENVS, 2), np.float32))
            else:
                with pytest.raises(SchemaError, match="field 'observation' is missing"):
                    writer.reset()
        rows = STEPS + ENVS * (STEPS + len(given.keys() - schema.fields.keys()))
        assert len(rs.open(tmp_path / f"{case}.zarr")) == rows


def test_masks_and_rings_and_growing_schemas_go_without_flags_too(tmp_path: Path) -> None:
    schema = SCHEMAS["without action, terminated, truncated"]
    columns = columns_of(schema)
    with rs.create(tmp_path / "a.zarr", schema, capacity=64) as buffer:
        writer = buffer.writer(ENVS)
        writer.reset(columns["observation"][0])
        writer.step(
            reward=columns["reward"][0], observation=columns["observation"][1], mask=np.array([True, False])
        )
        buffer.add_field("info/x", rs.Field(np.dtype(np.float32), (), "info"))
        x = {"info/x": np.ones(ENVS, np.float32)}
        writer.step(reward=columns["reward"][1], observation=columns["observation"][2], info=x)
        writer.close()

        assert buffer.num_trajectories == 0  # nothing is committed yet
        buffer.commit()
        assert buffer.trajectories["length"].tolist() == [2, 1]
        assert buffer.trajectories["return"].tolist() == [
            float(columns["reward"][:2, 0].sum()),
            float(columns["reward"][1, 1]),
        ]


def test_rewards_are_converted_as_a_whole_or_with_a_note(tmp_path: Path) -> None:
    for case in ("rewards of two agents", "rewards of two shapes"):
        schema = SCHEMAS[case]
        with rs.create(tmp_path / f"{case}.zarr", schema) as buffer:
            write(buffer, columns_of(schema))
            buffer.commit()
            returns = buffer.trajectories["return"].tolist()
        report = rs.convert(
            tmp_path / f"{case}.zarr", tmp_path / f"{case}.h5", fields=["observation", "reward/a0"]
        )
        assert "returns are those of all rewards" in report.notes
        assert rs.open(tmp_path / f"{case}.h5").trajectories["return"].tolist() == returns
    with pytest.raises(UnsupportedError, match="take all fields of rewards, or none"):
        rs.convert(
            tmp_path / "rewards of two shapes.zarr", tmp_path / "c.h5", fields=["observation", "reward/a1"]
        )
    assert not (tmp_path / "c.h5").exists()


@pytest.mark.parametrize("further", [(), ("reward", "terminated", "truncated")])
def test_a_writer_keeps_nothing_of_the_arrays_that_it_is_given(
    tmp_path: Path, further: tuple[str, ...]
) -> None:
    """Environments and agents fill theirs anew."""
    fields = {"observation": rs.Field("f4", (2,), "observation"), "action": rs.Field("i8", (), "action")}
    fields |= {name: rs.Field("f4" if name == "reward" else "bool", (), name) for name in further}
    others: dict[str, Any] = {name: np.zeros(2, fields[name].dtype) for name in further}
    observation, action, mask = np.zeros((2, 2), "f4"), np.zeros(2, "i8"), np.zeros(2, bool)
    with rs.create(tmp_path / "a.zarr", rs.Schema(fields)) as buffer:
        writer = buffer.writer(2)
        writer.reset(observation)
        for time in range(6):
            observation[:], action[:], mask[:] = time + 1, time, [time % 2 == 0, time % 2 == 1]
            writer.step(action=action, observation=observation, mask=mask, **others)
            observation[:], action[:], mask[:] = -1, -1, False
        writer.close()
        buffer.commit()

        assert buffer["action"][:].tolist() == [0, 1, 2, 3, 4, 5]
        assert buffer["observation"][:][:, 0].tolist() == [0, 0, 1, 2, 3, 4]


def test_a_step_of_which_one_info_does_not_fit_leaves_nothing_behind(tmp_path: Path) -> None:
    """Those before it, which fit, are not half of a step."""
    plain = {"observation": (2,), "action": (), "reward": (), "info/a": (), "info/b": ()}
    schema = {name: rs.Field("float32", shape, name.split("/")[0]) for name, shape in plain.items()}
    flags = {name: rs.Field("bool", (), name) for name in ("terminated", "truncated")}
    with rs.create(tmp_path / "a.zarr", rs.Schema({**schema, **flags})) as buffer:
        writer, one, no = buffer.writer(3), np.ones(3, "f4"), np.zeros(3, np.bool_)
        seen = np.zeros((3, 2), "f4")
        writer.reset(seen)
        for value in range(4):
            given = {"info/a": one * value, "info/b": one * -value}
            wrong: dict[str, Any] = {"info/a": one * 7, "info/b": one.astype("f8")}
            with pytest.raises(SchemaError, match="'info/b': expected dtype float32"):
                writer.step(one, one, no, no, seen, wrong)
            wrong["info/b"] = np.zeros(2, "f4")
            with pytest.raises(SchemaError, match="'info/b' has 2 rows"):
                writer.step(one, one, no, no, seen, wrong)
            writer.step(one, one, no, no, seen, given)
        assert writer.staged == 12
        buffer.commit()
        assert buffer["info/a"][:].tolist() == np.repeat(np.arange(4.0), 3).tolist()
        assert (buffer["info/b"][:] == -buffer["info/a"][:]).all()
