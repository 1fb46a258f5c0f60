"""The mutants of `./scripts/mutants` still apply: a change of the code that takes one along is seen here.

Whether tests see them takes minutes, and is what the script is for.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from running import SCRIPTS

sys.path.append(str(SCRIPTS / "mutating"))
import table  # type: ignore[import-not-found]

ROOT = SCRIPTS.parent
NAMES = [mutant.name for mutant in table.MUTANTS]
FUNCTION = re.compile(r"(?:async )?def (test_\w+)|class (\w+)")


def mutant(name: str) -> Any:
    return table.MUTANTS[NAMES.index(name)]


def defined(path: Path) -> set[str]:
    """The tests and classes that a file defines."""
    return {found[1] or found[2] for found in FUNCTION.finditer(path.read_text(encoding="utf-8"))}


SUITES = set().union(*(defined(path) for path in (ROOT / "src/replaystore/testing").glob("*.py")))
"""What files of tests inherit."""


def test_each_has_a_name_of_its_own() -> None:
    assert len(set(NAMES)) == len(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_mutant_applies_once_and_is_a_program(name: str) -> None:
    found = mutant(name)

    assert found.problem(ROOT) == ""
    before = (ROOT / found.file).read_text(encoding="utf-8")
    after = found.applied(before)

    assert ast.dump(ast.parse(after)) != ast.dump(ast.parse(before))


@pytest.mark.parametrize("name", NAMES)
def test_the_tests_that_are_to_see_a_mutant_are_there(name: str) -> None:
    assert mutant(name).tests
    for test in mutant(name).node_ids:
        file, *parts = test.partition("[")[0].split("::")
        assert (ROOT / file).is_file(), test
        assert set(parts) <= defined(ROOT / file) | SUITES, test


def test_text_that_is_not_there_or_there_twice_is_a_problem(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("x = 1\ny = 1\n")

    def problem(file: str, before: str) -> str:
        return str(table.Mutant("name", file, before, "", "promise", ("tests",)).problem(tmp_path))

    assert problem("a.py", "x = 1") == ""
    assert "2 times" in problem("a.py", "= 1")
    assert "0 times" in problem("a.py", "z = 1")
    assert "no b.py" in problem("b.py", "x = 1")


def test_a_mutant_that_there_is_not_is_named() -> None:
    command = [sys.executable, str(SCRIPTS / "mutating" / "run.py"), "--only", "nothing"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)

    assert "there is no mutant 'nothing'" in done.stderr
    assert done.returncode == 1
