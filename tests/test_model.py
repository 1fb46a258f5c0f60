"""Whatever is done to a buffer, in any order, it holds what a plain one in memory holds.

More examples: pytest tests/test_model.py --hypothesis-profile=thorough
"""

from __future__ import annotations

from hypothesis import HealthCheck, settings

from replaystore.testing import BufferMachine

EXAMPLES = 30
"""In the usual run; each is up to STEPS long."""
STEPS = 30


class ZarrMachine(BufferMachine):
    suffix = ".zarr"


class MemoryMachine(BufferMachine):
    suffix = "memory:"


class Hdf5Machine(BufferMachine):
    suffix = ".h5"
    codec = "gzip:1"
    rings = False


class TestZarr(ZarrMachine.TestCase):
    pass


class TestMemory(MemoryMachine.TestCase):
    pass


class TestHdf5(Hdf5Machine.TestCase):
    pass


examples = max(EXAMPLES, settings.default.max_examples if settings.default.max_examples > 100 else 0)
for case in (TestZarr, TestMemory, TestHdf5):
    case.settings = settings(
        max_examples=examples, stateful_step_count=STEPS, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
    )
