"""The modules form layers, and imports point downwards only; and nothing is longer than it has to be."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "src" / "replaystore"

LAYERS: list[set[str]] = [
    {"errors", "extras", "forks", "interrupts", "refusals"},
    {"credentials", "location", "registry", "schema", "not_stores", "trajectories", "urls", "wire"},
    {"storage"},
    {"containers"},
    {"columns"},
    {"arrays"},
    {"views"},
    {"formats", "sampling"},
    {"buffers"},
    {"analysis", "checking", "client", "comparing", "converting", "gymnasium", "service", "torch"},
    {"__main__", "cli", "compat", "sb3", "testing"},
]
"""What may import what: a folder imports from its own layer and from those before it."""

STORAGE = {"zarr", "h5py", "obstore"}
DOORS = {"chunks", "datasets", "groups", "values", "writing"}
"""What formats of other software have in `shared/hdf5` to reach them."""
VAGUE = {"utils", "util", "common", "core", "base", "helpers", "helper", "types", "misc"}

FILES = sorted(path.relative_to(ROOT) for path in ROOT.rglob("*.py"))
MODULES = [file for file in FILES if file != Path("__init__.py")]
LEVELS = {name: level for level, names in enumerate(LAYERS) for name in names}


def name_of(file: Path) -> str:
    """The module or package of the first level that a file belongs to."""
    return file.parts[0].removesuffix(".py")


def imported(tree: ast.AST) -> Iterator[str]:
    """The full names of all modules that are imported anywhere in a file, with the name taken from each."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def imported_modules(file: Path) -> set[str]:
    """The modules of the first level that a file imports from."""
    names = [name.split(".") for name in imported(ast.parse((ROOT / file).read_text()))]
    assert ["replaystore"] not in names, (
        f"{file} imports the whole package; import from the module that a name lives in"
    )
    return {name[1] for name in names if name[0] == "replaystore"}


def module_of(name: str) -> str | None:
    """The file that a full name is taken from: the last module or package on the way to it."""
    parts = name.split(".")[1:] if name.startswith("replaystore.") else []
    for end in range(len(parts), 0, -1):
        for place in (Path(*parts[:end]).with_suffix(".py"), Path(*parts[:end], "__init__.py")):
            if place in FILES:
                return str(place)
    return None


def known_to(file: Path) -> set[str]:
    """The files of the package that this one imports anything from, wherever in it, and for types only
    too."""
    found = {module_of(name) for name in imported(ast.parse((ROOT / file).read_text()))}
    return {name for name in found if name is not None} - {str(file)}


def test_every_module_has_its_layer() -> None:
    assert {name_of(file) for file in MODULES} <= LEVELS.keys()


@pytest.mark.parametrize("file", MODULES, ids=str)
def test_imports_point_downwards(file: Path) -> None:
    level = LEVELS[name_of(file)]

    upward = {name for name in imported_modules(file) if LEVELS.get(name, len(LAYERS)) > level}

    assert not upward, f"{file} is below {', '.join(sorted(upward))}"


def test_no_module_knows_what_knows_it() -> None:
    graph = {str(file): known_to(file) for file in MODULES}

    try:
        list(TopologicalSorter(graph).static_order())
    except CycleError as error:
        pytest.fail(f"these import each other: {' → '.join(error.args[1])}")


@pytest.mark.parametrize("file", FILES, ids=str)
def test_only_backends_know_the_storage_libraries(file: Path) -> None:
    libraries = {name.split(".")[0] for name in imported(ast.parse((ROOT / file).read_text()))}

    # It makes files as strangers do, who have nothing but the library.
    crafts = file == Path("testing/crafting_hdf5.py")
    # It is what zarr-python reads a buffer through, of whatever container.
    shows = file == Path("views/zarr_store.py")
    # Formats reach the libraries by these doors alone.
    door = file.parent == Path("formats/shared/hdf5") and file.stem in DOORS
    assert (
        file.parts[:2] in (("containers", "hdf5"), ("containers", "zarr"))
        or crafts
        or shows
        or door
        or not libraries & STORAGE
    )


def test_a_name_says_what_a_module_holds() -> None:
    assert not [str(file) for file in FILES if VAGUE & set(re.split(r"[/_.]", str(file)))]


# --- how long things are

LONG, MANY = 400, 25
"""A file has at most so many lines, and a class so many methods, unless its head says why."""
REASONS = {LONG: "Longer than 400 lines because ", MANY: "More than 25 methods because "}
CHECKOUT = ROOT.parents[1]
WRITTEN = [
    path for folder in ("src", "tests", "scripts") for path in sorted((CHECKOUT / folder).rglob("*.py"))
]


def reasoned(tree: ast.Module, limit: int) -> bool:
    """Whether the head of a file gives a reason to go beyond a limit."""
    return REASONS[limit] in " ".join((ast.get_docstring(tree) or "").split())


def beyond() -> Iterator[str]:
    """The files, and the classes in them, that go beyond a limit without a reason."""
    for path in WRITTEN:
        text, name = path.read_text(encoding="utf-8"), str(path.relative_to(CHECKOUT))
        tree = ast.parse(text)
        if len(text.splitlines()) > LONG and not reasoned(tree, LONG):
            yield name
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef) and not reasoned(tree, MANY):
                methods = [part for part in node.body if isinstance(part, ast.FunctionDef)]
                if len(methods) > MANY:
                    yield f"{name}: {node.name}"


def test_files_and_classes_are_short_or_say_why_not() -> None:
    found = sorted(set(beyond()))

    assert not found, f"cut these, or say in the head of the file: {' or '.join(REASONS.values())}…: {found}"


def test_every_file_says_what_it_is_for() -> None:
    assert not [
        str(path) for path in WRITTEN if not ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    ]
