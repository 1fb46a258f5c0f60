"""Memory that recording and converting take: the peak of anonymous memory of a process, above what it has
after the imports."""

from __future__ import annotations

from pathlib import Path

from measuring import Context, Result
from measuring.memory import no_memory, peak_of

__all__ = ["memory"]

WORKER = Path(__file__).with_name("memory_worker.py")


def memory(context: Context) -> list[Result]:
    """Record frames, convert them to HDF5, and back."""
    results = no_memory()
    if results:
        return results
    size = context.choose(4 << 30, 1 << 29)
    what = f"peak memory, {size / (1 << 30):g} GB of frames"
    recorded, hdf5, back = (context.folder / name for name in ("frames.zarr", "frames.h5", "again.zarr"))
    for variant, arguments in (
        ("record, Zarr", ["record", recorded, str(size)]),
        ("convert, Zarr to HDF5", ["convert", recorded, hdf5]),
        ("convert, HDF5 to Zarr", ["convert", hdf5, back]),
        ("record, HDF5", ["record", context.folder / "frames2.h5", str(size // 4)]),
    ):
        results.append(peak_of(context, what, variant, WORKER, arguments, 300.0))
    return results
