"""What the HDF5 container writes and reads."""

from __future__ import annotations

from mutant import Mutant

__all__ = ["MUTANTS"]

TRANSACTION = "src/replaystore/containers/hdf5/transaction.py"
STATES = "src/replaystore/containers/hdf5/states.py"
FAR = "src/replaystore/containers/hdf5/far.py"
FRONT = "src/replaystore/containers/hdf5/front.py"
POWER = "test_power_loss.py::test_no_power_cut_loses_what_was_acknowledged"
HDF5_CRASHES = "test_hdf5_crashes.py"
HDF5_LOSS = f"{HDF5_CRASHES}::test_what_is_acknowledged_survives_kills_and_power_loss"

MUTANTS: tuple[Mutant, ...] = (
    Mutant(
        "hdf5-applied-before-journal-is-synced",
        TRANSACTION,
        "        self.sync()\n        self._apply(journaled, new_end)\n",
        "        self._apply(journaled, new_end)\n",
        "a journal is on the disk before what it says is done",
        (f"{HDF5_LOSS}[0]",),
    ),
    Mutant(
        "hdf5-applied-and-not-synced",
        TRANSACTION,
        "            self.files.resize(self.name, end)\n        self.sync()\n",
        "            self.files.resize(self.name, end)\n",
        "a transaction is in place before the journal of the next one is written",
        (f"{HDF5_LOSS}[0]",),
    ),
    Mutant(
        "hdf5-replayed-before-journal-is-synced",
        TRANSACTION,
        "                self.sync()  # after a kill the journal may be in the system's memory only\n",
        "",
        "a journal that a killed writer left is on the disk before it is replayed",
        (f"{HDF5_CRASHES}::test_a_crash_during_recovery_is_recovered_from",),
    ),
    Mutant(
        "hdf5-journal-checksum-not-compared",
        STATES,
        "if len(payload) < COUNT.size or google_crc32c.value(payload) != header.crc:",
        "if len(payload) < COUNT.size:",
        "a torn journal has not happened",
        (f"{HDF5_LOSS}[0]",),
    ),
    Mutant(
        "hdf5-checksum-of-straight-bytes-not-compared",
        STATES,
        "            elif self._checksum(offset, length) != crc:\n",
        "            elif not crc:\n",
        "a journal whose bytes in place are torn has not happened",
        (f"{HDF5_CRASHES}::test_what_is_acknowledged_survives_kills_and_power_loss[0]",),
    ),
    Mutant(
        "hdf5-head-checksum-not-compared",
        FRONT,
        "if magic != _HEAD_MAGIC or count > MOST_PIECES or not _intact(block, slot, stop):",
        "if magic != _HEAD_MAGIC or count > MOST_PIECES:",
        "of two heads one that is torn does not count",
        ("test_hdf5_damage.py::test_flipped_bits_of_a_head_leave_the_other",),
    ),
    Mutant(
        "hdf5-cut-of-the-log-not-synced",
        "src/replaystore/containers/hdf5/log.py",
        "            self._file.sync()  # the other head names the bytes that the next record overwrites\n",
        "",
        "a record that was cut off does not come back over the next one",
        ("test_hdf5_log.py::test_after_power_loss_no_record_follows_that_was_cut",),
    ),
    Mutant(
        "hdf5-last-bytes-given-away",
        TRANSACTION,
        "Overlay(self._bytes, show_end(pieces, block, end + GAP), pieces)",
        "Overlay(self._bytes, show_end(pieces, block, end), pieces)",
        "bytes that are in use are never written again",
        ("test_hdf5_transactions.py::test_the_last_bytes_of_the_file_are_not_given_away",),
    ),
    Mutant(
        "hdf5-directory-of-another-transaction-believed",
        FAR,
        "and found.sequence == looked.transactions\n",
        "and found.sequence\n",
        "what older software has written is not hidden by a directory that it left alone",
        ("test_hdf5_far.py::test_a_directory_that_is_out_of_date_is_not_believed",),
    ),
    Mutant(
        "hdf5-damaged-end-of-directory-passed-over",
        "src/replaystore/containers/hdf5/directory.py",
        "        if end != len(data):\n",
        "        if end > len(data):\n",
        "what is left of a damaged directory is not taken for all of it",
        ("test_hdf5_far.py::test_wherever_a_directory_is_damaged_it_is_not_believed",),
    ),
    Mutant(
        "hdf5-directory-checksum-not-compared",
        "src/replaystore/containers/records.py",
        "        if extend(value(_LENGTH.pack(length)), payload) != checksum:\n",
        "        if extend(value(_LENGTH.pack(length)), payload) < 0:\n",
        "a directory that has changed does not say where rows lie",
        ("test_hdf5_far.py::test_wherever_a_directory_is_damaged_it_is_not_believed",),
    ),
    Mutant(
        "hdf5-blocks-of-two-states",
        FAR,
        "        if not file.unchanged(self._header, self._generation):\n",
        "        if not file.unchanged(self._header, self._generation) and not found:\n",
        "from far, the library is given bytes of one state of the file",
        ("test_hdf5_far.py::test_blocks_of_a_file_that_is_changed_meanwhile_are_of_one_state",),
    ),
    Mutant(
        "hdf5-fork-not-synced",
        "src/replaystore/containers/hdf5/container.py",
        "            self.files.sync_file(temporary)\n            with self.carry",
        "            with self.carry",
        "the copy that takes a file's place after a rollback is on the disk first",
        (f"{POWER}[hdf5]",),
    ),
    Mutant(
        "hdf5-new-file-not-synced",
        "src/replaystore/containers/hdf5/container.py",
        "            files.sync_file(temporary)\n            files.rename(temporary, name)\n",
        "            files.rename(temporary, name)\n",
        "a new file is whole when it gets its name",
        ("test_hdf5_container.py::test_a_new_file_is_on_the_disk_when_it_is_returned",),
    ),
)
