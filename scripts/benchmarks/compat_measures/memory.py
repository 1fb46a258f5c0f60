"""Memory that a drop-in buffer takes for a store that is larger than memory, and that its files take on their
way out and in."""

from __future__ import annotations

from pathlib import Path

from measuring import Context, Result, remove
from measuring.memory import no_memory, peak_of

__all__ = ["exporting", "sampling"]

WORKER = Path(__file__).with_name("worker.py")
BATCHES = 1000
EXPORTED = 4.0
"""Gigabytes of the store that is exported."""
SAMPLING_MB, CONVERTING_MB = 400.0, 300.0
"""What is allowed."""


def sampling(context: Context, gigabytes: float) -> list[Result]:
    """Record a store, load it, and draw fragments."""
    results, what, store = (
        no_memory(),
        f"peak memory, {gigabytes:g} GB",
        context.folder / "replay_buffer.zarr",
    )
    if not results:
        results.append(_peak(context, what, "record", ["record", store, int(gigabytes * 1e9)]))
        results.append(
            _peak(context, what, f"load, {BATCHES} x sample2(32)", ["sample", store, BATCHES], SAMPLING_MB)
        )
    return results


def exporting(context: Context, gigabytes: float) -> list[Result]:
    """Make files of both projects of a store of at most `EXPORTED`, and of one of them a store again: a ring,
    to sample from."""
    gigabytes = min(EXPORTED, gigabytes)
    results, what = no_memory(), f"peak memory, {gigabytes:g} GB"
    if results:
        return results
    store, ring, pickled = (
        context.folder / name for name in ("replay_buffer.zarr", "ring.zarr", "replay_buffer.pkl")
    )
    state = context.folder / "velora" / "buffer_state.safetensors"
    _peak(context, what, "record", ["record", store, int(gigabytes * 1e9)])
    results.append(_peak(context, what, "export to safetensors", ["convert", store, state], CONVERTING_MB))
    remove(state.parent)
    results.append(_peak(context, what, "export to pickle", ["convert", store, pickled], CONVERTING_MB))
    remove(store)
    results.append(_peak(context, what, "import of the pickle", ["convert", pickled, ring], CONVERTING_MB))
    remove(pickled)
    results.append(
        _peak(
            context, what, f"load the ring, {BATCHES} x sample2(32)", ["sample", ring, BATCHES], SAMPLING_MB
        )
    )
    return results


def _peak(
    context: Context, what: str, variant: str, arguments: list[object], target: float | None = None
) -> Result:
    return peak_of(context, what, variant, WORKER, arguments, target)
