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
    from replaystore.buffers.buffer import Buffer
    from replaystore.buffers.create_open import create, open  # noqa: A004  # rs.open, as in other libraries that open files
    from replaystore.buffers.writer import Writer
    from replaystore.checking.repair import repair
    from replaystore.checking.verify import verify
    from replaystore.comparing.diff import diff
    from replaystore.comparing.digest import Digest, digest
    from replaystore.comparing.found import Diff
    from replaystore.comparing.merge import merge
    from replaystore.converting.convert import Report, convert
    from replaystore.converting.splitting import split_trajectories
    from replaystore.sampling.concat import concat
    from replaystore.sampling.sampler import Sampler
    from replaystore.schema.fields import Field, Schema
    from replaystore.schema.ragged import Ragged
    from replaystore.trajectories.table import Trajectories
    from replaystore.views.column import Column, Trajectory
    from replaystore.views.ragged_column import RaggedColumn
    from replaystore.views.statistics import RaggedStatistics, Statistics

__version__ = "0.1.0"

__all__ = [
    "Buffer",
    "Column",
    "Diff",
    "Digest",
    "Field",
    "Ragged",
    "RaggedColumn",
    "RaggedStatistics",
    "Report",
    "Sampler",
    "Schema",
    "Statistics",
    "Trajectories",
    "Trajectory",
    "Writer",
    "__version__",
    "concat",
    "convert",
    "create",
    "diff",
    "digest",
    "errors",
    "merge",
    "open",
    "repair",
    "split_trajectories",
    "verify",
]

_HOMES = {
    "Buffer": "replaystore.buffers.buffer",
    "Column": "replaystore.views.column",
    "Diff": "replaystore.comparing.found",
    "Digest": "replaystore.comparing.digest",
    "Field": "replaystore.schema.fields",
    "Ragged": "replaystore.schema.ragged",
    "RaggedColumn": "replaystore.views.ragged_column",
    "RaggedStatistics": "replaystore.views.statistics",
    "Report": "replaystore.converting.convert",
    "Sampler": "replaystore.sampling.sampler",
    "Schema": "replaystore.schema.fields",
    "Statistics": "replaystore.views.statistics",
    "Trajectories": "replaystore.trajectories.table",
    "Trajectory": "replaystore.views.column",
    "Writer": "replaystore.buffers.writer",
    "concat": "replaystore.sampling.concat",
    "convert": "replaystore.converting.convert",
    "create": "replaystore.buffers.create_open",
    "diff": "replaystore.comparing.diff",
    "digest": "replaystore.comparing.digest",
    "merge": "replaystore.comparing.merge",
    "open": "replaystore.buffers.create_open",
    "repair": "replaystore.checking.repair",
    "split_trajectories": "replaystore.converting.splitting",
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
