"""Writers: what is staged, and operations that were interrupted."""

from __future__ import annotations

from mutant import Mutant

__all__ = ["MUTANTS"]


MUTANTS: tuple[Mutant, ...] = (
    Mutant(
        "writer-interrupted-while-staging",
        "src/replaystore/buffers/staging.py",
        "        # one.\n        self._like = None",
        "        # one.",
        "a step that is interrupted while it is staged is recorded or not",
        ("test_interrupts.py::test_a_step_that_is_interrupted_while_it_is_staged_is_recorded_or_not",),
    ),
    Mutant(
        "writer-mask-not-copied",
        "src/replaystore/buffers/staging.py",
        "self.masks[self.time] = mask.copy()\n        self.time += 1\n        self._like = like\n",
        "self.masks[self.time] = mask\n        self.time += 1\n        self._like = like\n",
        "a writer keeps nothing of what it is given",
        ("test_writer_schemas.py::test_a_writer_keeps_nothing_of_the_arrays_that_it_is_given",),
    ),
    Mutant(
        "writer-staged-mask-not-copied",
        "src/replaystore/buffers/staging.py",
        "self.masks[self.time] = mask.copy()\n        self.time += 1\n        if self.pool",
        "self.masks[self.time] = mask\n        self.time += 1\n        if self.pool",
        "a writer keeps nothing of what it is given",
        ("test_writer_schemas.py::test_a_writer_keeps_nothing_of_the_arrays_that_it_is_given",),
    ),
    Mutant(
        "writer-half-step-kept",
        "src/replaystore/buffers/staging.py",
        "                self.rewind()\n                self._like = like\n",
        "                self._like = like\n",
        "of a step that is refused nothing is kept",
        ("test_writer_schemas.py::test_a_step_of_which_one_info_does_not_fit_leaves_nothing_behind",),
    ),
    Mutant(
        "interrupted-operation-believed",
        "src/replaystore/interrupts.py",
        "        ours = kind is None or issubclass(kind, ReplayStoreError)\n",
        "        ours = kind is None or issubclass(kind, BaseException)\n",
        "after an interrupt a buffer shows its last commit, and says so",
        ("test_interrupts.py::test_after_an_interrupt_the_last_commit_is_shown_and_the_buffer_says_so",),
    ),
)
