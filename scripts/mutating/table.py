"""The mutants: changes of one line, each of which breaks a promise, and the tests that are to see it.

`before` is there exactly once in its file; where a line is not the only one of its kind, lines around it are
part of the text. Tests are named narrowly, so that a mutant takes seconds: others may see it, too.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

__all__ = ["MUTANTS", "Mutant"]


@dataclass(frozen=True)
class Mutant:
    """One change."""

    name: str
    file: str
    before: str
    after: str
    promise: str
    """What it breaks."""
    tests: tuple[str, ...]
    """What is to see it, as pytest names it in the folder of the tests."""

    @property
    def node_ids(self) -> list[str]:
        """The tests, as they are named at the root."""
        return [f"tests/{test}" for test in self.tests]

    def problem(self, root: Path) -> str:
        """Why it does not apply to the source tree; empty if it does."""
        path = root / self.file
        if not path.is_file():
            return f"there is no {self.file}"
        count = path.read_text(encoding="utf-8").count(self.before)
        return "" if count == 1 else f"the text that it changes is {count} times in {self.file}"

    def applied(self, text: str) -> str:
        """The text of its file with the change."""
        return text.replace(self.before, self.after)


ZARR = "src/replaystore/containers/zarr/container.py"
FILES = "src/replaystore/storage/local.py"
STORAGE = "src/replaystore/storage/protocol.py"
TRANSACTION = "src/replaystore/containers/hdf5/transaction.py"
FRONT = "src/replaystore/containers/hdf5/front.py"
STORE = "src/replaystore/arrays/commits.py"
READING = "src/replaystore/arrays/reading.py"
COPYING = "src/replaystore/arrays/copying.py"
LOCKS = "src/replaystore/storage/locks.py"
OPENING = "src/replaystore/buffers/opening.py"
SEALING = "src/replaystore/arrays/sealing.py"
REPAIRING = "src/replaystore/checking/repair.py"
VERIFYING = "src/replaystore/checking/verify.py"

POWER = "test_power_loss.py::test_no_power_cut_loses_what_was_acknowledged"
POWER_AGAIN = "test_power_loss.py::test_nor_does_one_after_a_writer_that_went_on_where_another_was_stopped"
HDF5_CRASHES = "test_hdf5_crashes.py"
HDF5_LOSS = f"{HDF5_CRASHES}::test_what_is_acknowledged_survives_kills_and_power_loss"
HISTORIES = "test_other_histories.py"
SUITE = "test_backends.py::TestBackends"
KILLED = "test_replacing.py::test_killed_at_any_call_there_is_the_old_or_the_new"

ON_ZARR: tuple[Mutant, ...] = (
    Mutant(
        "zarr-files-not-synced",
        ZARR,
        "            self.files.sync_files(self._dirty)\n",
        "",
        "rows are on the disk before a record speaks of them",
        (f"{POWER}[zarr]",),
    ),
    Mutant(
        "zarr-folders-not-synced",
        ZARR,
        "            self.files.sync_folders(self._folders)\n",
        "",
        "a new file of rows has its name on the disk before a record speaks of it",
        (f"{POWER}[zarr]",),
    ),
    Mutant(
        "zarr-segment-renamed-before-sync",
        ZARR,
        '        self.files.sync_file(name + ".new")\n        self.files.rename(name + ".new", name)\n',
        '        self.files.rename(name + ".new", name)\n',
        "a segment of the log is whole when it gets its name",
        (f"{POWER}[zarr]",),
    ),
    Mutant(
        "zarr-segment-name-not-synced",
        ZARR,
        "            self.files.sync_folder(folder)\n            del self._folders[folder]\n",
        "            del self._folders[folder]\n",
        "a segment of the log has its name on the disk before anything follows it",
        (f"{POWER}[zarr]",),
    ),
    Mutant(
        "zarr-log-of-killed-writer-not-synced",
        ZARR,
        "self._dirty[name] = None  # whole or cut",
        "pass  # whole or cut",
        "what a killed writer left in the log is on the disk before another goes on",
        ("test_power_loss.py::test_a_commit_that_a_writer_finds_is_on_the_disk_when_the_store_is_open",),
    ),
    Mutant(
        "zarr-folder-of-killed-writer-not-synced",
        ZARR,
        "            self._note_folders(os.path.dirname(file))\n            self._made.add(file)",
        "            self._made.add(file)",
        "the name of a file that a killed writer made is on the disk before another goes on",
        (f"{POWER_AGAIN}[zarr]",),
    ),
    Mutant(
        "zarr-fork-not-synced",
        ZARR,
        "                self.files.sync_file(copy)\n",
        "",
        "the copy that takes a file's place after a rollback is on the disk first",
        (f"{POWER}[zarr]",),
    ),
    Mutant(
        "zarr-index-checksum-not-compared",
        ZARR,
        'if len(data) != length + 4 or crc32c(data[:length]) != int.from_bytes(data[length:], "little"):',
        "if len(data) != length + 4:",
        "an index of a shard that has changed is noticed",
        ("test_damage.py::test_every_byte_of_an_index_of_a_shard_is_checked",),
    ),
    Mutant(
        "zarr-shard-dropped-too-early",
        ZARR,
        "if number is not None and (number + 1) * spec.shard_rows <= row:",
        "if number is not None and number * spec.shard_rows <= row:",
        "a ring keeps the shard that its oldest row lies in",
        (f"{SUITE}::test_a_ring_keeps_the_newest_steps",),
    ),
    Mutant(
        "zarr-index-of-full-shard-not-written",
        ZARR,
        "            if at + step == per_shard:\n                self.files.write(file, 0, raw_index(",
        "            if at + step > per_shard:\n                self.files.write(file, 0, raw_index(",
        "other software finds the chunks of a shard that is complete",
        ("test_foreign_readers.py::test_zarr_python_reads_shards_that_are_complete",),
    ),
    Mutant(
        "files-replaced-before-sync",
        STORAGE,
        '        self.sync_files([name + ".new" for name in contents])\n',
        "",
        "a file that is replaced has the old content or the new after a power cut",
        ("test_power_loss.py::test_what_was_replaced_stays_replaced",),
    ),
    Mutant(
        "files-replaced-without-folder-sync",
        STORAGE,
        "        self.sync_folders(dict.fromkeys(os.path.dirname(name) for name in contents))\n",
        "",
        "a file that is replaced has the new content for good when that is told",
        ("test_power_loss.py::test_what_was_replaced_stays_replaced",),
    ),
)

ON_HDF5: tuple[Mutant, ...] = (
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
        TRANSACTION,
        "if len(payload) < COUNT.size or google_crc32c.value(payload) != header.crc:",
        "if len(payload) < COUNT.size:",
        "a torn journal has not happened",
        (f"{HDF5_LOSS}[0]",),
    ),
    Mutant(
        "hdf5-checksum-of-straight-bytes-not-compared",
        TRANSACTION,
        "            elif self._checksum(offset, length) != crc:\n",
        "            elif not crc:\n",
        "a journal whose bytes in place are torn has not happened",
        (f"{HDF5_LOSS}[0]",),
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
        "Overlay(self._bytes, _show_end(pieces, block, end + GAP), pieces)",
        "Overlay(self._bytes, _show_end(pieces, block, end), pieces)",
        "bytes that are in use are never written again",
        ("test_hdf5_transactions.py::test_the_last_bytes_of_the_file_are_not_given_away",),
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

ON_THE_LOG: tuple[Mutant, ...] = (
    Mutant(
        "log-torn-record-accepted",
        "src/replaystore/containers/records.py",
        "        if extend(value(_LENGTH.pack(length)), payload) != checksum:\n",
        "        if not checksum:\n",
        "a record that is torn or damaged is no commit",
        ("test_damage.py::test_a_record_of_which_any_byte_has_changed_or_is_missing_is_no_commit",),
    ),
    Mutant(
        "log-order-of-commits-not-checked",
        "src/replaystore/arrays/record_checks.py",
        'bool(meta.get("base")) or meta["commit"] != state.commit + (not forked),',
        'bool(meta.get("base")),',
        "commits follow each other by number",
        ("test_damage.py::test_a_commit_that_is_missing_in_the_log_is_noticed",),
    ),
    Mutant(
        "log-segment-of-another-commit-accepted",
        READING,
        "        if state.base != segment:\n",
        "        if state.base < 0:\n",
        "a segment begins with the commit that its name says",
        ("test_damage.py::test_a_segment_of_the_log_begins_with_the_commit_that_it_is_named_after",),
    ),
    Mutant(
        "commit-record-before-its-rows",
        STORE,
        "self._sync(always=bool(self._new_arrays))",
        "pass",
        "a record is appended only when all that it speaks of is on the disk",
        (f"{POWER}[zarr]",),
    ),
    Mutant(
        "commit-record-not-synced",
        STORE,
        "            self.container.append_record(record)\n            self._sync()\n",
        "            self.container.append_record(record)\n",
        "a commit that was acknowledged is on the disk",
        (f"{POWER}[zarr]",),
    ),
    Mutant(
        "unsynced-arrays-not-synced",
        STORE,
        "self._sync(always=bool(self._new_arrays))",
        "self._sync()",
        "without durability an array that the log speaks of is on the disk all the same",
        ("test_unsynced.py::test_an_array_of_which_the_log_speaks_is_there",),
    ),
    Mutant(
        "unsynced-segment-not-synced",
        STORE,
        "_sync(always=True)\n            with self.state_lock:\n                state.tables |=",
        "_sync()\n            with self.state_lock:\n                state.tables |=",
        "without durability the rows of tables are on the disk before a segment begins that counts them",
        ("test_power_loss.py::test_without_durability_a_segment_begins_with_a_commit_that_is_there",),
    ),
    Mutant(
        "unsynced-close-without-a-segment",
        STORE,
        "if self.state.end > TIDY_BYTES or (not self.durable and self.state.commit > self.state.base):",
        "if self.state.end > TIDY_BYTES:",
        "without durability a closed store is opened without comparing its rows with its checksums",
        ("test_unsynced.py::test_a_closed_store_is_opened_without_comparing_its_rows",),
    ),
    Mutant(
        "unsynced-ring-drops-before-sync",
        STORE,
        "        if not self.durable and any(self._drops(group, row) for group, row in first.items()):\n",
        "        if not self.durable and not first:\n",
        "without durability rows go only when a commit that does without them is on the disk",
        ("test_unsynced.py::test_a_ring_syncs_before_it_drops",),
    ),
    Mutant(
        "rollback-forgets-what-was-given-up",
        STORE,
        "                state.dead = [*newest.dead, [commit + 1, newest.commit]]\n",
        "                state.dead = [*newest.dead, [newest.commit, newest.commit]]\n",
        "no commit that was rolled back can be opened",
        (f"{SUITE}::test_going_back_to_a_commit_gives_exactly_what_it_was",),
    ),
)

READ: tuple[Mutant, ...] = (
    Mutant(
        "coded-chunk-checksum-not-compared",
        "src/replaystore/columns/coded.py",
        "        if checksum is not None and self.codec.checksum(data) != checksum:\n",
        "        if checksum is not None and not len(data):\n",
        "a coded chunk that has changed is an error and no rows",
        ("test_coded_chunks.py::test_swapped_flipped_and_cut_chunks_are_found_and_named",),
    ),
    Mutant(
        "sampled-chunk-checksum-not-compared",
        "src/replaystore/containers/codecs.py",
        'payload == b"" or google_crc32c.value(payload) != known\n',
        'payload == b"" or not known\n',
        "sampling never shows a chunk that has changed",
        (
            "test_codecs_damage.py::test_of_several_chunks_those_that_are_wrong_are_told[places0-4000-gzip:1-zarr]",
        ),
    ),
    Mutant(
        "chunk-seal-not-compared",
        "src/replaystore/containers/codecs.py",
        "        if not checked and self.seal(payload) != stored[-TRAILER:].tobytes():\n",
        "        if not checked and not payload.size:\n",
        "the checksum that is stored with a chunk is compared where no other one is known",
        ("test_codecs_damage.py::test_any_flipped_bit_and_any_cut_is_found",),
    ),
    Mutant(
        "table-checksum-not-compared",
        READING,
        "        if rows and value(data) != checksum:\n",
        "        if rows and not data:\n",
        "a table that has changed is an error",
        ("test_damage.py::test_a_table_that_has_changed_is_an_error",),
    ),
    Mutant(
        "tail-checksum-not-compared",
        READING,
        "            if value(found) != piece.checksum or piece.start != at:\n",
        "            if piece.start != at:\n",
        "rows of an unfinished chunk that have changed are an error",
        ("test_damage.py::test_rows_of_an_unfinished_chunk_that_have_changed_are_not_shown",),
    ),
    Mutant(
        "generation-not-checked",
        READING,
        "        if found.generation != self.places.generation:\n",
        "        if found.generation < 0:\n",
        "a reader does not mix rows of two histories",
        (f"{HISTORIES}::test_rows_opened_after_a_rollback_are_not_taken_for_those_before",),
    ),
    Mutant(
        "other-store-not-noticed",
        READING,
        "        if found.store != self.state.store:\n            raise ConflictError",
        "        if not found.store:\n            raise ConflictError",
        "a reader does not go on with another store that has taken the name",
        (f"{HISTORIES}::test_a_reader_does_not_go_on_with_another_store",),
    ),
    Mutant(
        "refresh-always-says-that-it-moved",
        READING,
        "            self._attached.clear()\n        return self.state.commit != before\n",
        "            self._attached.clear()\n        return True\n",
        "refresh says whether there was another commit",
        ("test_model.py::TestMemory",),
    ),
    Mutant(
        "incomplete-copy-not-noticed",
        "src/replaystore/arrays/incomplete.py",
        "    if rest and store.raw_checksum(name, start, rows) != store.state.partial.get(name, 0):\n",
        "    if rest and store.raw_checksum(name, start, rows) < 0:\n",
        "a copy whose rows are older than its log is read as of an earlier commit",
        ("test_damage.py::test_room_that_was_made_for_rows_is_not_taken_for_them",),
    ),
)

ON_PLACES: tuple[Mutant, ...] = (
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
        "old-removed-before-the-new-has-its-name",
        OPENING,
        "        files.rename(name, old)\n        files.rename(new, name)\n",
        "        shutil.rmtree(files.path(name))\n        files.rename(new, name)\n",
        "under a name is the old store or the new one at every moment",
        (f"{KILLED}[create .zarr-renames]",),
    ),
    Mutant(
        "exchanged-by-removing",
        OPENING,
        "if not files.exchange(name + PARTIAL, name):",
        "if shutil.rmtree(place.path) or files.rename(name + PARTIAL, name):",
        "a folder is replaced in one step",
        (f"{KILLED}[create .zarr-exchange]",),
    ),
    Mutant(
        "new-name-not-synced",
        OPENING,
        '                    files.rename(name + PARTIAL, name)\n            files.sync_folder("")\n',
        "                    files.rename(name + PARTIAL, name)\n",
        "a store that was made has its name on the disk",
        ("test_power_loss.py::test_a_conversion_that_is_done_is_on_the_disk",),
    ),
    Mutant(
        "name-given-by-a-killed-process-not-synced",
        OPENING,
        '                Files(folder, writable=True).sync_folder("")\n        except BaseException:',
        "                Files(folder, writable=True)\n        except BaseException:",
        "a store that is written to has its name on the disk",
        ("test_power_loss.py::test_a_writer_syncs_the_name_that_a_killed_one_did_not",),
    ),
    Mutant(
        "interrupted-replacement-not-settled",
        OPENING,
        '            with refused(f"{left} cannot get its name back"):\n                _put_back(place)\n',
        '            with refused(f"{left} cannot get its name back"):\n                break\n',
        "who opens a store that was being replaced finds the old one or the new",
        (f"{KILLED}[create .zarr-renames]",),
    ),
)

ON_DERIVED: tuple[Mutant, ...] = (
    Mutant(
        "statistics-mean-of-the-wrong-weight",
        "src/replaystore/views/statistics.py",
        "        mean = self.mean + distance * (other.count / count)\n",
        "        mean = self.mean + distance * (self.count / count)\n",
        "the mean of two blocks weighs each by its rows",
        ("test_statistics.py",),
    ),
    Mutant(
        "statistics-spread-of-the-wrong-weight",
        "src/replaystore/views/statistics.py",
        "np.abs(distance) ** 2 * (self.count * other.count / count)",
        "np.abs(distance) ** 2 * (self.count / count)",
        "the spread of two blocks counts how far apart their means are",
        ("test_statistics.py",),
    ),
    Mutant(
        "statistics-largest-of-one-block",
        "src/replaystore/views/statistics.py",
        "else np.maximum(self.max, other.max)",
        "else self.max",
        "the largest value is that of all blocks",
        ("test_statistics.py",),
    ),
    Mutant(
        "sampling-beyond-the-last-part",
        "src/replaystore/sampling/orders.py",
        "        last = np.flatnonzero(following == self.stop[part])\n",
        "        last = np.flatnonzero(following > self.stop[part])\n",
        "the observation after the last step of a part is its trajectory's, not that of the next row",
        ("test_sampling.py::test_any_buffer_is_sampled_as_a_plain_loop_says",),
    ),
    Mutant(
        "sampling-one-step-too-many",
        "src/replaystore/sampling/orders.py",
        "        return self._end[drawn.part] - drawn.rows\n",
        "        return self._end[drawn.part] - drawn.rows + 1\n",
        "n-step returns end with the trajectory",
        ("test_sampling.py::test_any_buffer_is_sampled_as_a_plain_loop_says",),
    ),
    Mutant(
        "sampling-stack-begins-too-early",
        "src/replaystore/sampling/batches.py",
        "cut = np.flatnonzero((rows - depth + 1 < steps.start[part])",
        "cut = np.flatnonzero((rows - depth + 2 < steps.start[part])",
        "a stack shows no frame of the trajectory before",
        ("test_sampling.py::test_any_buffer_is_sampled_as_a_plain_loop_says",),
    ),
    Mutant(
        "sampling-discount-after-the-end",
        "src/replaystore/sampling/batches.py",
        'batch["discount"] = self.recipe.gamma**used * ~terminated[item, used - 1]',
        'batch["discount"] = self.recipe.gamma**used',
        "nothing follows a terminated step",
        ("test_sampling.py::test_any_buffer_is_sampled_as_a_plain_loop_says",),
    ),
    Mutant(
        "weighted-draws-from-old-sums",
        "src/replaystore/sampling/weights.py",
        "node).min(axis=0)\n        self._top = None\n",
        "node).min(axis=0)\n",
        "weights that were changed count for the next draw",
        ("test_sampling_weights.py::test_weights_can_be_changed",),
    ),
    Mutant(
        "writer-interrupted-while-staging",
        "src/replaystore/buffers/writer.py",
        "            # one.\n            self._like = None",
        "            # one.",
        "a step that is interrupted while it is staged is recorded or not",
        ("test_interrupts.py::test_a_step_that_is_interrupted_while_it_is_staged_is_recorded_or_not",),
    ),
    Mutant(
        "writer-mask-not-copied",
        "src/replaystore/buffers/writer.py",
        "            mask = mask.copy()\n",
        "            pass\n",
        "a writer keeps nothing of what it is given",
        ("test_writer_schemas.py::test_a_writer_keeps_nothing_of_the_arrays_that_it_is_given",),
    ),
    Mutant(
        "interrupted-operation-believed",
        "src/replaystore/interrupts.py",
        "        ours = kind is None or issubclass(kind, ReplayStoreError)\n",
        "        ours = kind is None or issubclass(kind, BaseException)\n",
        "after an interrupt a buffer shows its last commit, and says so",
        ("test_interrupts.py::test_after_an_interrupt_the_last_commit_is_shown_and_the_buffer_says_so",),
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

ON_COPIES: tuple[Mutant, ...] = (
    Mutant(
        "conversion-raw-chunk-not-compared",
        COPYING,
        "                if wrong or crc32c(data[place : place + spec.chunk_bytes]) != expected[chunk]:\n",
        "                if wrong:\n",
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
    Mutant(
        "verify-says-nothing-of-changed-rows",
        VERIFYING,
        "                if found != int(checksums[chunk]):\n",
        "                if found < 0:\n",
        "verify reports rows that have changed",
        ("test_repairing.py::test_rows_that_have_changed_are_given_up_with_what_follows_them",),
    ),
    Mutant(
        "verify-says-nothing-of-the-end-of-the-log",
        VERIFYING,
        '            if rest.strip(b"\\0"):\n',
        "            if rest is None:\n",
        "verify reports the record of a commit that is damaged",
        ("test_damage.py::test_a_damaged_last_record_of_the_log_is_reported",),
    ),
    Mutant(
        "verify-says-nothing-of-flags",
        VERIFYING,
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
    Mutant(
        "archive-manifest-before-removal-is-synced",
        ZARR,
        'self.files.sync_folders([f"{LOG}/c", os.path.dirname(TAIL)])',
        "pass",
        "what sealing removes is gone for good before the manifest is written",
        (
            "test_sealing_damage.py::test_what_sealing_removes_is_gone_for_good_before_the_manifest_is_written",
        ),
    ),
    Mutant(
        "archive-sidecar-of-bytes-that-are-not-synced",
        SEALING,
        "files.sync_file(name)  # HDF5's last marker",
        "pass  # HDF5's last marker",
        "a sidecar is of bytes that are on the disk",
        ("test_sealing_damage.py::test_a_sidecar_is_of_bytes_that_are_on_the_disk_and_of_no_other_store",),
    ),
    Mutant(
        "archive-sidecar-of-the-store-before",
        SEALING,
        "sync_folder(os.path.dirname(sidecar))",
        "pass",
        "a sidecar is of no other store",
        ("test_sealing_damage.py::test_a_sidecar_is_of_bytes_that_are_on_the_disk_and_of_no_other_store",),
    ),
    Mutant(
        "archive-metadata-not-compared",
        SEALING,
        "elif _digest(files, name) != digest:",
        "elif not digest:",
        "a file of an archive that has changed is noticed",
        ("test_sealing_damage.py::test_whichever_file_is_damaged_values_are_right_or_it_is_said",),
    ),
    Mutant(
        "zip-not-synced",
        "src/replaystore/storage/zip.py",
        "            new.sync()\n",
        "",
        "a zip file is whole on the disk when it gets its name",
        ("test_zip.py::test_a_zip_is_on_the_disk_when_it_gets_its_name_and_its_name_is_when_that_is_told",),
    ),
    Mutant(
        "zip-member-reaches-into-the-next",
        "src/replaystore/storage/zip.py",
        "        if begin + member.size > member.stop:\n",
        "        if begin < 0:\n",
        "members of a zip share no bytes",
        ("test_zip.py::test_a_header_that_says_something_else_is_refused",),
    ),
    Mutant(
        "zip-members-not-aligned",
        "src/replaystore/storage/zip.py",
        "(_ZIP64 if large else 0) + 6\n",
        "(_ZIP64 if large else 0)\n",
        "the bytes of each member begin on a page",
        ("test_zip.py::test_every_member_begins_on_a_page_and_other_software_reads_it",),
    ),
)

ON_DROP_INS: tuple[Mutant, ...] = (
    Mutant(
        "ring-in-memory-keeps-the-first-rows",
        "src/replaystore/compat/ring.py",
        "        places = self.places(self.position + count - kept, kept)\n",
        "        places = self.places(self.position, kept)\n",
        "of more rows than there are places, each goes where it would have gone alone",
        ("test_compat_velora.py::test_the_same_operations_give_the_same_state_as_veloras_own",),
    ),
    Mutant(
        "ring-in-a-store-off-by-one",
        "src/replaystore/compat/stored.py",
        "        return (self.view.position + self._waiting) % self.capacity\n",
        "        return (self.view.position + self._waiting + 1) % self.capacity\n",
        "a buffer in a store goes on as one in memory does",
        (
            "test_compat_velora_stores.py::test_a_buffer_in_a_store_goes_on_as_one_in_memory",
            "test_compat_active_rlhf.py::test_a_buffer_in_a_store_goes_on_as_one_in_memory",
        ),
    ),
    Mutant(
        "ring-change-not-noticed",
        "src/replaystore/compat/ring.py",
        "            self.changes += 1\n            self._look()\n",
        "            self._look()\n",
        "a change behind a buffer's back reaches what it is saved to",
        ("test_compat_velora.py::test_a_change_behind_the_buffers_back_is_noticed_between_any_rows",),
    ),
    Mutant(
        "ring-edit-lost",
        "src/replaystore/compat/stored.py",
        "        rows[found] = self.values[at[found]]\n",
        "        rows[found] = rows[found]\n",
        "what is set in a field of a lazy buffer is read from it",
        ("test_compat_active_rlhf_lazy.py::test_what_is_set_in_a_lazy_tensor_reaches_the_store",),
    ),
)

MUTANTS: tuple[Mutant, ...] = (
    *ON_ZARR,
    *ON_HDF5,
    *ON_THE_LOG,
    *READ,
    *ON_PLACES,
    *ON_DERIVED,
    *ON_COPIES,
    *ON_DROP_INS,
)
