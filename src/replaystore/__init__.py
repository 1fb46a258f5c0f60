"""replaystore keeps reinforcement-learning buffers: appended while an agent trains, safe through a crash,
sampled at the speed of memory.

    import replaystore as rs

    with rs.create("runs/ant.zarr", env) as buffer: ...
    buffer = rs.open("runs/ant.zarr")

The public names are loaded when they are first used (PEP 562), so that importing this package costs next to
nothing. No folder here has the name of a function such as `convert`: importing a submodule sets an attribute
of its name on the package, which would hide the function.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from replaystore import errors
    from replaystore.buffers.buffer import Buffer, create, open  # noqa: A004  # rs.open, as in other libraries that open files
    from replaystore.checking.repair import repair
    from replaystore.checking.verify import verify
    from replaystore.converting.convert import convert
    from replaystore.schema.fields import Field, Schema

__version__ = "0.1.0"

__all__ = [
    "Buffer",
    "Field",
    "Schema",
    "__version__",
    "convert",
    "create",
    "errors",
    "open",
    "repair",
    "verify",
]

_HOMES = {
    "Buffer": "replaystore.buffers.buffer",
    "Field": "replaystore.schema.fields",
    "Schema": "replaystore.schema.fields",
    "convert": "replaystore.converting.convert",
    "create": "replaystore.buffers.buffer",
    "open": "replaystore.buffers.buffer",
    "repair": "replaystore.checking.repair",
    "verify": "replaystore.checking.verify",
}

if not TYPE_CHECKING:  # mypy would take every name for granted if it saw this

    def __getattr__(name: str) -> object:
        from importlib import import_module

        if name == "errors":
            return import_module("replaystore.errors")
        if name not in _HOMES:
            raise AttributeError(
                f"module 'replaystore' has no attribute {name!r}; its public names are {', '.join(__all__)}"
            )
        value = globals()[name] = getattr(import_module(_HOMES[name]), name)
        return value

    def __dir__() -> list[str]:
        return sorted({*__all__, *(name for name in globals() if name.startswith("__"))})
