"""What the buffer costs while an agent trains: recording, sampling at every step, commits, rings, conversion
and small stores, beside other buffers and plain arrays, in one run: ./scripts/bench live [--quick] [--json
PATH] [--picture PATH] [--only NAME].

All variants of a line take their turns in one process, round after round; what they give is compared with
what was written. Numbers are medians over rounds, of ratios where something is compared. Targets are those
that the project sets itself. All files are written below one temporary folder (--folder chooses where), which
is removed.

A measure is a module of `live_measures` with `MEASURES`, functions by name, and with `TITLES`, those of the
workloads that the picture shows, if it shows any.
"""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
import warnings
from types import ModuleType

import click
import live_measures
from live_measures import peers
from measuring.command import PICTURE, Measure, options, run


def measuring_modules() -> list[ModuleType]:
    """The modules that measure, in the order of their names."""
    names = sorted(found.name for found in pkgutil.iter_modules(live_measures.__path__))
    modules = [importlib.import_module(f"live_measures.{name}") for name in names]
    return [module for module in modules if hasattr(module, "MEASURES")]


MEASURES: dict[str, Measure] = {}
TITLES: dict[str, str] = {}
for _module in measuring_modules():
    MEASURES |= _module.MEASURES
    TITLES |= getattr(_module, "TITLES", {})


@click.command()
@options(MEASURES)
@PICTURE
def main(
    quick: bool, path: str | None, picture: str | None, only: tuple[str, ...], folder: str | None
) -> None:
    """Measure a buffer that grows while it is sampled, beside other buffers.

    Peers (Stable-Baselines3, TorchRL, cpprb) that are not installed are named in one line, and left out.
    """
    warnings.filterwarnings("ignore", module=r"(gymnasium|torchrl|tensordict|stable_baselines3|zarr)\b")
    if picture is not None and importlib.util.find_spec("matplotlib") is None:
        raise click.UsageError("matplotlib is not installed, which draws the picture: leave out --picture")
    missing = peers.missing()
    if missing:
        click.echo(f"not installed, and so left out: {', '.join(missing)}", err=True)
    results = run(
        {name: MEASURES[name] for name in only or MEASURES},
        quick=quick,
        path=path,
        folder=folder,
        libraries=tuple(peers.LIBRARIES),
    )
    if picture is not None:
        from measuring.picture import draw

        draw(results, TITLES, picture, "one step or batch")


if __name__ == "__main__":
    main()
