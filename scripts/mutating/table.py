"""The mutants: changes of one line, each of which breaks a promise, and the tests that are to see it.

Files in broken/ hold them, by what is broken.

`before` is there exactly once in its file; where a line is not the only one of its kind, lines around it are
part of the text. Tests are named narrowly, so that a mutant takes seconds: others may see it, too.
"""

from __future__ import annotations

from broken import (
    any_length,
    archives,
    changing,
    checking,
    conversion,
    drop_ins,
    files,
    hdf5,
    locks,
    log,
    ragged,
    reading,
    recording,
    sampling,
    servers,
    versions,
    zarr,
)
from mutant import Mutant

__all__ = ["MUTANTS", "Mutant"]

MUTANTS: tuple[Mutant, ...] = tuple(
    mutant
    for group in (
        zarr,
        files,
        hdf5,
        log,
        reading,
        locks,
        sampling,
        recording,
        ragged,
        conversion,
        checking,
        archives,
        changing,
        drop_ins,
        servers,
        versions,
        any_length,
    )
    for mutant in group.MUTANTS
)
