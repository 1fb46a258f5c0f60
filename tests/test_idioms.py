"""What people who know Python, NumPy and pandas write without looking it up: it works, or it says what to
write instead."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from numpy.typing import NDArray
from tensors import torch

import replaystore as rs
from replaystore.errors import SchemaError, UnknownFieldError, UnsupportedError
from replaystore.schema.roles import ROLES, Role

FIELDS = {
    "observation": rs.Field("float32", (2,), "observation"),
    "action": rs.Field("int64", (), "action"),
    "reward": rs.Field("float64", (), "reward"),
    "terminated": rs.Field("bool", (), "terminated"),
    "truncated": rs.Field("bool", (), "truncated"),
}


def rows(count: int, first: int = 0) -> dict[str, NDArray[Any]]:
    """Steps whose observations are their numbers; the last one terminates."""
    numbers = np.arange(first, first + count)
    return {
        "observation": np.stack([numbers, -numbers], axis=1).astype(np.float32),
        "action": numbers,
        "reward": np.ones(count),
        "terminated": numbers == first + count - 1,
        "truncated": np.zeros(count, np.bool_),
    }


@pytest.fixture
def buffer(tmp_path: Path) -> rs.Buffer:
    made = rs.create(tmp_path / "a.zarr", rs.Schema(FIELDS))
    made.append(rows(5), final_observation=np.float32([5, -5]))
    made.append(rows(4, 10), final_observation=np.float32([14, -14]))
    made.commit()
    return made


# --- names


WRONG: dict[str, Callable[[Any], Any]] = {
    "buffer": lambda buffer: buffer["rewards"],
    "buffer.read": lambda buffer: buffer.read([0], ["rewards"]),
    "buffer.statistics": lambda buffer: buffer.statistics(["rewards"]),
    "statistics": lambda buffer: buffer.statistics()["rewards"],
    "buffer.trajectory": lambda buffer: buffer.trajectory(0, ["rewards"]),
    "trajectory": lambda buffer: buffer.trajectory(0)["rewards"],
    "sampler": lambda buffer: buffer.sampler(2, fields=["rewards"]),
    "schema.select": lambda buffer: buffer.schema.select(["rewards"]),
    "schema.fields": lambda buffer: buffer.schema.fields["rewards"],
    "append": lambda buffer: buffer.append({**rows(1), "rewards": np.ones(1)}),
    "storage": lambda _: rs.create(
        "memory:storage", rs.Schema(FIELDS), storage={"rewards": {"codec": "raw"}}
    ),
    "convert": lambda buffer: rs.convert(buffer, "memory:converted", fields=["rewards"]),
}


@pytest.mark.parametrize("action", WRONG.values(), ids=WRONG)
def test_a_wrong_name_lists_the_right_ones(buffer: rs.Buffer, action: Callable[[Any], Any]) -> None:
    with pytest.raises(UnknownFieldError, match="'reward'") as caught:
        action(buffer)

    assert isinstance(caught.value, KeyError)
    assert isinstance(caught.value, SchemaError)
    assert "'observation'" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not str(caught.value).startswith('"')


def test_a_wrong_column_lists_the_right_ones(buffer: rs.Buffer) -> None:
    with pytest.raises(UnknownFieldError, match="the columns are trajectory, env, length"):
        buffer.trajectories["rewards"]
    with pytest.raises(AttributeError, match="the columns are trajectory, env, length"):
        _ = buffer.trajectories.rewards


def test_a_name_that_is_nearly_right_and_one_that_stands_for_several_are_told() -> None:
    env = spaces.Dict({"camera": spaces.Box(0, 1, (2,)), "joints": spaces.Box(0, 1, (2,))})
    made = rs.create("memory:nested", rs.Schema.from_spaces(env, spaces.Discrete(2)))
    with pytest.raises(UnknownFieldError, match="did you mean 'reward'"):
        made["rewards"]
    with pytest.raises(UnknownFieldError, match="beginning of 2 names") as caught:
        made["observation"]
    assert "'observation/camera', 'observation/joints'" in str(caught.value)
    assert "'reward'" not in str(caught.value)


def test_in_is_true_where_a_name_can_be_used_and_false_for_anything_else(buffer: rs.Buffer) -> None:
    containers = (
        buffer,
        buffer.trajectory(0),
        buffer.schema.fields,
        buffer.statistics(),
        buffer.sampler(2).sample(),
    )
    for container in containers:
        assert "reward" in container
        for other in ("rewards", 0, None, np.float64(1), ("reward",)):
            assert other not in container
    assert "next_observation" in buffer.trajectory(0)
    assert "next_reward" not in buffer.trajectory(0)
    assert "length" in buffer.trajectories
    assert "reward" not in buffer.trajectories


@pytest.mark.parametrize(
    "rows_",
    [
        slice(0, 5),
        slice(None),
        slice(5, 0, -2),
        0,
        -1,
        np.int64(3),
        [0, 1],
        np.arange(2),
        None,
        (0, "reward"),
    ],
)
def test_steps_in_the_brackets_of_a_buffer_name_read(buffer: rs.Buffer, rows_: Any) -> None:
    with pytest.raises(SchemaError, match=r"buffer\.read\(.*'reward'|'reward'.*buffer\.read\(") as caught:
        buffer[rows_]

    if isinstance(rows_, slice | int):  # the advice does what it says
        said = str(caught.value)
        advice = said[said.index("buffer.read(") : said.index(", those of one field")]
        column = said[said.index("buffer['observation']") : said.index(", those of a trajectory")]
        found = eval(advice, {"buffer": buffer})["observation"]
        np.testing.assert_array_equal(np.atleast_2d(eval(column, {"buffer": buffer})), found)


# --- truth


def test_a_sampler_is_true_and_in_does_not_draw(buffer: rs.Buffer) -> None:
    for chosen in ({}, {"order": "trajectory"}, {"order": "epoch"}, {"weights": np.ones(len(buffer))}):
        sampler = buffer.sampler(2, **chosen)
        assert bool(sampler) is True
        assert (sampler or None) is sampler
        with pytest.raises(TypeError):
            _ = "reward" in sampler


@pytest.mark.torch
def test_a_dataset_is_true_and_in_does_not_draw(buffer: rs.Buffer) -> None:
    from replaystore.torch import BatchDataset

    for order in ("uniform", "epoch"):
        dataset = BatchDataset(buffer, 2, order=order)
        assert bool(dataset) is True
        with pytest.raises(TypeError):
            _ = "reward" in dataset


# --- trajectories and statistics


def test_the_next_observations_of_a_trajectory(buffer: rs.Buffer) -> None:
    second = buffer.trajectory(1)

    np.testing.assert_array_equal(second["next_observation"][:, 0], [11, 12, 13, 14])
    np.testing.assert_array_equal(second["observation"][:, 0], [10, 11, 12, 13])
    assert second["next_observation"].dtype == np.float32
    np.testing.assert_array_equal(second.final_observation, np.float32([14, -14]))


def test_what_followed_is_told_also_where_a_recording_was_resumed_elsewhere(buffer: rs.Buffer) -> None:
    open_rows = rows(3, 20) | {"terminated": np.zeros(3, np.bool_)}
    buffer.append(open_rows, final_observation=np.float32([23, -23]))
    buffer.append(rows(2, 30), ends=[1])
    buffer.commit()

    several = [buffer.trajectory(number) for number in range(buffer.num_trajectories)]
    assert [len(one) for one in several][:2] == [5, 4]
    for sampled in buffer.sampler(len(buffer), order="epoch", seed=0):
        for observed, following in zip(sampled["observation"], sampled["next_observation"], strict=True):
            mine = next(one for one in several if (one["observation"] == observed).all(axis=1).any())
            if mine.final_observation is None:
                continue
            step = int(np.flatnonzero((mine["observation"] == observed).all(axis=1))[0])
            np.testing.assert_array_equal(mine["next_observation"][step], following)


def test_nested_observations_stay_a_dict_and_unknown_ends_are_told() -> None:
    env = spaces.Dict({"camera": spaces.Box(0, 1, (2,)), "joints": spaces.Box(0, 1, (2,))})
    made = rs.create("memory:nested-next", rs.Schema.from_spaces(env, spaces.Discrete(2)))
    steps = {name: np.zeros((3, *field.shape), field.dtype) for name, field in made.schema.fields.items()}
    steps["observation/joints"][:] = np.arange(3)[:, None]
    steps["terminated"][2] = True
    made.append(
        steps, final_observation={"camera": np.ones(2, np.float32), "joints": np.full(2, 9, np.float32)}
    )
    made.append(steps)
    made.commit()

    known, unknown = made.trajectory(0), made.trajectory(1)
    assert set(known.final_observation) == {"observation/camera", "observation/joints"}
    np.testing.assert_array_equal(known["next_observation/joints"][:, 0], [1, 2, 9])
    assert unknown.final_observation is None
    with pytest.raises(
        SchemaError,
        match=(
            r"not known what was "
            r"observed.*trajectory\['observation/joints'\]\[1:\]"
        ),
    ):
        unknown["next_observation/joints"]
    with pytest.raises(UnknownFieldError, match="'next_observation/camera'"):
        unknown["next_observation"]


def test_reprs_are_short_and_say_what_it_is(buffer: rs.Buffer) -> None:
    shown = [
        repr(buffer.trajectory(0)),
        *map(repr, buffer.statistics().values()),
        repr(buffer),
        repr(buffer["observation"]),
    ]

    assert shown[0] == (
        "<Trajectory 0: 5 steps of observation, action, reward, terminated, truncated; return 5; terminated>"
    )
    assert shown[1].startswith(
        "<Statistics of 9 rows of shape (2,): mean [6.222, -6.222], std [4.894, 4.894], min ["
    )
    for text in shown:
        assert len(text) < 200
        assert "\n" not in text


def test_attributes_are_in_the_documentation(buffer: rs.Buffer) -> None:
    for found, names in (
        (buffer.trajectory(0), ("info", "columns", "final_observation")),
        (buffer.statistics()["reward"], ("count", "mean", "std", "min, max", "squares")),
    ):
        for name in names:
            assert f"{name}:" in str(type(found).__doc__)
            for attribute in name.split(", "):
                assert hasattr(found, attribute)
    # And no error of NumPy's, which compares element by element.
    assert buffer.trajectory(0) != buffer.trajectory(0)
    assert len({buffer.trajectory(0), buffer.trajectory(1)}) == 2


# --- fields and schemas


def test_the_public_names_are_shown() -> None:
    code = "import replaystore; print([name for name in dir(replaystore) if not name.startswith('_')])"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout

    assert eval(shown) == sorted(name for name in rs.__all__ if not name.startswith("_"))


def test_a_users_fields_type_check(tmp_path: Path) -> None:
    pytest.importorskip("mypy")
    good = "import numpy as np\nimport replaystore as rs\n"
    good += "".join(
        f"rs.Field({dtype}, (2,), 'observation')\n"
        for dtype in ("'float32'", "np.float32", "float", "np.dtype('u1')")
    )
    good += (
        "rs.Field('bool', [], 'terminated')\nrs.Field(dtype='int8', shape=(), role='reward', space=None)\n"
    )
    good += (
        "def of(trajectory: rs.Buffer) -> bool:\n    return 'reward' in trajectory and "
        "bool(trajectory.sampler(2))\n"
    )
    (tmp_path / "good.py").write_text(good)
    (tmp_path / "bad.py").write_text(
        "import replaystore as rs\nrs.Field('float32', (2,), 'observed')\nrs.Field('float32', 2, "
        "'observation')\n"
    )

    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--ignore-missing-imports", "--strict", "good.py", "bad.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )

    assert "good.py" not in done.stdout, done.stdout
    assert 'bad.py:2: error: Argument 3 to "Field"' in done.stdout
    assert 'bad.py:3: error: Argument 2 to "Field"' in done.stdout


def test_roles_are_those_of_the_annotation() -> None:
    assert typing.get_args(Role) == ROLES
    field = rs.Field(dtype="float32", shape=(2,), role="observation")
    assert field == copy.copy(field) == pickle.loads(pickle.dumps(field))
    assert repr(field) == "Field('float32', (2,), 'observation')"
    assert eval(
        repr(rs.Schema.from_spaces(spaces.Box(0, 1, (2,)), spaces.Discrete(2)).fields["action"]),
        {"Field": rs.Field},
    )


DTYPES: dict[str, tuple[Any, type[Exception], str]] = {
    "text": ("U10", UnsupportedError, r"Field\.of_text\(role\)"),
    "bytes": ("S4", UnsupportedError, r"Field\('uint8', \(4,\), ...\)"),
    "any text": (str, UnsupportedError, r"Field\.of_text\(role\)"),
    "any bytes": (bytes, UnsupportedError, r"Field\('uint8', \(None,\), ...\)"),
    "members": ([("a", "f4")], UnsupportedError, "one field for each of its members"),
    "with a shape": (
        np.dtype(("f4", (3,))),
        UnsupportedError,
        (
            r"give 'float32' as the dtype, and \(3,\) at "
            r"the end of the shape"
        ),
    ),
    "unknown": ("flaot32", SchemaError, "name one of bool"),
    "a syntax that NumPy fails to read": ("f4,(", SchemaError, "name one of bool"),
    "none": (None, SchemaError, "needs a dtype"),
}
if torch is not None:
    DTYPES |= {
        "torch": (torch.float32, SchemaError, "give 'float32'"),
        "torch, bool": (torch.bool, SchemaError, "give 'bool'"),
        "torch, bfloat16": (torch.bfloat16, SchemaError, "give 'float32'.*exactly"),
        "tensor": (torch.zeros(2), SchemaError, "is a value, not a dtype: give its .dtype"),
    }


@pytest.mark.parametrize(("dtype", "kind", "said"), DTYPES.values(), ids=DTYPES)
def test_what_to_give_instead_of_a_dtype(dtype: Any, kind: type[Exception], said: str) -> None:
    with pytest.raises(kind, match=said) as caught:
        rs.Field(dtype, (), "extra")
    assert "\n" not in str(caught.value)


def test_the_advice_for_texts_leads_somewhere(tmp_path: Path) -> None:
    texts = ["left", "right", "straight"]
    values = np.array(texts, "S8").view("uint8").reshape(-1, 8)
    with rs.create(tmp_path / "a.zarr", rs.Schema({"word": rs.Field("uint8", (8,), "extra")})) as made:
        made.append({"word": values})
        made.commit()
        assert made["word"][:].view("S8")[:, 0].tolist() == [text.encode() for text in texts]


CREATED: dict[str, tuple[Any, str]] = {
    "an id": ("CartPole-v1", r"gymnasium.make\('CartPole-v1'\)"),
    "fields": (FIELDS, r"replaystore.Schema\(fields\)"),
    "a class": (gymnasium.Env, "the class Env: make an instance"),
    "a space": (spaces.Discrete(2), "Schema.from_spaces"),
    "arrays": (rows(1), "gymnasium.make or make_vec"),
    "nothing": (None, "gymnasium.make or make_vec"),
    "a number": (3, "gymnasium.make or make_vec"),
}


@pytest.mark.parametrize(("given", "said"), CREATED.values(), ids=CREATED)
def test_create_says_what_it_takes(tmp_path: Path, given: Any, said: str) -> None:
    with pytest.raises(SchemaError, match=said) as caught:
        rs.create(tmp_path / "a.zarr", given)
    assert "expected a Schema or an environment of Gymnasium" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_create_takes_no_buffer_but_says_where_its_schema_is(buffer: rs.Buffer) -> None:
    with pytest.raises(SchemaError, match=r"a Buffer: give its \.schema"):
        rs.create("memory:of-a-buffer", buffer)  # type: ignore[arg-type]
    assert rs.create("memory:of-a-buffer", buffer.schema).schema == buffer.schema
