"""`replaystore record`: run a policy in environments of Gymnasium and keep every step."""

from __future__ import annotations

import importlib
import json
import os
import secrets
import shutil
import signal
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Self

import click

from replaystore.cli.output import (
    PROGRAM,
    Progress,
    count,
    json_option,
    number,
    pairs,
    print_json,
    printable,
    progress_bar,
    size,
)
from replaystore.errors import AlreadyExistsError, MissingDependencyError, NotFoundError, SchemaError
from replaystore.extras import install

if TYPE_CHECKING:
    from replaystore.buffers.buffer import Buffer
    from replaystore.gymnasium.wrappers import RecordVector

__all__ = ["record"]

EXTRAS = {"mujoco": "mujoco", "ale": "atari", "atari": "atari"}
"""A word in what an environment says it misses → our extra that installs it."""
UPDATE_SECONDS = 0.1


def _json_arguments(context: click.Context, option: click.Parameter, given: Sequence[str]) -> dict[str, Any]:
    """{key: value} of a repeatable KEY=JSON option."""
    found = {}
    for text in given:
        key, equals, value = text.partition("=")
        if not (key and equals):
            raise click.BadParameter(f"{text!r} is not KEY=JSON", context, option)
        try:
            found[key] = json.loads(value)
        except ValueError:
            raise click.BadParameter(
                f"{value!r} is not JSON; text needs quotes: '{key}=\"{value}\"'", context, option
            ) from None
    return found


def _field_codecs(
    context: click.Context, option: click.Parameter, given: Sequence[str]
) -> dict[str, dict[str, str]]:
    """The storage settings of a repeatable FIELD=CODEC option."""
    pairs_ = [text.rpartition("=") for text in given]
    for text, (field, _, codec) in zip(given, pairs_, strict=True):
        if not (field and codec):
            raise click.BadParameter(
                f"{text!r} is not FIELD=CODEC, such as observation=zstd:3", context, option
            )
    return {field: {"codec": codec} for field, _, codec in pairs_}


@click.command(short_help="Record environments of Gymnasium.")
@click.argument("env_id")
@click.argument("target", type=click.Path())
@click.option(
    "--steps",
    type=click.IntRange(min=1),
    default=10_000,
    help=("How many steps to record, of all environments together."),
)
@click.option("--num-envs", type=click.IntRange(min=1), default=8, help="How many environments to step.")
@click.option("--policy", type=click.Choice(["random"]), default="random", help="How to act.")
@click.option(
    "--seed",
    type=click.IntRange(0, 2**31 - 1),
    help=("Seed of the policy and of the first environment.  [default: a new one]"),
)
@click.option(
    "--layout",
    type=click.Choice(["live", "archive"]),
    default="live",
    help=("To write to and sample from, or to keep."),
)
@click.option(
    "--capacity",
    type=click.IntRange(min=1),
    help=("Make a ring that keeps this many steps, the newest."),
)
@click.option(
    "--commit-every", type=click.IntRange(min=1), default=10_000, help=("Commit after about so many steps.")
)
@click.option(
    "--codec",
    "storage",
    multiple=True,
    callback=_field_codecs,
    metavar="FIELD=CODEC",
    help="raw, zstd:LEVEL or gzip:LEVEL.",
)
@click.option(
    "--durability",
    type=click.Choice(["commit", "none"]),
    default="commit",
    help=("Whether commits survive a power cut."),
)
@click.option("--info/--no-info", default=True, help="Record the numbers in the infos of steps.")
@click.option(
    "--env-arg",
    "env_args",
    multiple=True,
    callback=_json_arguments,
    metavar="KEY=JSON",
    help="Argument of the environment.",
)
@click.option("--overwrite", is_flag=True, help="Replace a store that is there.")
@json_option
@click.pass_context
def record(
    context: click.Context,
    /,
    env_id: str,
    target: str,
    layout: str,
    overwrite: bool,
    json_: bool,
    **options: Any,
) -> None:
    """Run environments of Gymnasium and record every step into TARGET.

    Exactly --steps steps are recorded. Ctrl-C stops early and keeps the steps recorded so far.

    \b
    Examples:
      replaystore record CartPole-v1 runs/cartpole.zarr --steps 50000 --num-envs 8 --seed 0
      replaystore record HalfCheetah-v5 runs/cheetah.h5 --env-arg forward_reward_weight=2.0
    """
    from replaystore.containers.located import exists
    from replaystore.location import parse

    place = parse(target)
    if exists(place) and not overwrite:
        raise AlreadyExistsError(f"{place} exists: choose another name, or pass --overwrite")
    if options["seed"] is None:
        options["seed"] = secrets.randbits(31)
    if layout == "archive":
        facts, interrupted = _record_archive(env_id, str(place), overwrite=overwrite, **options)
    else:
        facts, interrupted = _record(env_id, str(place), overwrite=overwrite, **options)
    facts = {
        "location": str(place),
        "environment": env_id,
        **facts,
        "seed": options["seed"],
        "interrupted": interrupted,
    }
    if json_:
        print_json(facts)
    else:
        click.echo(_text(facts))
    if interrupted:
        click.echo(f"interrupted: the {count(facts['steps'])} steps recorded so far are kept", err=True)
        context.exit(130)


def _record_archive(
    env_id: str, target: str, *, overwrite: bool, **options: Any
) -> tuple[dict[str, Any], bool]:
    """Record into a live store beside the target, and convert that."""
    from replaystore.converting.convert import convert

    temporary = f"{target}.recording.zarr"
    storage = options.pop("storage")
    codecs = {setting["codec"] for setting in storage.values()}
    if codecs:
        raise click.UsageError(
            "--codec is for --layout live; to choose the codec of an archive, record it live and use "
            "`replaystore convert`"
        )
    try:
        facts, interrupted = _record(env_id, temporary, overwrite=overwrite, storage={}, **options)
        with progress_bar("converting", unit=size) as progress:
            convert(temporary, target, layout="archive", overwrite=overwrite, progress=progress)
    except BaseException:
        if os.path.exists(temporary):
            click.echo(
                (f"{PROGRAM}: the steps that were committed are kept in {printable(temporary)}"), err=True
            )
        raise
    shutil.rmtree(temporary)
    return facts | {"disk_bytes": _bytes_on_disk(target)}, interrupted


def _record(env_id: str, target: str, **options: Any) -> tuple[dict[str, Any], bool]:
    """What was recorded, and whether it was interrupted."""
    from replaystore.buffers.create_open import create
    from replaystore.gymnasium.wrappers import RecordVector

    num_envs = options["num_envs"]
    made_from = {"command": "record", **{name: options[name] for name in ("policy", "seed", "env_args")}}
    settings = {name: options[name] for name in ("capacity", "storage", "durability", "overwrite")}
    with _Stop() as stop, ExitStack() as stack:
        env = _make(env_id, num_envs, options["env_args"])
        stack.callback(env.close)
        buffer = stack.enter_context(create(target, env, provenance=made_from, **settings))
        recorder = RecordVector(
            env, buffer, info=options["info"], commit_every=max(1, options["commit_every"] // num_envs)
        )
        begin = time.perf_counter()
        try:
            with progress_bar("recording") as progress:
                steps = _run(recorder, options["steps"], options["seed"], stop, progress)
            recorder.close()
        except KeyboardInterrupt:
            buffer.abandon()  # it may have come in the midst of a write; what was committed before is safe
            raise
        seconds = time.perf_counter() - begin
        trajectories = buffer.num_trajectories
        size = _bytes_recorded(buffer, steps)
    facts = {
        "steps": steps,
        "trajectories": trajectories,
        "bytes": size,
        "disk_bytes": _bytes_on_disk(target),
        "seconds": seconds,
    }
    return facts | {
        "bytes_per_second": size / seconds,
        "steps_per_second": steps / seconds,
    }, stop.requested


def _bytes_recorded(buffer: Buffer, steps: int) -> int:
    """What the steps take, and their values of any length."""
    size: int = steps * sum(declared.row_bytes for declared in buffer.schema.fields.values())
    for name in buffer.schema.ragged:
        column = buffer.values_of(name).column
        size += column.stop * column.row_bytes
    return size


def _run(env: RecordVector, steps: int, seed: int, stop: _Stop, progress: Progress) -> int:
    """Act at random until exactly so many steps are recorded, or it is to stop; how many were."""
    import numpy as np

    env.reset(seed=seed)
    env.action_space.seed(seed)
    recorded, shown = 0, 0.0
    ended = np.zeros(env.num_envs, np.bool_)
    while recorded < steps and not stop.requested:
        # Where an episode has ended, the next call of step resets, which is no step.
        rows = np.flatnonzero(~ended)
        surplus = rows[steps - recorded :]
        if len(surplus):
            env.skip(np.isin(np.arange(env.num_envs), surplus))
        _, _, terminated, truncated, _ = env.step(env.action_space.sample())
        recorded += len(rows) - len(surplus)
        ended = terminated | truncated
        if (now := time.perf_counter()) > shown + UPDATE_SECONDS:
            shown = now
            progress(recorded, steps)
    return recorded


class _Stop:
    """Ctrl-C asks to stop after the step at hand; a second one breaks off. Python's own way could stop in the
    midst of a write."""

    requested = False

    def __enter__(self) -> Self:
        self._before = signal.getsignal(signal.SIGINT)
        signal.signal(signal.SIGINT, self._request)
        return self

    def _request(self, *_: object) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True

    def __exit__(self, *_: object) -> None:
        signal.signal(signal.SIGINT, self._before)


# --- environments


def _make(env_id: str, num_envs: int, env_args: Mapping[str, Any]) -> Any:
    """A vector environment. NotFoundError, MissingDependencyError, SchemaError (an argument that it does not
    take)."""
    import gymnasium
    from gymnasium import error as errors

    if env_id.startswith("ALE/"):
        try:
            importlib.import_module("ale_py")  # registers its environments
        except ImportError:
            raise MissingDependencyError(
                f"{env_id} needs a package that is not installed: {install('atari')}"
            ) from None
    try:
        return gymnasium.make_vec(env_id, num_envs=num_envs, vectorization_mode="sync", **env_args)
    except errors.DependencyNotInstalled as error:
        raise MissingDependencyError(f"{env_id}: {_install(str(error))}") from error
    except (errors.UnregisteredEnv, errors.DeprecatedEnv) as error:
        raise NotFoundError(
            f"there is no environment {env_id!r}{_nearest(env_id, gymnasium.registry)}"
        ) from error
    except errors.Error as error:
        raise NotFoundError(f"the environment {env_id!r} cannot be made: {error}") from error
    except ImportError as error:
        raise MissingDependencyError(f"the environment {env_id!r} cannot be made: {error}") from error
    except TypeError as error:
        if not env_args:
            raise
        raise SchemaError(
            f"the environment {env_id!r} cannot be made with {', '.join(env_args)}: {error}"
        ) from error


def _install(message: str) -> str:
    extra = next((extra for word, extra in EXTRAS.items() if word in message.lower()), None)
    return message if extra is None else f"it needs a package that is not installed: {install(extra)}"


def _nearest(env_id: str, known: Mapping[str, Any]) -> str:
    import difflib

    lower = {name.lower(): name for name in known}
    names = [lower[name] for name in difflib.get_close_matches(env_id.lower(), lower, n=3, cutoff=0.6)]
    return (
        f": did you mean {' or '.join(names)}?"
        if names
        else (": check the name, and that the package that has it is installed")
    )


# --- results


def _bytes_on_disk(location: str) -> int:
    from replaystore.views.describing import bytes_on_disk

    return bytes_on_disk(location)[0]


def _text(facts: Mapping[str, Any]) -> str:
    return pairs(
        {
            "location": facts["location"],
            "steps": count(facts["steps"]),
            "trajectories": count(facts["trajectories"]),
            "data": f"{size(facts['bytes'])}, {size(facts['disk_bytes'])} on disk",
            "seconds": f"{facts['seconds']:.1f}",
            "MB/s": number(round(facts["bytes_per_second"] / 1e6, 2)),
            "steps/s": count(round(facts["steps_per_second"])),
            "seed": facts["seed"],
        }
    )
