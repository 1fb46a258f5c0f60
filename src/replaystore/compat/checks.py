"""What is refused before it does harm: devices that are not there, spaces and values of other shapes."""

from __future__ import annotations

import os
import textwrap
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from replaystore.errors import ArgumentError, SchemaError, UnsupportedError
from replaystore.schema.environment import environment_of
from replaystore.schema.ragged import Ragged
from replaystore.schema.spaces import space_from_json, space_to_json
from replaystore.views.reader import BufferReader

__all__ = [
    "check_environment",
    "check_flat",
    "check_spaces",
    "checked_device",
    "checked_path",
    "checked_rows",
    "length_of",
    "positive",
    "refuse_any_length",
    "spaces_of",
    "width_of",
    "zeros",
]

ROLES = ("observation", "action")


def checked_device(device: torch.device | str | int | None) -> torch.device:
    """The device, None meaning the CPU. UnsupportedError: there is no such device here."""
    try:
        found = torch.device("cpu" if device is None else device)
        torch.empty(0, device=found)
    except (RuntimeError, AssertionError, NotImplementedError, TypeError) as error:
        reason = textwrap.shorten(
            str(error).strip().split("\n")[0].split(". ")[0].rstrip("."), 100, placeholder=" …"
        )
        raise UnsupportedError(
            f"device {str(device)!r} cannot be used here ({reason}): pass device='cpu'"
        ) from None
    if found.type == "meta":
        raise UnsupportedError("device 'meta' holds no numbers: pass device='cpu'")
    return found


def checked_path(path: Any) -> str:
    """A path as text; ArgumentError: it is none."""
    try:
        text = os.fspath(path)
    except TypeError:
        text = None
    if not isinstance(text, str) or not text.strip() or "\0" in text:
        raise ArgumentError(
            f"{path!r:.80} is no path: give a string or a Path, such as 'runs/x/replay_buffer.zarr'"
        )
    return text


def zeros(
    capacity: int, widths: Mapping[str, int], device: torch.device, dtype: torch.dtype = torch.float32
) -> dict[str, torch.Tensor]:
    """Tensors (capacity, width); ArgumentError: they are more than the device has room for."""
    try:
        return {
            name: torch.zeros((capacity, width), dtype=dtype, device=device) for name, width in widths.items()
        }
    except (RuntimeError, MemoryError):  # which is what torch raises where memory is short
        size = capacity * sum(widths.values()) * dtype.itemsize / 1e9
        raise ArgumentError(
            f"capacity={capacity} takes {size:,.1f} GB, which {device} has no room for: choose a smaller "
            "one, or load a .zarr store"
        ) from None


def length_of(name: str, values: Any) -> int:
    """How many rows there are; SchemaError: it has none."""
    try:
        return len(values)
    except TypeError:
        raise SchemaError(
            f"{name}: a {type(values).__name__} has no rows: pass a tensor or an array"
        ) from None


def checked_rows(name: str, values: Any, count: int, width: int, dtype: torch.dtype) -> torch.Tensor:
    """Values of a field as a tensor (count, width) of a dtype on the CPU or where they are; (count,) too if
    width is 1.

    SchemaError: another shape, or not numbers."""
    if isinstance(values, Ragged):
        raise SchemaError(
            f"{name}: values of different lengths are no tensor {(count, width)}: pad them (.to_padded())"
        )
    if isinstance(values, np.ndarray):
        # Which torch wants: in order, and to be written to.
        values = np.require(values, values.dtype.newbyteorder("="), ["C", "W"])
    try:
        tensor = torch.as_tensor(values).detach().resolve_neg()
    except (TypeError, ValueError, RuntimeError) as error:
        raise SchemaError(
            f"{name}: {type(values).__name__} is no tensor of numbers ({str(error).splitlines()[0]})"
        ) from None
    if tensor.is_meta or tensor.layout is not torch.strided:
        kind = (
            "on the device 'meta' has no numbers" if tensor.is_meta else ("is sparse: pass tensor.to_dense()")
        )
        raise SchemaError(f"{name}: this tensor {kind}")
    if width == 1 and tensor.shape == (count,):
        tensor = tensor.unsqueeze(-1)
    if tensor.shape != (count, width):
        raise SchemaError(f"{name} has shape {tuple(tensor.shape)}: expected {(count, width)}")
    return tensor.to(dtype)


def positive(name: str, value: Any) -> int:
    """A number that must be positive; ArgumentError."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
        raise ArgumentError(f"{name} must be a positive number, not {value!r}")
    return int(value)


def width_of(envs: Any, role: str) -> int:
    """The number of components of an observation or action of a vector environment; SchemaError: they have
    not one dimension."""
    try:
        space = getattr(envs, f"single_{role}_space")
    except AttributeError:
        raise SchemaError(
            f"envs must be a vector environment, not {type(envs).__name__}: pass "
            "gym.vector.SyncVectorEnv([...])"
        ) from None
    shape = getattr(space, "shape", None)
    if shape is None:
        refuse_any_length(space, role)
    if shape is None or len(shape) != 1 or shape[0] < 1:
        raise SchemaError(
            f"the {role} space {space} has not one dimension: flatten it "
            "(gymnasium.wrappers.FlattenObservation)"
        )
    return int(shape[0])


def refuse_any_length(space: Any, role: str) -> None:
    """SchemaError: values of this space have different lengths, and cannot be made flat."""
    if not getattr(space, "is_np_flattenable", True):
        raise SchemaError(
            f"the {role} space {space} has values of any length, which are no rows of a tensor: record them "
            "in a store (replaystore.gymnasium.RecordVector), and train with its samplers"
        )


def check_flat(buffer: BufferReader) -> None:
    """UnsupportedError: the observations or actions in a store are of any length."""
    for name, declared in buffer.schema.ragged.items():
        if declared.role in ROLES:
            raise UnsupportedError(
                f"{buffer.where}: the values of {name!r} have different lengths, and are no rows of a "
                "tensor: open it with replaystore.open, whose samplers give them"
            )


def check_spaces(envs: Any, widths: tuple[int, int], path: object) -> None:
    """SchemaError: a file of observations and actions of these widths is not of this environment; None is
    any."""
    if envs is None:
        return
    given = (width_of(envs, "observation"), width_of(envs, "action"))
    if widths != given:
        raise SchemaError(
            f"{path} holds observations of {widths[0]} numbers and actions of {widths[1]}, and envs has "
            f"{given[0]} and {given[1]}: "
            f"pass the environment that it was recorded in"
        )


def spaces_of(envs: Any) -> dict[str, dict[str, Any]]:
    """The spaces of a vector environment as JSON, by role, as far as they can be written down."""
    found = {}
    for role in ROLES:
        space: Any = getattr(envs, f"single_{role}_space", None)
        if space is None:  # Gymnasium, which takes memory and time to import, is not asked then
            continue
        try:
            found[role] = space_to_json(space)
        except (SchemaError, UnsupportedError):
            # Of a dtype that no field has: there is nothing to compare with later.
            continue
    return found


def check_environment(
    envs: Any,
    recorded: Mapping[str, Any] | None,
    spaces: Mapping[str, Mapping[str, Any]],
    path: object,
    *,
    guessed: bool = False,
) -> None:
    """SchemaError: rows that were `recorded` in one environment are loaded for another one, by its id and
    version.

    If that is `guessed`, it is only warned of; and so is, where an id is not known, that bounds differ from
    those of `spaces` (by role). None is any environment."""
    if envs is None:
        return
    before, now = (section["id"] if section else None for section in (recorded, environment_of(envs)))
    if before is not None and now is not None:
        if before != now and guessed:
            warnings.warn(
                f"{path} seems to be of {before}, by the name of its folder, and envs are of {now}",
                stacklevel=3,
            )
        elif before != now:
            raise SchemaError(
                f"{path} was recorded in {before}, and envs are of {now}: pass environments of that id, or "
                "envs=None to load it anyway"
            )
        return
    given = spaces_of(envs)
    for role in ROLES:
        if role in spaces and role in given and not _same_bounds(spaces[role], given[role]):
            was, is_now = space_from_json(spaces[role]), space_from_json(given[role])
            warnings.warn(
                (
                    f"{path} was recorded with the {role} space {was}, and that of envs is {is_now}: is "
                    "it the "
                    "same environment?"
                ),
                stacklevel=3,
            )


def _same_bounds(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two spaces have the same bounds, whatever their dtypes; of other kinds than Box all else has to
    agree as well."""
    first, second = space_from_json(one), space_from_json(other)
    if one["type"] != "Box" or other["type"] != "Box":
        return bool(first == second)
    bounds = zip((first.low, first.high), (second.low, second.high), strict=True)  # type: ignore[attr-defined]
    return all(np.array_equal(np.float32(mine), np.float32(its)) for mine, its in bounds)
