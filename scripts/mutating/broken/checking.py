"""What `verify` says and `repair` does."""

from __future__ import annotations

from mutant import Mutant

__all__ = ["MUTANTS"]

REPAIRING = "src/replaystore/checking/repair.py"
CHECKED = "src/replaystore/checking"

MUTANTS: tuple[Mutant, ...] = (
    Mutant(
        "verify-says-nothing-of-changed-rows",
        f"{CHECKED}/rows.py",
        "            if found != int(checksums[chunk - since]):\n",
        "            if found < 0:\n",
        "verify reports rows that have changed",
        ("test_repairing.py::test_rows_that_have_changed_are_given_up_with_what_follows_them",),
    ),
    Mutant(
        "verify-says-nothing-of-the-end-of-the-log",
        f"{CHECKED}/log.py",
        '        if rest.strip(b"\\0"):\n',
        "        if rest is None:\n",
        "verify reports the record of a commit that is damaged",
        ("test_damage.py::test_a_damaged_last_record_of_the_log_is_reported",),
    ),
    Mutant(
        "verify-says-nothing-of-flags",
        f"{CHECKED}/trajectories.py",
        "for wrong in np.flatnonzero(stored != ended[name])[:5]:",
        "for wrong in np.flatnonzero(stored != stored)[:5]:",
        "verify reports a table of trajectories that is not what the flags of the steps say",
        ("test_damage.py::test_a_table_of_trajectories_that_contradicts_the_steps_is_reported",),
    ),
    Mutant(
        "repair-changes-the-original",
        REPAIRING,
        "        if os.fstat(self.descriptor(name)).st_nlink > 1:\n",
        "        if os.fstat(self.descriptor(name)).st_nlink > 9:\n",
        "a repair keeps what was there as it was",
        ("test_repairing.py::test_a_damaged_log_is_cut_in_the_repaired_store_and_not_in_the_original",),
    ),
    Mutant(
        "repair-accepts-what-does-not-verify",
        REPAIRING,
        "            if not after.problems:\n",
        "            if after:\n",
        "a repaired store verifies",
        ("test_repairing.py::test_a_commit_that_contradicts_itself_is_given_up",),
    ),
    Mutant(
        "repair-not-synced",
        REPAIRING,
        "store.sync_files(list(store.walk()))",
        "pass",
        "a repaired store is on the disk before it takes the name of the original",
        ("test_repairing.py::test_what_is_repaired_is_on_the_disk_before_it_has_the_name",),
    ),
)
