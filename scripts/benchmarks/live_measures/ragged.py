"""Sequences of different lengths in batches, beside slices of one flat array that are put together: columns,
samplers, padded batches and nested tensors; of texts, of archives, and of a store of ten million.

The files are in memory. What NumPy does is the least that anybody could: it draws rows, and knows where each
begins and ends; of the values it makes no more than one array, and offsets."""

from __future__ import annotations

import importlib.util
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from measuring import Context, Result, check, interleaved, ratio, remove, skipped
from measuring.data import warm
from measuring.timing import each, results
from measuring.tokens import TEXTS, TOKENS, sequences, some, write

import replaystore as rs

__all__ = ["MEASURES", "TITLES"]

SIZE, BATCHES = 256, 32
SEQUENCES, MANY = 10**5, 10**7
SHORT = 1, 4
"""Of so many that a disk has no room for long ones."""
CONCATENATE, LOOP, NESTED = "NumPy slices, concatenated", "NumPy loop that pads", "torch.nested of slices"
WHAT = f"{SIZE} sequences of {TOKENS[0]} to {TOKENS[1]} int32 tokens"
PADDED, JAGGED, CODED = f"{WHAT}, padded", f"{WHAT}, as a nested tensor", f"{WHAT}, of archives"
SMALL = f"{SIZE} texts of {TEXTS[0]} to {TEXTS[1]} bytes"
OPENED = f"a store of {MANY:.0e} sequences".replace("e+0", "e")
TITLES = {WHAT: f"256 sequences of {TOKENS[0]} to {TOKENS[1]} tokens, one behind another"}


def batches(context: Context) -> list[Result]:
    """Raw, of a hundred thousand: 400 MB."""
    given = sequences(context.choose(SEQUENCES, 1000), TOKENS)
    place = context.shared / "tokens.zarr"
    if not place.exists():
        write(place, given)
    found = _batches(context, WHAT, given, place, 1.3)
    with rs.open(place) as buffer:
        found += _padded(context, given, buffer)
        found += _jagged(context, given, buffer)
    return found + _coded(context, given, place)


def texts(context: Context) -> list[Result]:
    """As short as names and commands are."""
    given = sequences(context.choose(10 * SEQUENCES, 1000), TEXTS, text=True)
    place = context.folder / "texts.zarr"
    write(place, given)
    return _batches(context, SMALL, given, place, None)


def _batches(
    context: Context, what: str, given: rs.Ragged, place: Path, target: float | None
) -> list[Result]:
    """`buffer["tokens"][rows]`, and a sampler of that field."""
    context.say(what)
    other = context.folder / f"{place.stem}.h5"
    rs.convert(place, other, layout="live")
    warm(place, other)
    rng, rows = np.random.default_rng(0), len(given)

    def concatenate() -> tuple[Any, Any]:
        index = rng.integers(0, rows, SIZE)
        parts = some(given, index)
        return np.concatenate(parts), np.cumsum([len(part) for part in parts])

    variants: dict[str, Callable[[], object]] = {CONCATENATE: concatenate}
    aims, buffers = {}, []
    for kind, stored in (("Zarr", place), ("HDF5", other)):
        buffers.append(buffer := rs.open(stored))
        sampler = buffer.sampler(SIZE, fields=["tokens"], seed=0)
        names = f"replaystore, {kind}: column", f"replaystore, {kind}: sampler"
        variants |= {names[0]: _reader(buffer, rows), names[1]: sampler.sample}
        if target is not None and kind == "Zarr":
            aims |= dict.fromkeys(names, target)
        batch = sampler.sample()
        check(batch["tokens"] == given[batch["index"]], stored.name, "tokens")
        check(buffer["tokens"][batch["index"]] == batch["tokens"], stored.name, "tokens")
    seconds = interleaved({name: each(made, BATCHES) for name, made in variants.items()}, _rounds(context))
    for buffer in buffers:
        buffer.close()
    remove(other)
    return results(what, seconds, CONCATENATE, aims)


def _reader(buffer: rs.Buffer, rows: int) -> Callable[[], object]:
    rng = np.random.default_rng(0)
    return lambda: buffer["tokens"][rng.integers(0, rows, SIZE)]


def _padded(context: Context, given: rs.Ragged, buffer: rs.Buffer) -> list[Result]:
    context.say(PADDED)
    rng, rows = np.random.default_rng(0), len(given)

    def pad(index: Any) -> tuple[Any, Any]:
        parts = some(given, index)
        longest = max(map(len, parts))
        array, mask = np.zeros((SIZE, longest), np.int32), np.zeros((SIZE, longest), np.bool_)
        for number, part in enumerate(parts):
            array[number, : len(part)] = part
            mask[number, : len(part)] = True
        return array, mask

    sampler = buffer.sampler(SIZE, fields=["tokens"], seed=0, pad_values="end")
    batch = sampler.sample()
    for name, values in zip(("tokens", "mask/tokens"), pad(batch["index"]), strict=True):
        check(np.array_equal(batch[name], values), PADDED, name)
    variants: dict[str, Callable[[], object]] = {
        LOOP: lambda: pad(rng.integers(0, rows, SIZE)),
        'replaystore, Zarr: sampler, pad_values="end"': sampler.sample,
    }
    seconds = interleaved({name: each(made, BATCHES) for name, made in variants.items()}, _rounds(context))
    return results(PADDED, seconds, LOOP, {})


def _jagged(context: Context, given: rs.Ragged, buffer: rs.Buffer) -> list[Result]:
    if importlib.util.find_spec("torch") is None:
        return [skipped(JAGGED, "all", "PyTorch is not installed")]
    import torch

    context.say(JAGGED)
    rng, rows = np.random.default_rng(0), len(given)

    def nested(index: Any) -> Any:
        tensors = [torch.from_numpy(part) for part in some(given, index)]
        return torch.nested.nested_tensor(tensors, layout=torch.jagged)

    read = _reader(buffer, rows)
    variants: dict[str, Callable[[], object]] = {
        NESTED: lambda: nested(rng.integers(0, rows, SIZE)),
        "replaystore, Zarr: to_torch_jagged": lambda: read().to_torch_jagged(),  # type: ignore[attr-defined]
    }
    index = rng.integers(0, rows, SIZE)
    pairs = zip(buffer["tokens"][index].to_torch_jagged(), nested(index), strict=True)
    check(all(torch.equal(mine, other) for mine, other in pairs), JAGGED, "tokens")
    seconds = interleaved({name: each(made, BATCHES) for name, made in variants.items()}, _rounds(context))
    return results(JAGGED, seconds, NESTED, {})


def _coded(context: Context, given: rs.Ragged, place: Path) -> list[Result]:
    """Chunks of 64 KiB, most of which are decoded for one sequence."""
    context.say(CODED)
    rng, rows, aims = np.random.default_rng(0), len(given), {}
    variants: dict[str, Callable[[], object]] = {
        CONCATENATE: lambda: np.concatenate(some(given, rng.integers(0, rows, SIZE)))
    }
    for kind, suffix in (("Zarr", ".zarr"), ("HDF5", ".h5")):
        archive = context.folder / f"archive{suffix}"
        rs.convert(place, archive, layout="archive")
        sampler = rs.open(archive).sampler(SIZE, fields=["tokens"], seed=0)
        batch = sampler.sample()
        check(batch["tokens"] == given[batch["index"]], archive.name, "tokens")
        variants[f"replaystore, {kind}: sampler"] = sampler.sample
    seconds = interleaved({name: each(made, 4) for name, made in variants.items()}, context.choose(11, 3))
    return results(CODED, seconds, CONCATENATE, aims)


def _rounds(context: Context) -> int:
    return context.choose(61, 5)


def opening(context: Context) -> list[Result]:
    """Opened again and again, and one batch of each: of ten million, and of a hundredth of them."""
    context.say(f"{OPENED} (writing them first)")
    found = dict[str, Callable[[], float]]()
    for name, most in (("few", MANY // 100), ("many", MANY)):
        count = context.choose(most, most // 100)
        place = context.folder / f"{name}.zarr"
        given = sequences(count, SHORT)
        write(place, given, block=10**5, episode=1000)
        warm(place)
        with rs.open(place) as buffer:
            batch = buffer.sampler(SIZE, fields=["tokens"], seed=0).sample()
            check(batch["tokens"] == given[batch["index"]], place.name, "tokens")
        found |= {name: _opener(place, batch=False), f"{name}, batch": _opener(place, batch=True)}
    seconds = interleaved(found, context.choose(31, 5))
    middle = {name: statistics.median(values) * 1e3 for name, values in seconds.items()}
    detail = f"to that of a hundredth of them {ratio(seconds, 'many', 'few'):.2f}"
    return [
        Result(OPENED, "replaystore, Zarr: rs.open", middle["many"], "ms", 50, detail=detail),
        Result(
            OPENED,
            "replaystore, Zarr: rs.open, a sampler and its first batch",
            middle["many, batch"],
            "ms",
            50,
            detail=f"to that of a hundredth of them {ratio(seconds, 'many, batch', 'few, batch'):.2f}",
        ),
    ]


def _opener(place: Path, *, batch: bool) -> Callable[[], float]:
    def run() -> float:
        begin = time.perf_counter()
        buffer = rs.open(place)
        if batch:
            buffer.sampler(SIZE, fields=["tokens"], seed=0).sample()
        taken = time.perf_counter() - begin
        buffer.close()
        return taken

    return run


MEASURES = {"ragged": batches, "ragged-texts": texts, "ragged-open": opening}
