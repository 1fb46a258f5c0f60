"""The public names of the package, and what the tree of errors promises."""

from __future__ import annotations

import ast
import builtins
import importlib
import inspect
import pickle
import subprocess
import sys
from pathlib import Path
from types import FunctionType

import pytest

import replaystore
from replaystore import errors

FUNCTIONS = ["convert", "create", "open", "repair", "verify"]
BUILTINS = {
    errors.AlreadyExistsError: FileExistsError,
    errors.ArgumentError: ValueError,
    errors.EvictedError: IndexError,
    errors.MissingDependencyError: ImportError,
    errors.NotFoundError: FileNotFoundError,
    errors.SchemaError: ValueError,
    errors.StorageError: OSError,
    errors.UnknownFieldError: KeyError,
    errors.UnsupportedError: NotImplementedError,
}
ERRORS = [value for name in errors.__all__ if issubclass(value := getattr(errors, name), Exception)]


def test_every_public_name_is_there_and_is_seen_by_type_checkers() -> None:
    assert sorted(replaystore.__all__) == list(replaystore.__all__)
    for name in replaystore.__all__:
        assert getattr(replaystore, name) is getattr(replaystore, name)
    assert set(replaystore.__all__) <= set(dir(replaystore))

    tree = ast.parse(Path(replaystore.__file__).read_text())
    block = next(node for node in tree.body if isinstance(node, ast.If))
    seen = {alias.name for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert seen | {"__version__"} == set(replaystore.__all__)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'opne'; its public names are Buffer, "):
        replaystore.opne  # type: ignore[attr-defined]  # noqa: B018  # reading it is the point


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_is_not_hidden_by_a_module_of_its_name(name: str) -> None:
    assert isinstance(getattr(replaystore, name), FunctionType)
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module(f"replaystore.{name}")


@pytest.mark.parametrize("name", ["Buffer", "Field", "Schema", *FUNCTIONS])
def test_names_are_there_whatever_was_imported_before(name: str) -> None:
    home = getattr(replaystore, name).__module__
    program = f"import {home}, replaystore; assert replaystore.{name} is {home}.{name}"

    subprocess.run([sys.executable, "-c", program], check=True)


@pytest.mark.parametrize("error", ERRORS)
def test_every_error_is_documented_catchable_and_survives_a_process_border(error: type[Exception]) -> None:
    assert issubclass(error, errors.ReplayStoreError | UserWarning)
    assert error.__name__ in str(errors.__doc__) or issubclass(error, Warning)
    assert inspect.getdoc(error)

    twin = pickle.loads(pickle.dumps(error("steps/action, row 3: too long")))
    assert type(twin) is error
    assert str(twin) == "steps/action, row 3: too long"


@pytest.mark.parametrize(("error", "builtin"), BUILTINS.items())
def test_errors_are_also_what_a_stranger_would_catch(
    error: type[Exception], builtin: type[Exception]
) -> None:
    assert issubclass(error, builtin)


def test_no_other_error_inherits_a_builtin() -> None:
    plain = {Exception, BaseException, object}
    specific = {value for value in vars(builtins).values() if isinstance(value, type)} - plain

    assert {
        error for error in ERRORS if specific & set(error.__mro__) and not issubclass(error, Warning)
    } == set(BUILTINS)


def test_error_modules_list_all_their_classes() -> None:
    assert set(errors.__all__) == {name for name, value in vars(errors).items() if isinstance(value, type)}
