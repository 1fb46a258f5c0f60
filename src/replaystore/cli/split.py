"""`replaystore split`: which split the trajectories of a store are of."""

from __future__ import annotations

import click

from replaystore.cli.output import count, json_option, pairs, print_json, printable

__all__ = ["split"]


@click.command(short_help="Give trajectories their splits.")
@click.argument("location", type=click.Path())
@click.option(
    "--by",
    required=True,
    type=(click.Choice(["fraction", "return", "column"]), str),
    metavar="RULE VALUE",
    help="fraction 0.8,0.1,0.1; return BOUND,BOUND; or column NAME.",
)
@click.option("--names", metavar="A,B", help="Of the splits, in their order.")
@click.option("--seed", type=int, default=0, help="Of what is drawn by fraction.")
@json_option
def split(location: str, by: tuple[str, str], names: str | None, seed: int, json_: bool) -> None:
    """Set the split of all trajectories of LOCATION that have ended, in one commit.

    By fraction they are drawn at random; fractions sum to 1, or are shares such as 8,1,1. By return the
    bounds go from low to high, and a return that is one of them belongs above it. By column each of its
    values is a split.

    \b
    Examples:
      replaystore split runs/ant.zarr --by fraction 0.8,0.2 --seed 1
      replaystore split runs/ant.zarr --by return 100,500 --names low,middle,high
      replaystore split runs/ant.zarr --by column success
    """
    from replaystore.converting.splitting import split_trajectories

    rule, value = by
    called = None if names is None else [name.strip() for name in names.split(",")]
    if rule == "column":
        found = split_trajectories(location, column=value, names=called)
    else:
        numbers = [_number(text, value) for text in value.split(",")]
        if rule == "return":
            found = split_trajectories(location, returns=numbers, names=called)
        else:
            found = split_trajectories(location, fractions=numbers, names=called, seed=seed)
    if json_:
        print_json({"location": location, "splits": found})
        return
    click.echo(pairs({printable(name): f"{count(several)} trajectories" for name, several in found.items()}))


def _number(text: str, value: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise click.UsageError(f"--by takes numbers with commas between them, not {value!r}") from None
