"""`replaystore token`: who may do what with the stores that `replaystore serve` serves."""

from __future__ import annotations

from typing import Any

import click

from replaystore.cli.output import json_option, print_json, split_names, table

__all__ = ["token"]

_file = click.option(
    "--tokens",
    "file",
    type=click.Path(dir_okay=False),
    required=True,
    help="The file that holds them, as hashes: what `replaystore serve --tokens FILE` reads.",
)


@click.group(short_help="Make, list and revoke tokens of a server.")
def token() -> None:
    """Make, list and revoke tokens of a server, which reads the file anew whenever it has changed.

    \b
    Examples:
      replaystore token add actor --scope read,append --path 'runs/*.zarr' --tokens tokens.json
      replaystore token list --tokens tokens.json
      replaystore token revoke actor --tokens tokens.json
    """


@token.command(short_help="Make a token, and print it once.")
@click.argument("name")
@click.option(
    "--scope",
    "scopes",
    multiple=True,
    required=True,
    metavar="SCOPE[,…]",
    help="What it gives: read, sample, append, admin; what writes needs read and append.",
)
@click.option("--path", default="**", help="The stores that it is for: * within a folder, ** across folders.")
@_file
@json_option
def add(name: str, scopes: tuple[str, ...], path: str, file: str, json_: bool) -> None:
    """Make a token called NAME, and print it: it is shown this once, and the file has its hash alone.

    \b
    Example:
      export REPLAYSTORE_TOKEN=$(replaystore token add actor --scope read,append --tokens tokens.json)
    """
    from replaystore.service.tokens import TokenFile

    made = TokenFile(file).add(name, split_names(scopes) or (), path)
    if json_:
        print_json({"name": name, "token": made})
    else:
        click.echo(made)


@token.command("list", short_help="List the tokens that there are.")
@_file
@json_option
def list_(file: str, json_: bool) -> None:
    """List the tokens that FILE has, by name; the tokens themselves are not known."""
    from replaystore.service.tokens import SCOPES, TokenFile

    grants: list[dict[str, Any]] = [
        {
            "name": grant.name,
            "scopes": [scope for scope in SCOPES if scope in grant.scopes],
            "path": grant.path,
            "created": grant.created,
        }
        for grant in TokenFile(file).grants().values()
    ]
    if json_:
        print_json({"tokens": grants})
        return
    rows = [(one["name"], ",".join(one["scopes"]), one["path"], one["created"]) for one in grants]
    click.echo(table(["name", "scopes", "path", "made"], rows, left=(0, 1, 2, 3)))


@token.command(short_help="Have a token give nothing any more.")
@click.argument("name")
@_file
def revoke(name: str, file: str) -> None:
    """Forget the token called NAME: from now on it gives nothing."""
    from replaystore.service.tokens import TokenFile

    TokenFile(file).revoke(name)
