"""Apply each mutant of table.py to a copy of the source tree, run the tests that are to see it, and say which
did.

First all those tests are run on a copy that nothing was done to: what fails there says nothing of a mutant.
"""

from __future__ import annotations

import argparse
import compileall
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from py_compile import PycInvalidationMode
from queue import SimpleQueue

from table import MUTANTS, Mutant

ROOT = Path(__file__).parents[2]
COPIED = ("src", "tests", "scripts", "pyproject.toml", "README.md")
"""What the tests that are run need."""
LEFT_OUT = shutil.ignore_patterns("__pycache__", ".hypothesis", ".pytest_cache")
TEST_SECONDS, RUN_SECONDS = 60, 300
"""How long one test, and the tests of one mutant, may take: some mutants make others wait for ever."""
PASSED, FAILED = 0, 1
"""How pytest ends; whatever else it ends with says that the tests were not run."""


@dataclass
class Outcome:
    """What came of a run of tests."""

    failed: list[str] = field(default_factory=list)
    died: str = ""
    """What became of the process, if it did not live to say which tests failed."""
    wrong: str = ""
    """Why it says nothing of the mutant."""
    seconds: float = 0.0

    @property
    def seen(self) -> bool:
        return not self.wrong and bool(self.failed or self.died)


class Copy:
    """A copy of the source tree that tests are run in, one run after another."""

    def __init__(self, folder: Path) -> None:
        self.root = folder
        self._process: subprocess.Popen[str] | None = None
        folder.mkdir()
        for name in COPIED:
            source = ROOT / name
            if source.is_dir():
                shutil.copytree(source, folder / name, ignore=LEFT_OUT)
            else:
                shutil.copyfile(source, folder / name)
        # Bytecode is usually told from its source by time and size, which a mutant may share with what was
        # there.
        by_content = PycInvalidationMode.CHECKED_HASH
        compileall.compile_dir(folder / "src", quiet=2, invalidation_mode=by_content)

    @contextmanager
    def mutated(self, mutant: Mutant) -> Iterator[None]:
        """With the mutant in it."""
        path = self.root / mutant.file
        text = path.read_text(encoding="utf-8")
        path.write_text(mutant.applied(text), encoding="utf-8")
        try:
            yield
        finally:
            path.write_text(text, encoding="utf-8")

    def run(self, tests: Sequence[str], seconds: float = RUN_SECONDS) -> Outcome:
        """Run tests, in a process that is ended after so many seconds."""
        options = ["-q", "-rfE", "--tb=no", "--no-header", "-p", "no:cacheprovider", "--hypothesis-seed=0"]
        options += ["-p", "unshrunk", f"--timeout={TEST_SECONDS}", f"--basetemp={self.root / 'tmp'}"]
        begin = time.perf_counter()
        process = self._process = subprocess.Popen(
            [sys.executable, "-m", "pytest", *options, *tests],
            cwd=self.root,
            env=self._environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,  # with all that the tests start
        )
        try:
            output, _ = process.communicate(timeout=seconds)
            died = ""
        except subprocess.TimeoutExpired:
            self.stop()
            output, _ = process.communicate()
            died = f"did not end within {seconds:.0f} s"
        outcome = Outcome(_failures(output), died, seconds=time.perf_counter() - begin)
        if not died and process.returncode < 0:
            outcome.died = f"ended by {signal.Signals(-process.returncode).name}"
        elif not died and "+++ Timeout +++" in output:  # where a test cannot be stopped, its process is ended
            outcome.died = f"a test did not end within {TEST_SECONDS} s"
        elif not died and process.returncode not in (PASSED, FAILED):
            outcome.wrong = f"pytest ended with {process.returncode}:\n{output}"
        return outcome

    def stop(self) -> None:
        """End the tests, if any are running, with all that they have started."""
        if self._process is not None and self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)

    def imported(self) -> Path:
        """Where tests find the package."""
        command = [sys.executable, "-c", "import replaystore; print(replaystore.__file__)"]
        found = subprocess.check_output(command, cwd=self.root, env=self._environment(), text=True)
        return Path(found.strip())

    def _environment(self) -> dict[str, str]:
        path = os.pathsep.join(str(self.root / name) for name in ("src", "scripts/mutating"))
        return os.environ | {"PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"}


def _failures(output: str) -> list[str]:
    """The tests that pytest lists as failed, without their folder."""
    told = [line.split(" ", 1)[1] for line in output.splitlines() if line.startswith(("FAILED ", "ERROR "))]
    return list(dict.fromkeys(line.split(" - ")[0].removeprefix("tests/") for line in told))


def _control(copy: Copy, mutants: Sequence[Mutant]) -> Outcome:
    """What the tests say of code that nothing was done to."""
    tests = list(dict.fromkeys(test for mutant in mutants for test in mutant.node_ids))
    return copy.run(tests, RUN_SECONDS * len(mutants))


def _try(mutant: Mutant, copies: SimpleQueue[Copy]) -> Outcome:
    """Run the tests of a mutant in a copy that nobody else uses meanwhile."""
    copy = copies.get()
    try:
        with copy.mutated(mutant):
            return copy.run(mutant.node_ids)
    finally:
        copies.put(copy)


def _end(pool: ThreadPoolExecutor, copies: Sequence[Copy]) -> None:
    """Begin nothing more, and wait for nothing: after Ctrl-C, or a control that failed."""
    pool.shutdown(wait=False, cancel_futures=True)
    for copy in copies:
        copy.stop()


def _chosen(only: Sequence[str]) -> list[Mutant]:
    names = [name for given in only for name in given.split(",")]
    known = {mutant.name: mutant for mutant in MUTANTS}
    unknown = [name for name in names if name not in known]
    if unknown:
        sys.exit(f"mutants: there is no mutant {unknown[0]!r}; ./scripts/mutants --list lists them")
    return [known[name] for name in names] if names else list(MUTANTS)


def _stale(mutants: Sequence[Mutant]) -> list[str]:
    """Why mutants do not apply any more."""
    return [f"{mutant.name}: {what}" for mutant in mutants if (what := mutant.problem(ROOT))]


def _told(mutant: Mutant, outcome: Outcome) -> str:
    """The lines about a mutant."""
    word = "ERROR" if outcome.wrong else "seen" if outcome.seen else "SURVIVED"
    lines = [f"{word:8}  {mutant.name}  ({outcome.seconds:.1f} s)"]
    if outcome.seen:
        more = [outcome.died, *outcome.failed]
    else:
        tests = [f"not by {test}" for test in mutant.tests]
        more = [f"{mutant.file}: {mutant.promise}", *tests, outcome.wrong]
    return "\n".join(lines + [f"            {line}" for line in more if line])


def _run(mutants: Sequence[Mutant], jobs: int) -> int:
    """Try them all; the exit status."""
    begin = time.perf_counter()
    temporary = tempfile.TemporaryDirectory(prefix="replaystore-mutants-")
    with temporary as folder, ThreadPoolExecutor(jobs) as pool, ExitStack() as stack:
        copies = [Copy(Path(folder) / str(number)) for number in range(jobs)]
        stack.callback(_end, pool, copies)
        if not copies[0].imported().is_relative_to(copies[0].root):
            sys.exit(f"mutants: tests would import {copies[0].imported()}, and not the copy")
        shares = [mutants[number::jobs] for number in range(jobs)]
        controls = pool.map(_control, copies, [share for share in shares if share])
        for control in controls:
            if control.failed or control.died or control.wrong:
                print("the tests do not pass without a mutant:", *control.failed, sep="\n  ")
                print(control.died or control.wrong)
                return 1
        print(f"all tests pass without a mutant ({time.perf_counter() - begin:.0f} s)", flush=True)
        free: SimpleQueue[Copy] = SimpleQueue()
        for copy in copies:
            free.put(copy)
        running = {pool.submit(_try, mutant, free): mutant for mutant in mutants}
        unseen = []
        for done in as_completed(running):
            print(_told(running[done], done.result()), flush=True)
            if not done.result().seen:
                unseen.append(running[done].name)
    seconds = time.perf_counter() - begin
    print(f"{len(mutants)} mutants: {len(mutants) - len(unseen)} seen, {len(unseen)} not, in {seconds:.0f} s")
    for name in sorted(unseen):
        print(f"  not seen: {name}")
    return 1 if unseen else 0


def main(arguments: Sequence[str]) -> int:
    what = "Break the code in one line at a time, and say which tests see it."
    parser = argparse.ArgumentParser(prog="mutants", description=what)
    parser.add_argument("--list", action="store_true", help="only list the mutants")
    parser.add_argument("--only", action="append", default=[], metavar="NAME,...", help="these mutants")
    parser.add_argument("--jobs", type=int, default=2, metavar="N", help="how many at a time (2)")
    given = parser.parse_args(arguments)
    mutants = _chosen(given.only)
    if given.list:
        for mutant in mutants:
            print(f"{mutant.name:40}  {mutant.promise}")
        return 0
    stale = _stale(mutants)
    for line in stale:
        print(f"STALE     {line}")
    return 1 if stale else _run(mutants, max(1, min(given.jobs, len(mutants))))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
