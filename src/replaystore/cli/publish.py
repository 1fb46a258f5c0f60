"""`replaystore publish`: let other software that opens the files itself see all steps."""

from __future__ import annotations

import click

from replaystore.cli.output import count, json_option, print_json, printable

__all__ = ["publish"]


@click.command(short_help="Let other software see all steps.")
@click.argument("location", type=click.Path())
@json_option
def publish(location: str, json_: bool) -> None:
    """Let other software that opens the files of LOCATION itself (h5py, zarr-python) see all committed steps.

    Closing a buffer does this too; it is needed after a writer was killed. What the writer left behind is put
    in order. In Python, `buffer.zarr_store()` shows them to whatever reads Zarr, without this.

    \b
    Example:
      replaystore publish runs/ant.zarr
    """
    from replaystore.buffers.create_open import open as open_buffer

    with open_buffer(location, "r+") as buffer:
        buffer.publish()
        commit, steps = buffer.commit_id, len(buffer)
    if json_:
        print_json({"location": location, "commit": commit, "steps": steps})
    else:
        click.echo(
            f"{printable(location)}: {count(steps)} steps can be seen by other software (commit {commit})"
        )
