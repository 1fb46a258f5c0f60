"""`replaystore serve`: stores below a folder, for actors, learners and tools on other machines."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from replaystore.cli.output import pairs

if TYPE_CHECKING:
    from replaystore.service.serving import Running

__all__ = ["serve"]


@click.command(short_help="Serve the stores below a folder.")
@click.argument("root", type=click.Path(file_okay=False))
@click.option("--port", type=click.IntRange(0, 65535), default=8742, help="0 takes one that is free.")
@click.option(
    "--host",
    default="127.0.0.1",
    help="The address to listen at; another one than this machine's own needs TLS or --behind-proxy.",
)
@click.option(
    "--tokens",
    type=click.Path(dir_okay=False),
    help="Whose requests are answered: the file of `replaystore token`.  [default: this user's alone]",
)
@click.option("--read-only", is_flag=True, help="Refuse what would change a store.")
@click.option("--tls-cert", type=click.Path(dir_okay=False), help="A certificate, with its chain, in PEM.")
@click.option("--tls-key", type=click.Path(dir_okay=False), help="Its key, in PEM.")
@click.option("--behind-proxy", is_flag=True, help="A proxy with TLS is all that reaches the address.")
@click.option(
    "--access-log",
    type=click.Path(dir_okay=False, allow_dash=True),
    help="Add a line for each request to this file, or - for stderr.",
)
def serve(
    root: str,
    port: int,
    host: str,
    tokens: str | None,
    read_only: bool,
    tls_cert: str | None,
    tls_key: str | None,
    behind_proxy: bool,
    access_log: str | None,
) -> None:
    """Serve the stores below the folder ROOT: they are opened as replay://HOST:PORT/path/below/root.zarr.

    Ctrl-C, or SIGTERM, ends it; what was acknowledged is durable.

    \b
    Examples:
      replaystore serve runs
      replaystore serve runs --tokens tokens.json --host 0.0.0.0 --tls-cert cert.pem --tls-key key.pem
    """
    if (tls_cert is None) != (tls_key is None):
        raise click.UsageError("--tls-cert and --tls-key belong together: give both")
    from replaystore.service.serving import Settings
    from replaystore.service.serving import serve as serve_

    tls = None if tls_cert is None or tls_key is None else (tls_cert, tls_key)
    serve_(
        Settings(root, host, port, tokens, read_only, tls, behind_proxy, access_log),
        started=lambda running: click.echo(_started(running)),
    )


def _started(running: Running) -> str:
    """What is served, where, and to whom. The token is shown on a terminal alone: what is not one is kept."""
    facts = {"serving": running.root, "address": running.address}
    if running.token is None:
        facts["tokens"] = running.token_file
    else:
        facts["token"] = running.token if sys.stdout.isatty() else f"in {running.token_file}"
        if sys.stdout.isatty():
            facts[""] = f"(in {running.token_file}, where clients of this user on this machine find it)"
    return pairs(facts)
