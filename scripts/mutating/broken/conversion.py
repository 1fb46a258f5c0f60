"""Conversions: chunks that are compared when they are copied."""

from __future__ import annotations

from mutant import Mutant

__all__ = ["MUTANTS"]

COPYING = "src/replaystore/arrays/copying.py"

MUTANTS: tuple[Mutant, ...] = (
    Mutant(
        "conversion-raw-chunk-not-compared",
        COPYING,
        "if wrong or crc32c(data[place : place + spec.chunk_bytes]) != expected[number - since]:\n",
        "if wrong:\n",
        "damage in the source of a conversion does not reach the target",
        ("test_conversion_storage.py::test_damage_in_the_source_does_not_reach_the_target",),
    ),
    Mutant(
        "conversion-coded-chunk-not-compared",
        COPYING,
        "            or checksum is None\n            or codec.checksum(part) != checksum\n",
        "            or checksum is None\n",
        "a damaged encoded chunk does not reach the target of a conversion",
        ("test_conversion_storage.py::test_a_damaged_encoded_chunk_does_not_reach_the_target",),
    ),
    Mutant(
        "conversion-selected-chunk-not-compared",
        COPYING,
        "        if crc32c(np.ascontiguousarray(rows)) != expected:\n",
        "        if expected is None:\n",
        "damage in the source does not reach the target where some trajectories are selected",
        ("test_conversion_storage.py::test_damage_in_the_source_does_not_reach_the_target",),
    ),
)
