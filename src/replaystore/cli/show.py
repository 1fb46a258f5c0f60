"""`replaystore show`: steps, a trajectory, or the table of trajectories, to look at."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from replaystore.cli.output import (
    as_json,
    commit_option,
    count,
    json_option,
    number,
    pairs,
    printable,
    split_names,
    table,
)
from replaystore.errors import NotFoundError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from replaystore.buffers.buffer import Buffer
    from replaystore.trajectories.table import Trajectories

__all__ = ["show"]

DEFAULT_ROWS = 10
MOST_ROWS = 100
"""Lines of a table that are printed unasked; as JSON, all are."""
BLOCK_ROWS, BLOCK_BYTES = 1000, 32 << 20
"""Rows that are aligned at a time, and bytes of them that are read at once."""
TEXT = 60
"""Characters of a text that are shown."""
SHOWN = 4
"""Values of a vector that are shown."""
PLACES = ("row", "index", "trajectory_index", "step")
"""Columns that say where a step is."""


def _rows(context: click.Context, option: click.Parameter, given: str | None) -> slice | None:
    """A:B, A:, :B or A, as of a Python list."""
    if given is None:
        return None
    try:
        bounds = [int(bound) if bound.strip() else None for bound in given.split(":")]
    except ValueError:
        bounds = []
    if not 1 <= len(bounds) <= 2 or (len(bounds) == 1 and bounds[0] is None):
        raise click.BadParameter(
            f"{given!r} is not A:B, A: or :B (rows A to B - 1; negative ones count from the end) or a row",
            context,
            option,
        )
    if len(bounds) == 1:
        return slice(bounds[0], None if bounds[0] == -1 else (bounds[0] or 0) + 1)
    return slice(*bounds)


@click.command(short_help="Print steps or trajectories.")
@click.argument("location", type=click.Path())
@click.option(
    "--rows",
    callback=_rows,
    metavar="A:B",
    help=(
        "Steps A to B - 1, of the trajectory or table if one is asked for.  [default: the first "
        f"{DEFAULT_ROWS}; of those {MOST_ROWS}]"
    ),
)
@click.option(
    "--trajectory",
    type=int,
    metavar="I",
    help=("The steps of one trajectory, by its index in the table, and what is known of it."),
)
@click.option("--trajectories", is_flag=True, help="The table of trajectories instead of steps.")
@click.option(
    "--fields",
    multiple=True,
    metavar="A,B",
    help=("Only these fields, or what is below them.  [default: all]"),
)
@click.option("--where", metavar="EXPR", help="Choose among the trajectories for which this is true.")
@commit_option
@json_option
def show(
    location: str,
    rows: slice | None,
    trajectory: int | None,
    trajectories: bool,
    fields: Sequence[str],
    where: str | None,
    commit: int | str | None,
    json_: bool,
) -> None:
    """Print steps of LOCATION. With --where, only trajectories for which EXPR is true are looked at, for
    --rows and --trajectory too.

    \b
    Examples:
      replaystore show runs/ant.zarr --rows 1000:1010 --fields action,reward
      replaystore show runs/ant.zarr --trajectory 0
      replaystore show runs/ant.zarr --trajectory 0 --rows -20:
      replaystore show runs/ant.zarr --trajectories --where 'return > 100 and length >= 50'
    """
    from replaystore.buffers.create_open import open as open_buffer
    from replaystore.converting.excerpt import chosen

    if trajectory is not None and trajectories:
        raise click.UsageError("choose one of --trajectory and --trajectories")
    with open_buffer(location, commit=commit) as buffer:
        table_ = buffer.trajectories if where is None else chosen(buffer, where, None)
        wanted = split_names(fields)
        names = list((buffer.schema if wanted is None else buffer.schema.select(wanted)).fields)
        if trajectories:
            _show_table(table_, rows, json_)
        elif trajectory is not None:
            _show_trajectory(buffer, _position(table_, trajectory, where), rows, names, json_)
        else:
            _show_rows(buffer, None if where is None else table_, rows, names, json_)


def _position(chosen: Trajectories, number_: int, where: str | None) -> int:
    """The position of a trajectory in the full table."""
    if not -len(chosen) <= number_ < len(chosen):
        which = "" if where is None else f" for which {where} is true"
        raise NotFoundError(f"there is no trajectory {number_}: there are {len(chosen)} trajectories{which}")
    return int(chosen.index[number_])


def _selected(total: int, rows: slice | None, unasked: int | None, what: str) -> slice:
    """The rows that are printed. NotFoundError: --rows selects none of them."""
    if rows is None:
        return slice(unasked)
    if not len(range(total)[rows]):
        said = ":".join(
            "" if bound is None else str(bound)
            for bound in (rows.start, rows.stop, rows.step)[: 2 + (rows.step is not None)]
        )
        raise NotFoundError(f"--rows {said} selects nothing: there are {count(total)} {what}")
    return rows


def _print_count(shown: int, total: int, what: str) -> None:
    more = "" if shown == total else "; --rows A:B shows others, --rows : all"
    click.echo(f"\n{count(shown)} of {count(total)} {what}{more}")


# --- the table of trajectories


def _show_table(chosen: Trajectories, rows_: slice | None, json_: bool) -> None:
    total = len(chosen)
    chosen = chosen[_selected(total, rows_, None if json_ else MOST_ROWS, "trajectories")]
    columns = {"index": chosen.index, **chosen.columns}
    if json_:
        _print_objects(
            {}, "trajectories", ({"index": int(chosen.index[at]), **chosen[at]} for at in range(len(chosen)))
        )
        return
    rows = [[_cell(values[at]) for values in columns.values()] for at in range(len(chosen))]
    click.echo(table(list(columns), rows, left=()))
    if len(chosen) < total:
        _print_count(len(chosen), total, "trajectories")


# --- steps


def _show_trajectory(
    buffer: Buffer, position: int, chosen: slice | None, names: list[str], json_: bool
) -> None:
    found = buffer.trajectories[position]
    final = buffer.final_observation(found["trajectory"])
    final = {name: value for name, value in (final or {}).items() if name in names} or None
    rows = buffer.parts.rows([found["trajectory"]]) - buffer.first_row
    total = len(rows)
    rows = rows[_selected(total, chosen, None if json_ else MOST_ROWS, "steps in this trajectory")]
    if json_:
        _print_objects(
            {"trajectory": {"index": position, **found}, "final_observation": final},
            "steps",
            _objects(buffer, rows, names),
        )
        return
    click.echo(
        pairs({"index": count(position), **{name: _cell(value) for name, value in found.items()}}) + "\n"
    )
    _print_steps(buffer, rows, names)
    if len(rows) < total:
        _print_count(len(rows), total, "steps")
    if final:
        click.echo(
            "\n"
            + pairs(
                {
                    f"final {name}": _told(value, ragged=buffer.schema.fields[name].ragged)
                    for name, value in final.items()
                }
            )
        )


def _show_rows(
    buffer: Buffer, chosen: Trajectories | None, rows: slice | None, names: list[str], json_: bool
) -> None:
    import numpy as np

    everything = (
        np.arange(len(buffer))
        if chosen is None
        else buffer.parts.rows(chosen["trajectory"]) - buffer.first_row
    )
    wanted = everything[_selected(len(everything), rows, DEFAULT_ROWS, "steps")]
    if json_:
        _print_objects({"rows": len(everything)}, "steps", _objects(buffer, wanted, names))
        return
    _print_steps(buffer, wanted, names)
    _print_count(len(wanted), len(everything), "steps")


def _blocks(buffer: Buffer, rows: NDArray[Any], names: list[str]) -> Iterator[dict[str, NDArray[Any]]]:
    """Columns of at most BLOCK_ROWS rows, of bounded bytes: the row, its number for ever as in
    `batch["index"]`, the index of its trajectory in the table (-1: none), its place there, and the fields."""
    import numpy as np

    from replaystore.views.blocks import chosen_of_bytes

    parts, ids = buffer.parts, buffer.trajectories["trajectory"]
    order = np.argsort(ids)
    for block in chosen_of_bytes(buffer, names, BLOCK_BYTES, rows, BLOCK_ROWS):
        part = parts.part_of(block + buffer.first_row)
        inside = part >= 0
        index, step = np.full(len(block), -1), np.full(len(block), -1)
        index[inside] = order[np.searchsorted(ids, parts.trajectory[part[inside]], sorter=order)]
        at, part = (block + buffer.first_row)[inside], part[inside]
        step[inside] = parts.offset[part] + (at - parts.start[part]) // parts.stride[part]
        numbers = block + buffer.first_row
        columns = dict(zip(PLACES, (block, numbers, index, step), strict=True))
        yield {**columns, **buffer.read(block, names)}


def _objects(buffer: Buffer, rows: NDArray[Any], names: list[str]) -> Iterator[dict[str, Any]]:
    for block in _blocks(buffer, rows, names):
        for at in range(len(block["row"])):
            yield _step(buffer, block, at)


def _step(buffer: Buffer, block: Mapping[str, Any], at: int) -> dict[str, Any]:
    """One row of a block. CorruptError: a text is none."""
    from replaystore.columns.values import value_at

    row = block["row"][at]
    return {
        name: value_at(values, at, f"{buffer.where}: {name} of step {row}") for name, values in block.items()
    }


def _print_steps(buffer: Buffer, rows: NDArray[Any], names: list[str]) -> None:
    fields = buffer.schema.fields
    headers = [printable(name) for name in (*PLACES, *names)]
    left = [at for at, name in enumerate(names, len(PLACES)) if fields[name].shape]
    cells = list[list[str]]()
    for block in _blocks(buffer, rows, names):
        ragged = [name in fields and fields[name].ragged for name in block]
        for at in range(len(block["row"])):
            values = _step(buffer, block, at).values()
            cells.append([_told(value, ragged=any_) for value, any_ in zip(values, ragged, strict=True)])
        if len(cells) >= BLOCK_ROWS:
            click.echo(table(headers, cells, left=left))
            cells = []
    if cells or not len(rows):
        click.echo(table(headers, cells, left=left))


def _told(value: Any, *, ragged: bool) -> str:
    """The value of a field. Of texts, in quotes, every character is printed as such, and no more than fit;
    of these and of other values of any length that are cut, how long they are."""
    if isinstance(value, str):
        cut = len(value) > TEXT
        text = printable(repr(value[: TEXT - 1] + "…" if cut else value))
    else:
        cut = ragged and value.ndim == 1 and len(value) > SHOWN
        text = _cell(value)
    return f"{text} of {count(len(value))}" if cut else text


def _cell(value: Any) -> str:
    """A number; the first and last ones of a vector; shape and range of anything larger."""
    import numpy as np

    array = np.asarray(value)
    if array.ndim == 0:
        return number(array.item()) if array.dtype.kind == "f" else _item(array.item())
    if array.ndim == 1:
        texts = [_item(item) for item in array[: SHOWN + 1].tolist()]
        if len(array) > SHOWN:
            texts = [*texts[: SHOWN - 1], "…", _item(array[-1].item())]
        return "[" + " ".join(texts) + "]"
    if array.size <= SHOWN:
        return "[" + " ".join(map(_cell, array)) + "]"
    shape = "x".join(map(str, array.shape))
    return shape if array.dtype.kind == "c" else f"{shape} {_cell(array.min())}…{_cell(array.max())}"


def _item(value: Any) -> str:
    """A number among others, or a text of the table of trajectories."""
    return f"{value:.4g}" if isinstance(value, float | complex) else str(value)


# --- JSON


def _print_objects(head: Mapping[str, Any], name: str, objects: Iterator[Mapping[str, Any]]) -> None:
    """One JSON object with a long list at its end, printed as it comes."""
    begin = json.dumps(as_json(head), indent=2, allow_nan=False).removesuffix("}").rstrip()
    click.echo(begin + ("," if head else "") + f'\n  "{name}": [', nl=False)
    for at, item in enumerate(objects):
        click.echo(("," if at else "") + "\n    " + json.dumps(as_json(item), allow_nan=False), nl=False)
    click.echo("\n  ]\n}")
