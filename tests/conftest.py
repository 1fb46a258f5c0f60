"""Settings of all tests, and which need PyTorch.

Where that is not installed, a file that imports what needs it, itself or through what tests share, is not
collected; in other files, single tests that need it are marked `torch`, and single cases take it from
`tensors`. Nothing here asks the library: a part of the core that began to need PyTorch would fail.
"""

from __future__ import annotations

import ast
import gc
import importlib.util
import os
import resource
import shutil
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from hypothesis import settings

# The workers of pytest use the cores. Threads of theirs would wait for each other: small tensors are computed
# ten times as fast by one. Torch looks when it is loaded, and so do processes that tests start.
os.environ.setdefault("OMP_NUM_THREADS", "1")

SUPPORT = {path.stem for path in Path(__file__).parent.glob("*.py") if not path.stem.startswith("test_")}
"""The files here that hold no tests, but what several files of tests share. A file of tests that uses
fixtures of one of them names it in its `pytest_plugins`."""

# So that what they assert is told as fully as what tests assert.
pytest.register_assert_rewrite(*sorted(SUPPORT - {"conftest"}))

# As many files as a shell of Linux lets a process open: what leaves files open is found here, nowhere later.
OPEN_FILES = 1024
_soft, _hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (min(OPEN_FILES, _soft), _hard))

# No deadline: how long an example takes says more about a busy machine than about the code.
settings.register_profile("replaystore", deadline=None)
# Pytest --hypothesis-profile=thorough.
settings.register_profile("thorough", deadline=None, max_examples=5000)
settings.register_profile("quick", deadline=None, max_examples=20)
settings.load_profile("replaystore")


ROOM = 2 << 30  # what all tests need at once takes less
"""So many bytes have to be free in memory for files of tests to lie there."""


def is_roomy(folder: str) -> bool:
    """Whether files of tests can lie in a folder, and programs among them."""
    if not os.path.isdir(folder):
        return False
    found = os.statvfs(folder)
    return found.f_bavail * found.f_frsize >= ROOM and not found.f_flag & os.ST_NOEXEC


DISK = tempfile.gettempdir()
# There syncs take no time: on a disk, tests wait for them most of the time.
MADE = ""
"""The folder that everything but pytest's own lies in; it goes when the tests have ended."""
if is_roomy("/dev/shm"):
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", "/dev/shm")
    MADE = tempfile.tempdir = tempfile.mkdtemp(prefix="replaystore-tests-", dir="/dev/shm")


def pytest_unconfigure() -> None:
    """Libraries leave folders behind, and these would lie in memory."""
    if MADE:
        shutil.rmtree(MADE, ignore_errors=True)


TORCH = importlib.util.find_spec("torch") is not None
WITH_TORCH = (
    "torch",
    "safetensors.torch",
    "velora",
    "replaystore.analysis",
    "replaystore.compat",
    "replaystore.torch",
    "replaystore.testing.saves",
)
"""What a file of tests cannot import without PyTorch."""


def imported(path: Path) -> Iterator[str]:
    """What a file names at its top: modules, names in modules, and plugins."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "pytest_plugins":
            yield from ast.literal_eval(node.value)


@cache
def needs_torch(path: Path) -> bool:
    """Whether a file imports what needs PyTorch, itself or through what tests share."""
    names = set(imported(path))
    shared = {name.split(".")[0] for name in names} & SUPPORT
    return any(f"{name}.".startswith(f"{module}.") for name in names for module in WITH_TORCH) or any(
        needs_torch(path.with_name(f"{name}.py")) for name in shared
    )


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    """Whether to leave a file out."""
    left_out = not TORCH and collection_path.match("test_*.py") and needs_torch(collection_path)
    return True if left_out else None


def pytest_report_header(config: pytest.Config) -> str | None:
    """How many files are left out."""
    if TORCH:
        return None
    files = sorted(Path(__file__).parent.glob("test_*.py"))
    left_out = [path.stem for path in files if needs_torch(path)]
    return f"without PyTorch: {len(files) - len(left_out)} of {len(files)} files of tests"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip single tests that need PyTorch."""
    for item in items:
        if not TORCH and item.get_closest_marker("torch"):
            item.add_marker(pytest.mark.skip(reason="PyTorch is not installed"))


@pytest.fixture
def tmp_path(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """As that of pytest; on a disk for tests marked so."""
    if request.node.get_closest_marker("disk"):
        with tempfile.TemporaryDirectory(dir=DISK) as folder:
            yield Path(folder)
    else:
        yield tmp_path


@pytest.fixture(autouse=True)
def _files_are_closed() -> Iterator[None]:
    """Stores in memory end with the test that made them: they would live as long as the process, and each
    keeps files open. What was there before, as what a fixture of a module makes, stays. What a test has not
    closed is closed when it is found to be garbage."""
    from replaystore.registry import load

    memory = load("storage", "memory")
    before = set(memory.stores())
    yield
    for name in set(memory.stores()) - before:
        memory.remove(name)
    if len(os.listdir("/dev/fd")) > OPEN_FILES // 4:
        gc.collect()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--crash-points", type=int, default=200, help="kills per backend in tests/test_crash.py")
    parser.addoption("--crash-seed", type=int, default=0, help="another seed gives other kills")
    parser.addoption(
        "--power-cuts",
        type=int,
        default=24,
        help=("power cuts per workload in tests/test_power_loss.py, besides those at syncs"),
    )
    parser.addoption("--power-seed", type=int, default=0, help="another seed leaves other things on the disk")
    parser.addoption(
        "--damage-cases", type=int, default=500, help=("damages of each store in tests/test_damage.py")
    )
    parser.addoption(
        "--campaign-share", type=float, default=1.0, help=("how many of the tries in tests/test_campaigns.py")
    )
    parser.addoption("--campaign-seed", type=int, default=0, help="another seed tries other things")
