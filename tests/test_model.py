"""Whatever is done to a buffer, in any order, it holds what a plain one in memory holds.

More examples: pytest tests/test_model.py --hypothesis-profile=thorough
"""

from __future__ import annotations

from hypothesis import HealthCheck, Phase, settings

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


thorough = settings.default.max_examples > 100
for tests in (TestZarr, TestMemory, TestHdf5):
    tests.settings = settings(
        max_examples=settings.default.max_examples if thorough else EXAMPLES,
        stateful_step_count=STEPS,
        # Shrinking takes minutes: a failure in the usual run is for the thorough profile to make small.
        phases=tuple(Phase) if thorough else (Phase.explicit, Phase.reuse, Phase.generate),
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )
del tests
