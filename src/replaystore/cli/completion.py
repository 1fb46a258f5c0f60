"""`replaystore completion`: what makes a shell complete commands, options and paths."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from replaystore.cli.output import PROGRAM

__all__ = ["completion"]


@click.command(short_help="Print a shell's completion script.")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the script that makes SHELL complete replaystore's commands.

    \b
    Examples:
      replaystore completion bash >> ~/.bashrc
      replaystore completion zsh >> ~/.zshrc
      replaystore completion fish > ~/.config/fish/completions/replaystore.fish
    """
    from replaystore.cli import cli

    maker = get_completion_class(shell)
    assert maker is not None
    click.echo(maker(cli, {}, PROGRAM, f"_{PROGRAM.upper()}_COMPLETE").source())
