"""What the scripts in this folder share: arguments out of a dataclass, errors in one line, signals that save
what there is, logs.

Arguments are spelled as tyro spells them: `--env_id` or `--env-id`, a value after every name, booleans as
`True` or `False`.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import re
import signal
import sys
import tempfile
import threading
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, NoReturn, Self, TypeVar

import gymnasium

from replaystore.errors import (
    AlreadyExistsError,
    ReplayStoreError,
    SchemaError,
    StorageError,
)
from replaystore.extras import require

Arguments = TypeVar("Arguments")
NUMBERS = tuple[int, ...]
"""The type of an argument that takes several numbers, as 128 64 32 or as '[128,64,32]'."""


MAX_SEED = 2**32 - 1
"""What NumPy takes at most."""
TERMINATED = 128 + signal.SIGTERM
OTHER_NAMES = {"capacity": "replay_buffer_capacity"}
"""Of arguments that the library calls otherwise."""

_options: set[str] = set()
"""The arguments of the script that runs."""


# --- arguments


@dataclasses.dataclass(frozen=True)
class Bounds:
    """Of a number; what is None does not bound it."""

    least: float | None = None
    above: float | None = None
    most: float | None = None
    below: float | None = None

    def __str__(self) -> str:
        named = {
            "at least": self.least,
            "more than": self.above,
            "at most": self.most,
            "less than": self.below,
        }
        return " and ".join(f"{what} {bound:g}" for what, bound in named.items() if bound is not None)

    def hold(self, value: float) -> bool:
        """Whether a number lies within; NaN never does."""
        low = (self.least is None or value >= self.least) and (self.above is None or value > self.above)
        return (
            low and (self.most is None or value <= self.most) and (self.below is None or value < self.below)
        )


def argument(
    default: Any = dataclasses.MISSING,
    text: str = "",
    *,
    choices: Sequence[str] | None = None,
    **bounds: float,
) -> Any:
    """A field of a dataclass of arguments; without a default it must be given. `bounds` are those of
    `Bounds`."""
    metadata = {"help": text, "choices": choices, "bounds": Bounds(**bounds) if bounds else None}
    return dataclasses.field(default=default, metadata=metadata)


class ArgumentsError(SchemaError):
    """Arguments that cannot be, or ask for what is not done here: what is said of each of them."""

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = problems
        super().__init__("; ".join(problems))


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} (--help lists the arguments)\n")


def parse(
    kind: type[Arguments],
    argv: Sequence[str] | None,
    description: str,
    unused: Mapping[str, Sequence[str]] | None = None,
) -> Arguments:
    """The arguments of a command line. What is wrong with them is said on stderr, in one line, and the exit
    code is 2.

    `unused`: names of arguments that command lines of other programs have, by the reason why they change
    nothing here, which is said."""
    parser = _Parser(description=description, allow_abbrev=False)
    hints = typing.get_type_hints(kind)
    for field in dataclasses.fields(typing.cast("Any", kind)):
        _add(parser, field, hints[field.name])
    for reason, names in (unused or {}).items():
        for name in names:
            parser.add_argument(
                f"--{name}",
                nargs="*",
                metavar="ANY",
                default=argparse.SUPPRESS,
                help=f"changes nothing: {reason}",
            )
    _options.clear()
    _options.update(hints)
    words = [_with_underscores(word) for word in (sys.argv[1:] if argv is None else argv)]
    values = vars(parser.parse_args(words))
    for reason, names in (unused or {}).items():
        given = [f"--{name}" for name in names if values.pop(name, None) is not None]
        if given:
            print(f"{', '.join(given)}: changes nothing: {reason}")
    for name, hint in hints.items():
        if hint == NUMBERS and isinstance(values[name], list):
            try:
                values[name] = tuple(
                    int(number) for number in " ".join(values[name]).strip("[]").replace(",", " ").split()
                )
            except ValueError:
                parser.error(
                    f"argument --{name}: expected whole numbers, such as 128 64 32, not "
                    f"{' '.join(values[name])!r}"
                )
    if not 0 <= values.get("seed", 0) <= MAX_SEED:
        parser.error(f"argument --seed: expected a number from 0 to {MAX_SEED}, not {values['seed']}")
    return kind(**values)


def check(args: Any, more: Iterable[str] = ()) -> None:
    """ArgumentsError: all that is wrong with arguments: numbers out of their bounds, and `more`."""
    problems = []
    for field in dataclasses.fields(args):
        bounds, value = field.metadata.get("bounds"), getattr(args, field.name)
        numbers = value if isinstance(value, tuple) else [] if value is None else [value]
        if bounds is not None and not all(bounds.hold(number) for number in numbers):
            problems.append(
                f"--{field.name} must be {bounds}, not {' '.join(str(number) for number in numbers)}"
            )
    problems += more
    if problems:
        raise ArgumentsError(problems)


def _with_underscores(word: str) -> str:
    name, equals, value = word.partition("=")
    return name.replace("-", "_").replace("__", "--", 1) + equals + value if name.startswith("--") else word


def _add(parser: argparse.ArgumentParser, field: Any, hint: Any) -> None:
    text = field.metadata.get("help", "")
    options: dict[str, Any] = {"required": True}
    if field.default is not dataclasses.MISSING:
        options = {"default": field.default}
    if "default" in options:
        text += f" (default: {options['default']})"
    kinds = [one for one in typing.get_args(hint) if one is not type(None)]
    kind = kinds[0] if kinds else hint
    if hint == NUMBERS:
        options |= {"nargs": "+", "metavar": "N"}
    elif kind is bool:
        options |= {"type": _boolean, "metavar": "{True,False}"}
    else:
        options |= {"type": _or_none(kind) if kinds else kind, "metavar": kind.__name__.upper()}
    if field.metadata.get("choices"):
        options |= {"choices": field.metadata["choices"], "metavar": None}
    parser.add_argument(f"--{field.name}", help=text.strip().replace("%", "%%"), **options)


def _boolean(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"expected True or False, not {text!r}")
    return text.lower() == "true"


def _or_none(kind: Callable[[str], Any]) -> Callable[[str], Any]:
    def value(text: str) -> Any:
        return None if text == "None" else kind(text)

    value.__name__ = getattr(kind, "__name__", "value")
    return value


# --- how a script ends


class Terminated(KeyboardInterrupt):
    """The system ends the script: SIGTERM, as batch systems send it before they kill, or SIGHUP, when a
    terminal is closed."""


def run(main: Callable[[], int]) -> None:
    """Run a script and exit: 0 if all is well, 1 after an error, which is told in one line, 130 after Ctrl-C,
    143 after SIGTERM."""
    try:
        with _terminations():
            code = main()
    except Terminated:
        code = TERMINATED
    except KeyboardInterrupt:
        code = 130
    except (ReplayStoreError, OSError, gymnasium.error.Error) as error:
        print(f"{Path(sys.argv[0]).name}: {said(error)}", file=sys.stderr)
        code = 1
    raise SystemExit(code)


@contextlib.contextmanager
def _terminations() -> Iterator[None]:
    """Let signals that would end the process at once raise `Terminated`, so that what there is gets saved."""

    def terminate(number: int, _: FrameType | None) -> None:
        # What is saved from now on is not to be cut short by a second one.
        signal.signal(number, signal.SIG_IGN)
        print("asked to end by the system: saving what there is", file=sys.stderr, flush=True)
        raise Terminated

    def hang_up(number: int, _: FrameType | None) -> None:
        signal.signal(number, signal.SIG_IGN)
        signal.raise_signal(signal.SIGTERM)  # which waits for the end of an operation of a store

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handlers = {signal.SIGTERM: terminate, signal.SIGHUP: hang_up}
    before = {number: signal.getsignal(number) for number in handlers}
    for number, handler in handlers.items():
        if before[number] == signal.SIG_DFL:  # nohup has SIGHUP ignored
            signal.signal(number, handler)
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)


def said(error: BaseException) -> str:
    """What an error says, in one line; of several arguments, a line for each."""
    if isinstance(error, ArgumentsError) and len(error.problems) > 1:
        return "\n  ".join([f"{len(error.problems)} arguments cannot be as they are:", *error.problems])
    if isinstance(error, OSError) and not isinstance(error, ReplayStoreError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}: choose another place"
    return re.sub(r"\b([a-z_]+)=(?:'([^']*)'|(\w+))", _as_option, " ".join(str(error).split()))


def _as_option(found: re.Match[str]) -> str:
    """What the library says of its own arguments, as they are spelled on the command line."""
    name = OTHER_NAMES.get(found[1], found[1])
    return f"--{name} {found[2] or found[3]}" if name in _options else found[0]


# --- files that are written


def check_target(path: Path) -> None:
    """StorageError or AlreadyExistsError: a file cannot be written there, which is better known before hours
    of work."""
    if path.is_dir():
        raise AlreadyExistsError(f"{path} is a folder: name a file in it")
    check_folder(path)


def check_folder(path: Path) -> None:
    """StorageError: nothing can be written beside a path, whose folder is made if that is possible."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=path.parent).close()
    except OSError as error:
        raise StorageError(
            f"{path} cannot be written: {error.strerror}; choose another place", error.errno
        ) from None


def check_tensorboard() -> None:
    """MissingDependencyError: it is not installed."""
    require("tensorboard", "what is logged", "training")


class Logs:
    """A SummaryWriter of TensorBoard, whose methods this has; closed at the end of `with`, whatever happens.

    What its thread cannot write, the methods raise, as StorageError; so the thread itself says nothing."""

    def __init__(self, folder: Path) -> None:
        check_tensorboard()
        from torch.utils.tensorboard import SummaryWriter

        self._folder = folder
        with self._told():
            self._writer = SummaryWriter(str(folder))

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._writer, name)

        def call(*args: Any, **options: Any) -> Any:
            with self._told():
                return method(*args, **options)

        return call

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            reason = error.strerror or error
            message = (
                f"{self._folder}: the logs cannot be written: {reason}; make room, or start where "
                "they can be written"
            )
            raise StorageError(message, error.errno) from error

    def __enter__(self) -> Self:
        self._hook = threading.excepthook
        threading.excepthook = self._quiet
        return self

    def _quiet(self, args: Any) -> None:
        if not type(args.thread).__module__.startswith("tensorboard."):
            self._hook(args)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        try:
            with self._told():
                self._writer.close()
        except StorageError:
            if error is None:
                raise
        finally:
            threading.excepthook = self._hook
