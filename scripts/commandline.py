"""What the scripts in this folder share: arguments out of a dataclass, errors in one line, replay buffers of every kind of file.

Arguments are spelled as tyro spells them: `--env_id` or `--env-id`, a value after every name, booleans as `True` or `False`.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import tempfile
import typing
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import gymnasium

import replaystore as rs
from replaystore.compat.active_rlhf import ReplayBuffer
from replaystore.errors import (
    AlreadyExistsError,
    MissingDependencyError,
    NotFoundError,
    ReplayStoreError,
    SchemaError,
    StorageError,
)

Arguments = TypeVar("Arguments")
NUMBERS = tuple[int, ...]
"""The type of an argument that takes several numbers, as 128 64 32 or as '[128,64,32]'."""


MAX_SEED = 2**32 - 1
"""What NumPy takes at most."""


def argument(default: Any = dataclasses.MISSING, text: str = "", *, choices: Sequence[str] | None = None) -> Any:
    """A field of a dataclass of arguments; without a default it must be given."""
    metadata = {"help": text, "choices": choices}
    return dataclasses.field(default=default, metadata=metadata)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} (--help lists the arguments)\n")


def parse(kind: type[Arguments], argv: Sequence[str] | None, description: str) -> Arguments:
    """The arguments of a command line. What is wrong with them is said on stderr, in one line, and the exit code is 2."""
    parser = _Parser(description=description, allow_abbrev=False)
    hints = typing.get_type_hints(kind)
    for field in dataclasses.fields(typing.cast("Any", kind)):
        _add(parser, field, hints[field.name])
    words = [_with_underscores(word) for word in (sys.argv[1:] if argv is None else argv)]
    values = vars(parser.parse_args(words))
    for name, hint in hints.items():
        if hint == NUMBERS and isinstance(values[name], list):
            try:
                values[name] = tuple(int(number) for number in " ".join(values[name]).strip("[]").replace(",", " ").split())
            except ValueError:
                parser.error(f"argument --{name}: expected whole numbers, such as 128 64 32, not {' '.join(values[name])!r}")
    if not 0 <= values.get("seed", 0) <= MAX_SEED:
        parser.error(f"argument --seed: expected a number from 0 to {MAX_SEED}, not {values['seed']}")
    return kind(**values)


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
        options |= {"type": kind, "metavar": kind.__name__.upper()}
    if field.metadata.get("choices"):
        options |= {"choices": field.metadata["choices"], "metavar": None}
    parser.add_argument(f"--{field.name}", help=text.strip().replace("%", "%%"), **options)


def _boolean(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"expected True or False, not {text!r}")
    return text.lower() == "true"


def run(main: Callable[[], int]) -> None:
    """Run a script and exit: 0 if all is well, 1 after an error, which is told in one line, 130 after Ctrl-C."""
    try:
        code = main()
    except KeyboardInterrupt:
        code = 130
    except (ReplayStoreError, OSError, gymnasium.error.Error) as error:
        print(f"{Path(sys.argv[0]).name}: {_said(error)}", file=sys.stderr)
        code = 1
    raise SystemExit(code)


def _said(error: Exception) -> str:
    """What an error says, in one line."""
    if isinstance(error, OSError) and not isinstance(error, ReplayStoreError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}: choose another place"
    return " ".join(str(error).split())


def check_target(path: Path) -> None:
    """StorageError or AlreadyExistsError: a file cannot be written there, which is better known before hours of work."""
    if path.is_dir():
        raise AlreadyExistsError(f"{path} is a folder: name a file in it")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        tempfile.TemporaryFile(dir=path.parent).close()
    except OSError as error:
        raise StorageError(f"{path} cannot be written: {error.strerror}; choose another place") from None


def summary_writer(folder: Path) -> Any:
    """A SummaryWriter of TensorBoard. MissingDependencyError: it is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise MissingDependencyError("tensorboard is not installed: pip install 'replaystore[training]'") from None
    return SummaryWriter(str(folder))


# --- replay buffers


@dataclasses.dataclass(frozen=True)
class Loaded:
    """A replay buffer, and where it came from."""

    buffer: ReplayBuffer
    folder: Path
    """Where what is made of it goes."""
    environment: str
    """The id of its environment, or "unknown environment"."""


@contextmanager
def loaded(path: str, env_id: str | None, fragment_length: int | None = None, device: str = "cpu") -> Iterator[Loaded]:
    """Open a replay buffer: a store (.zarr, .h5), which is read as it is needed, a pickle, or a safetensors file or the folder with it.

    Its environment is `env_id`, whose spaces must be those of the file, or what the store says, or what the name of its folder says
    (`<env_id>__...`). NotFoundError, FormatError, SchemaError: no such file, or not such a file, or one of another environment."""
    place = Path(path)
    if not place.exists():
        raise NotFoundError(f"{path}: there is no such file or folder: check --replay_buffer_path")
    holds_files = place.is_dir() and place.suffix != ".zarr"
    folder = place.absolute() if holds_files else place.absolute().parent
    with tempfile.TemporaryDirectory(prefix="replay-buffer-") as between:
        store = place
        if holds_files or place.suffix == ".safetensors":
            rs.convert(place, store := Path(between) / "replay_buffer.zarr")
        buffer = ReplayBuffer.load(store, None, fragment_length, device)
        try:
            if env_id is not None:
                _check_environment(buffer, env_id, path)
            yield Loaded(buffer, folder, env_id or _environment(store, folder) or "unknown environment")
        finally:
            buffer.close()


def _environment(store: Path, folder: Path) -> str | None:
    """What a store says, or the name of a folder."""
    if store.suffix != ".pkl":
        with rs.open(store) as opened:
            known = (opened.environment or {}).get("id")
        if known:
            return str(known)
    name, separator, _ = folder.name.partition("__")
    return name if separator and name in gymnasium.registry else None


def _check_environment(buffer: ReplayBuffer, env_id: str, path: str) -> None:
    env = gymnasium.make(env_id)
    spaces = (env.observation_space, env.action_space)
    env.close()
    widths = [1 if isinstance(space, gymnasium.spaces.Discrete) else gymnasium.spaces.flatdim(space) for space in spaces]
    held = [int(buffer.obs.shape[1]), int(buffer.acts.shape[1])]
    if widths != held:
        needed = f"{env_id} has {widths[0]} observations and {widths[1]} actions"
        raise SchemaError(f"{path} has {held[0]} observations and {held[1]} actions, but {needed}: pass the --env_id that it was made with")
