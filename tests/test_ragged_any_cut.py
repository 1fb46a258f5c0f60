"""The same steps, however they are cut into calls, flushes, commits and rollbacks: the same is there, values
lie as FORMAT.md says after each cut, and no more of them is unused than what was said to follow."""

from __future__ import annotations

import shutil
import tempfile
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from test_ragged_cuts import ENVS, OBSERVED, SCHEMA, contents, observations, script

import replaystore as rs
from replaystore.schema import tree

RAGGED = tuple(SCHEMA.ragged)
STEPS = 24
CUTS = st.lists(st.sampled_from(["go on", "go on", "flush", "commit"]), min_size=30, max_size=30)


def used(buffer: rs.Buffer, name: str) -> int:
    """How many rows of the values are named; they lie in order, and where values are."""
    stored = tree.values(name)
    first, stop = buffer.store.first(stored), buffer.store.rows(stored)
    rows = buffer.rows(name, slice(None))
    assert (rows[1:, 0] >= rows[:-1, 0]).all()
    filled = rows[rows[:, 0] < rows[:, 1]]
    assert (filled[1:, 0] >= filled[:-1, 1]).all()
    named = [filled]
    if name in OBSERVED:
        parts = buffer.parts
        known = parts.final >= 0
        finals, last = buffer.final_rows(name, parts.final[known]), parts.last[known]
        named.append(_behind(finals, rows[last]))
        for entry in buffer.open_trajectories():
            if entry.following is not None and entry.part_length:
                at = entry.part_start + (entry.part_length - 1) * entry.stride
                named.append(_behind(entry.following[name][None], rows[[at]]))
    spans = np.unique(np.concatenate(named), axis=0)
    assert not len(spans) or first <= spans.min() <= spans.max() <= stop
    assert (spans[1:, 0] >= spans[:-1, 1]).all(), "no value lies in another"
    return int((spans[:, 1] - spans[:, 0]).sum())


def _behind(spans: Any, rows: Any) -> Any:
    """Those that are not empty, which lie behind the begins of the steps that they follow."""
    filled = spans[:, 0] < spans[:, 1]
    assert (spans[filled, 0] >= rows[filled, 0]).all()
    return spans[filled]


def check(buffer: rs.Buffer, said: dict[str, int]) -> None:
    """`said`: how many rows of values followed steps, and may have been written for nothing."""
    for name in RAGGED:
        unused = buffer.store.rows(tree.values(name)) - used(buffer, name)
        assert 0 <= unused <= said.get(name, 0), name


def lengths(observation: dict[str, Any]) -> dict[str, int]:
    """Of the values of an observation of all environments."""
    leaves = {f"observation/{name}": values for name, values in observation.items()}
    return {
        name: sum(len(one.encode() if isinstance(one, str) else one) for one in leaves[name])
        for name in set(RAGGED) & set(OBSERVED)
    }


def add(said: dict[str, int], more: dict[str, int]) -> None:
    for name, count in more.items():
        said[name] = said.get(name, 0) + count


def located(suffix: str) -> tuple[str, str]:
    folder = tempfile.mkdtemp(prefix="any-cut-")
    return folder, f"{folder}/a{suffix}"


@settings(max_examples=20)
@given(seed=st.integers(0, 10**6), cuts=CUTS, suffix=st.sampled_from([".zarr", ".zarr", ".h5"]))
def test_a_writer_that_is_cut_anywhere(seed: int, cuts: list[str], suffix: str) -> None:
    told = script(seed, STEPS)
    folder, place = located(suffix)
    try:
        with rs.create("memory:whole", SCHEMA, overwrite=True) as whole:
            writer = whole.writer(ENVS)
            for kind, values in told:
                getattr(writer, kind)(**values)
            writer.close()
            whole.commit()
            wanted = contents(whole)
        said = dict[str, int]()
        buffer = rs.create(place, SCHEMA)
        writer = buffer.writer(ENVS)
        for number, (kind, values) in enumerate(told):
            getattr(writer, kind)(**values)
            cut = cuts[number % len(cuts)]
            if cut != "go on":
                add(said, lengths(values["observation"]))
                add(said, lengths(values["observation"]))  # of those that a mask left out the one before
            if cut == "flush":
                writer.flush()
            elif cut != "go on":
                buffer.commit()
                check(buffer, said)
        writer.close()
        buffer.commit()
        add(said, lengths(told[-1][1]["observation"]))
        check(buffer, said)
        assert contents(buffer) == wanted
        buffer.close()
        assert rs.verify(place).problems == []
    finally:
        shutil.rmtree(folder)


@settings(max_examples=20)
@given(data=st.data(), suffix=st.sampled_from([".zarr", ".zarr", ".h5"]))
def test_appends_that_are_cut_anywhere(data: st.DataObject, suffix: str) -> None:
    """Of several environments by turns, with rollbacks of what else was appended, and reopened."""
    count = data.draw(st.integers(1, STEPS), "steps of each")
    generator = np.random.default_rng(data.draw(st.integers(0, 10**6), "seed"))
    ends = generator.random((count, ENVS)) < 0.15
    steps = [observations(number) for number in range(2 * count + 1)]

    def append(buffer: rs.Buffer, env: int, begin: int, stop: int) -> dict[str, int]:
        """Steps of an environment; what followed them, and was not the observation of one of them."""
        rows = range(begin, stop)
        final = [row for row in rows if ends[row, env] or row == stop - 1]
        after = [steps[count + row if ends[row, env] else row + 1] for row in final]
        buffer.append(
            {
                "observation": {k: _stack([steps[row][k][env] for row in rows]) for k in steps[0]},
                "action": [np.arange(row % 4, dtype=np.int32) for row in rows],
                "reward": np.arange(begin, stop, dtype=np.float32),
                "terminated": ends[begin:stop, env],
                "truncated": np.zeros(stop - begin, bool),
            },
            env=env,
            final_observation={k: _stack([one[k][env] for one in after]) for k in steps[0]},
        )
        return lengths({k: [after[-1][k][env]] for k in steps[0]})

    folder, place = located(suffix)
    try:
        with rs.create("memory:whole", SCHEMA, overwrite=True) as whole:
            for env in range(ENVS):
                append(whole, env, 0, count)
            whole.commit()
            wanted = contents(whole)
        said, at = dict[str, int](), [0] * ENVS
        buffer = rs.create(place, SCHEMA)
        while min(at) < count:
            env = data.draw(st.sampled_from([env for env in range(ENVS) if at[env] < count]), "env")
            stop = data.draw(st.integers(at[env] + 1, count), "stop")
            add(said, append(buffer, env, at[env], stop))
            at[env] = stop
            cut = data.draw(st.sampled_from(["go on", "commit", "roll back", "reopen"]), "then")
            if cut == "go on":
                continue
            known = buffer.commit()
            check(buffer, said)
            if cut == "roll back":
                append(buffer, env, 0, 1)
                if data.draw(st.booleans(), "committed"):
                    buffer.commit()
                buffer.rollback(known)
                check(buffer, said)
            elif cut == "reopen":
                buffer.close()
                buffer = rs.open(place, "r+")
        buffer.commit()
        check(buffer, said)
        assert contents(buffer) == wanted
        buffer.close()
        assert rs.verify(place).problems == []
    finally:
        shutil.rmtree(folder)


def _stack(values: list[Any]) -> Any:
    """Numbers as an array; texts and arrays of any length as they are."""
    return np.array(values) if np.isscalar(values[0]) and not isinstance(values[0], str) else values
