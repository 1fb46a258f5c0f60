"""What begins with an underscore is used by the object, or the module, that it belongs to, by no other."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "src" / "replaystore"

ROOMS = [
    "analysis",
    "checking",
    "cli",
    "compat",
    "converting",
    "formats",
    "gymnasium",
    "schema",
    "torch.py",
]
NAMELESS = {(Path("compat/memory_ring.py"), "tensor._version")}
"""What torch has no public name for: how often a tensor was changed."""


def files() -> list[Path]:
    found = [file for room in ROOMS for file in [ROOT / room, *(ROOT / room).rglob("*.py")] if file.is_file()]
    return sorted(file.relative_to(ROOT) for file in found)


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.endswith("__")


def is_own(owner: ast.expr) -> bool:
    """Whether it is the object, its class, or what its class inherits."""
    if isinstance(owner, ast.Call):
        return isinstance(owner.func, ast.Name) and owner.func.id == "super"
    return isinstance(owner, ast.Name) and owner.id in ("self", "cls")


def reached_into(tree: ast.AST) -> Iterator[str]:
    """The private names of others that a file uses."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and is_private(node.attr) and not is_own(node.value):
            yield ast.unparse(node)
        elif isinstance(node, ast.ImportFrom):
            yield from (alias.name for alias in node.names if is_private(alias.name))


@pytest.mark.parametrize("file", files(), ids=str)
def test_what_is_private_is_left_to_its_owner(file: Path) -> None:
    found = set(reached_into(ast.parse((ROOT / file).read_text())))
    assert not {name for name in found if (file, name) not in NAMELESS}


def test_reaching_into_others_is_found() -> None:
    text = "from a import _b, c\nself._x\ncls._y\nsuper()._z\nother._d\nself.other._e\nother.__dict__\n"
    assert list(reached_into(ast.parse(text))) == ["_b", "other._d", "self.other._e"]
