"""The command line: `replaystore COMMAND`.

A command is a thin layer over one function of the library: it parses, calls and prints. Each has a file of
its own, which is imported when the command is named, and which imports at its top nothing that takes long.

What scripts can rely on:
1. Facts go to stdout; progress, warnings and errors to stderr, progress only if that is a terminal.
2. An error of ours is one line, `replaystore: error: …`. A traceback is a bug.
3. Exit codes: 0 done; 1 an error, or `verify` found problems, or `diff` differences; 2 wrong usage; 130
   interrupted by Ctrl-C.
4. A message names what was typed: of "overwrite=True (--overwrite)" the option alone.
5. Whoever reads stdout may stop (`| head`): that is no error.
"""

from __future__ import annotations

import difflib
import io
import os
import re
import sys
import traceback
import warnings
from collections.abc import Sequence
from importlib import import_module
from typing import Any

import click

from replaystore.cli.output import PROGRAM, one_line
from replaystore.errors import ReplayStoreError, ReplayStoreWarning

__all__ = ["COMMANDS", "cli", "main"]

COMMANDS = {
    "record": "replaystore.cli.record:record",
    "info": "replaystore.cli.info:info",
    "show": "replaystore.cli.show:show",
    "convert": "replaystore.cli.convert:convert",
    "merge": "replaystore.cli.merge:merge",
    "split": "replaystore.cli.split:split",
    "formats": "replaystore.cli.formats:formats",
    "digest": "replaystore.cli.digest:digest",
    "diff": "replaystore.cli.diff:diff",
    "verify": "replaystore.cli.verify:verify",
    "repair": "replaystore.cli.repair:repair",
    "publish": "replaystore.cli.publish:publish",
    "forget": "replaystore.cli.forget:forget",
    "serve": "replaystore.cli.serve:serve",
    "token": "replaystore.cli.token:token",
    "completion": "replaystore.cli.completion:completion",
}
"""Name → "module:function", in the order of the help."""


_MEANT = {
    "info": ("list", "ls", "stat", "status", "describe", "inspect"),
    "show": ("print", "cat", "head", "tail", "view", "read", "dump"),
    "convert": ("export", "import", "copy", "cp", "pack", "select"),
    "merge": ("join", "combine", "concat", "concatenate", "union"),
    "split": ("partition", "divide", "holdout"),
    "verify": ("check", "validate", "test", "fsck"),
    "diff": ("compare", "cmp", "equal"),
    "digest": ("hash", "checksum", "sha256", "fingerprint"),
    "repair": ("fix", "recover", "rollback"),
    "record": ("run", "collect", "create", "new"),
    "forget": ("delete", "remove", "rm", "prune", "untag"),
}
"""Command → what it is called elsewhere."""


_ARGUMENT = re.compile(r"\b\w+=(?:\w+|'\w+')? \((--[a-z][^()]*)\)")
"""An argument as messages name it, for whoever calls the library and for whoever types a command: what was
typed is shown."""


class _ReaderGoneError(Exception):
    """Nobody reads stdout any more."""


class _LazyGroup(click.Group):
    """Imports a command when it is asked for."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in COMMANDS and not args[0].startswith("-") and not ctx.resilient_parsing:
            raise click.UsageError(f"No such command {args[0]!r}.{_command_meant(args[0])}", ctx)
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError as error:  # click would take it for a failure
            raise _ReaderGoneError from error

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, _, function = COMMANDS[cmd_name].partition(":")
        command = getattr(import_module(module), function)
        assert isinstance(command, click.Command)
        return command


@click.group(
    cls=_LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "show_default": True, "max_content_width": 100},
    epilog=(
        "A LOCATION is a folder NAME.zarr, a file NAME.h5, or (to read) NAME.zarr.zip or the address of "
        "one of these on a server, https://…. `replaystore COMMAND --help` has examples."
    ),
)
@click.version_option(
    import_module("replaystore").__version__, prog_name=PROGRAM, message="%(prog)s %(version)s"
)
def cli() -> None:
    """Record, look at, convert, check and repair reinforcement-learning buffers."""


def main(args: Sequence[str] | None = None) -> None:
    """The program: run a command of the arguments (by default those of the process), and exit."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        # a terminal that lacks a character of a name is no reason to stop.
        sys.stdout.reconfigure(errors="backslashreplace")
    with warnings.catch_warnings():
        _show_warnings_in_one_line()
        if sys.stdout is None:  # it was closed by who called us
            sys.stdout = open(os.devnull, "w")  # noqa: SIM115  # until the process ends
        code = _run(args)
        try:
            sys.stdout.flush()
        except BrokenPipeError:
            _close_stdout()
        except OSError as error:
            code = _not_printed(error)
        sys.exit(code)


def _run(args: Sequence[str] | None) -> int:
    """The exit code."""
    try:
        code = cli.main(args, prog_name=PROGRAM, standalone_mode=False)
    except _ReaderGoneError:
        _close_stdout()
        return 0
    except ReplayStoreError as error:
        _complain("error", error)
        return 1
    except click.UsageError as error:
        if isinstance(error, click.NoSuchOption):
            error = click.NoSuchOption(error.option_name, error.message, _options_meant(error), error.ctx)
        error.show()
        return error.exit_code
    except click.ClickException as error:
        _complain("error", error.format_message())
        return error.exit_code
    except OSError as error:
        if not _is_of_printing(error):
            raise
        return _not_printed(error)
    except click.Abort as abort:
        # Click takes it for the end of a prompt's input; we have no prompts.
        if isinstance(abort.__cause__, EOFError):
            raise abort.__cause__ from None
        _complain("error", "interrupted")
        return 130
    return code if isinstance(code, int) else 0


def _is_of_printing(error: OSError) -> bool:
    """Whether it came of what is printed; those of files are errors of ours already."""
    return traceback.extract_tb(error.__traceback__)[-1].name == click.echo.__name__


def _not_printed(error: OSError) -> int:
    _close_stdout()
    _complain("error", f"the output cannot be written: {error.strerror or error}")
    return 1


def _close_stdout() -> None:
    """Have what is still to be printed go nowhere, so that the interpreter does not complain when it ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _command_meant(given: str) -> str:
    near = difflib.get_close_matches(given, COMMANDS, n=1) or [
        name for name, others in _MEANT.items() if given.lower() in others
    ]
    if near:
        return f" Did you mean '{near[0]}'?"
    if os.path.exists(given):
        return f" To look at what is there: {PROGRAM} info {given}"
    return f" Commands are {', '.join(COMMANDS)}."


def _options_meant(error: click.NoSuchOption) -> list[str]:
    """Options that are nearly what was given, or share a word with it; click's own guess is often --help."""
    known = (
        [
            name
            for param in error.ctx.command.get_params(error.ctx)
            for name in param.opts
            if name.startswith("--")
        ]
        if error.ctx
        else []
    )
    near = difflib.get_close_matches(error.option_name, known, n=3, cutoff=0.75)
    words = set(error.option_name.strip("-").split("-"))
    return near or [name for name in known if words & set(name.strip("-").split("-"))]


def _complain(kind: str, message: object) -> None:
    said = _ARGUMENT.sub(r"\1", str(message))
    click.echo(f"{PROGRAM}: {kind}: {one_line(said)}", err=True)


def _show_warnings_in_one_line() -> None:
    shown = warnings.showwarning

    def show(message: Warning | str, category: type[Warning], *place: Any, **more: Any) -> None:
        if issubclass(category, ReplayStoreWarning):
            _complain("warning", message)
        else:
            shown(message, category, *place, **more)

    warnings.showwarning = show
