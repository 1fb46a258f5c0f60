"""Stored names: one module spells them, and field names come back from them."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import numpy as np
import pytest

import replaystore as rs
from replaystore.schema import tree
from replaystore.schema.fields import Field, Schema
from replaystore.trajectories.columns import PARTS, TRAJECTORIES

ROOT = Path(__file__).parents[1] / "src" / "replaystore"
SPELLED = re.compile(r"(steps|parts|final|trajectories|checksums|journal)/(?!s$)")
# What damages and forges stores names files as strangers do.
FILES = [path for path in ROOT.rglob("*.py") if path.relative_to(ROOT).parts[0] != "testing"]
LATER = set[str]()


@pytest.mark.parametrize("file", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_stored_names_are_spelled_in_one_module(file: Path) -> None:
    if file == ROOT / "schema" / "tree.py" or file.relative_to(ROOT).parts[0] in LATER:
        return
    texts = [node for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Constant)]

    spelled = [node.lineno for node in texts if isinstance(node.value, str) and SPELLED.match(node.value)]

    assert not spelled, f"{file} spells stored names in lines {spelled}: replaystore.schema.tree has them"


@pytest.mark.parametrize("name", ["reward", "observation/joint angles", "info/a%2Fb", "info/%"])
def test_arrays_are_named_after_fields_and_columns(name: str) -> None:
    assert tree.group_of(tree.steps(name)) == "steps"
    assert tree.is_final(tree.final(name))
    assert tree.column_of(tree.trajectories(name)) == name
    assert tree.is_trajectories(tree.trajectories(name))
    assert tree.checked_by(tree.checksums(tree.steps(name))) == tree.steps(name)
    assert tree.is_checksums(tree.checksums(tree.steps(name)))
    assert tree.is_journal(tree.tail(1))
    assert tree.is_journal(tree.LOG)
    assert tree.group_of(tree.PARTS) == tree.PARTS
    assert not tree.is_journal(tree.steps(name))


def test_a_new_store_has_the_columns_of_the_list_and_no_others() -> None:
    schema = Schema({name: Field("float32", (), name) for name in ("observation", "reward")})
    with rs.create("memory:columns", schema) as buffer:
        buffer.append({name: np.ones(3, np.float32) for name in schema.fields}, ends=[2])
        buffer.commit()
        specs = buffer._store.specs()
        shown = [name for name in buffer.trajectories.columns if name != "open"]

    assert {n for n in specs if tree.group_of(n) == "parts"} == {tree.PARTS}
    assert specs[tree.PARTS].shape == (len(PARTS),)
    assert {n for n in specs if tree.is_trajectories(n)} == set(map(tree.trajectories, TRAJECTORIES))
    assert shown == list(TRAJECTORIES)
    assert all(specs[tree.trajectories(name)].dtype == dtype for name, dtype in TRAJECTORIES.items())
