"""Locks of writers."""

from __future__ import annotations

from mutant import Mutant

__all__ = ["MUTANTS"]

LOCKS = "src/replaystore/storage/locks.py"

MUTANTS: tuple[Mutant, ...] = (
    Mutant(
        "lock-of-a-file-not-taken",
        LOCKS,
        "    fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))\n",
        "",
        "a folder has one writer",
        ("test_locks.py::test_a_second_writer_is_refused_whatever_the_name",),
    ),
    Mutant(
        "lock-of-a-byte-not-taken",
        LOCKS,
        "        fcntl.fcntl(descriptor, command, wanted)\n",
        "        pass\n",
        "an HDF5 file has one writer",
        ("test_locks.py::test_a_second_writer_is_refused_whatever_the_name",),
    ),
    Mutant(
        "lock-not-looked-at-again",
        LOCKS,
        "        if self._shown() != self._identity:\n            raise ConflictError(\n",
        "        if self._shown() == ():\n            raise ConflictError(\n",
        "a writer whose store was replaced writes nothing more",
        (
            "test_locks_replaced.py::test_a_writer_whose_store_was_replaced_by_hand_is_told_so[append-removed-.zarr]",
        ),
    ),
    Mutant(
        "lock-of-a-file-that-lost-its-name",
        LOCKS,
        "            if self._shown() == self._identity:\n                return True\n",
        "            if self._identity:\n                return True\n",
        "a lock whose file was removed meanwhile does not count",
        ("test_locks.py::test_a_lock_whose_file_is_removed_at_the_end_is_never_held_twice",),
    ),
    Mutant(
        "lock-not-carried",
        LOCKS,
        "self._file, self._identity, other = other, (status.st_dev, status.st_ino), self._file",
        "self._identity = status.st_dev, status.st_ino",
        "a rollback keeps the lock on what then has the name",
        ("test_locks.py::test_a_rollback_keeps_the_lock",),
    ),
    Mutant(
        "lock-held-by-a-child",
        LOCKS,
        "    for lock in list(_held):\n        lock.forget()\n",
        "    for lock in list(_held):\n        lock._checked = 0.0\n",
        "a forked child does not hold the lock of its parent",
        ("test_locks.py::test_a_child_of_a_killed_writer_does_not_keep_its_lock",),
    ),
    Mutant(
        "locks-of-a-child-not-renewed",
        "src/replaystore/forks.py",
        "                setattr(owner, attribute, threading.RLock())\n",
        "                pass\n",
        "a forked child does not wait for a lock that another thread of its parent held",
        ("test_sampling_threads.py::test_a_child_does_not_wait_for_locks_that_nobody_will_release[a.zarr]",),
    ),
)
