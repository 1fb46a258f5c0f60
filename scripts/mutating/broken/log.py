"""The log of commits, what has to be on the disk before a record, and going back."""

from __future__ import annotations

from mutant import Mutant

__all__ = ["MUTANTS"]

ROLLBACK = "src/replaystore/arrays/rollback.py"
COMMITTING = "src/replaystore/arrays/committing.py"
STORE = "src/replaystore/arrays/array_store.py"
HISTORY = "src/replaystore/arrays/history.py"
POWER = "test_power_loss.py::test_no_power_cut_loses_what_was_acknowledged"
SUITE = "test_backends.py::TestBackends"

MUTANTS: tuple[Mutant, ...] = (
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
        "src/replaystore/arrays/differences.py",
        "if commit != before.commit + 1 or type(ms) is not int:",
        "if type(ms) is not int:",
        "commits follow each other by number",
        ("test_damage.py::test_a_commit_that_is_missing_in_the_log_is_noticed",),
    ),
    Mutant(
        "log-segment-of-another-commit-accepted",
        HISTORY,
        "        if state.base != segment:\n",
        "        if state.base < 0:\n",
        "a segment begins with the commit that its name says",
        ("test_damage.py::test_a_segment_of_the_log_begins_with_the_commit_that_it_is_named_after",),
    ),
    Mutant(
        "log-segments-removed-with-named-commits",
        "src/replaystore/arrays/retention.py",
        "            self.container.replace_segments(kept, removed)\n",
        "            self.container.replace_segments({}, removed)\n",
        "a segment of the log goes when its named commits have records of their own",
        (
            "test_kept_commits_crashes.py::test_a_writer_that_stops_while_it_removes_segments_loses_no_name[zarr]",
        ),
    ),
    Mutant(
        "log-records-of-named-commits-not-synced",
        "src/replaystore/containers/zarr/log.py",
        '        self.files.sync_files([name + ".new" for name in names])\n',
        "        pass\n",
        "the record of a named commit is on the disk before the segment that it was in goes",
        ("test_names_campaigns.py::test_names_outlive[power_model]",),
    ),
    Mutant(
        "log-tables-of-a-commit-cut-silently",
        "src/replaystore/arrays/past.py",
        "if tree.has_first(group) or not left})",
        "})",
        "a commit of which rows have left a ring shows all rows of a table, or an error",
        ("test_zarr_store_live.py::test_a_commit_that_left_a_ring_shows_whole_tables_or_none",),
    ),
    Mutant(
        "commit-record-before-its-rows",
        COMMITTING,
        "self._sync(always=bool(self._new_arrays))",
        "pass",
        "a record is appended only when all that it speaks of is on the disk",
        (f"{POWER}[zarr]",),
    ),
    Mutant(
        "commit-record-not-synced",
        COMMITTING,
        "            self.container.append_record(record)\n            self._sync()\n",
        "            self.container.append_record(record)\n",
        "a commit that was acknowledged is on the disk",
        (f"{POWER}[zarr]",),
    ),
    Mutant(
        "unsynced-arrays-not-synced",
        COMMITTING,
        "self._sync(always=bool(self._new_arrays))",
        "self._sync()",
        "without durability an array that the log speaks of is on the disk all the same",
        ("test_unsynced.py::test_an_array_of_which_the_log_speaks_is_there",),
    ),
    Mutant(
        "unsynced-segment-not-synced",
        COMMITTING,
        "_sync(always=True)\n            with self.state_lock:\n                state.tables |=",
        "_sync()\n            with self.state_lock:\n                state.tables |=",
        "without durability the rows of tables are on the disk before a segment begins that counts them",
        ("test_power_loss.py::test_without_durability_a_segment_begins_with_a_commit_that_is_there",),
    ),
    Mutant(
        "unsynced-close-without-a-segment",
        COMMITTING,
        "if self.state.end > TIDY_BYTES or (not self.durable and self.state.commit > self.state.base):",
        "if self.state.end > TIDY_BYTES:",
        "without durability a closed store is opened without comparing its rows with its checksums",
        ("test_unsynced.py::test_a_closed_store_is_opened_without_comparing_its_rows",),
    ),
    Mutant(
        "unsynced-ring-drops-before-sync",
        COMMITTING,
        "            self._sync_commit()  # which does without these rows\n",
        "            pass\n",
        "without durability rows go only when a commit that does without them is on the disk",
        ("test_unsynced.py::test_a_ring_syncs_before_it_drops",),
    ),
    Mutant(
        "unsynced-forgets-what-was-synced",
        "src/replaystore/arrays/incomplete.py",
        "    base = max(synced, default=base)\n",
        "    base = min(synced, default=base)\n",
        "after a power cut, the newest commit that was synced is shown at least",
        ("test_unsynced.py::test_what_a_ring_lost_since_it_dropped_rows_is_not_shown[zstd:1]",),
    ),
    Mutant(
        "unsynced-ring-does-not-go-back",
        "src/replaystore/arrays/array_store.py",
        "store.rollback(back_to, whole=whole, lost=True)",
        "store.rollback(back_to, lost=True)",
        "after a power cut, a ring opens as of a commit whose rows newer ones do without",
        ("test_unsynced.py::test_what_a_ring_lost_since_it_dropped_rows_is_not_shown[raw]",),
    ),
    Mutant(
        "rollback-forgets-what-was-given-up",
        ROLLBACK,
        "                state.dead = [*newest.dead, [commit + 1, newest.commit]]\n",
        "                state.dead = [*newest.dead, [newest.commit, newest.commit]]\n",
        "no commit that was rolled back can be opened",
        (f"{SUITE}::test_going_back_to_a_commit_gives_exactly_what_it_was",),
    ),
    Mutant(
        "log-of-hdf5-in-space-that-is-in-use",
        "src/replaystore/containers/hdf5/log.py",
        "_rounded(len(record)), record, free)",
        "_rounded(len(record)), record, free_pieces(owner))",
        "segments that are replaced are there until others are in their place",
        ("test_hdf5_log.py::test_older_segments_are_there_until_others_are_in_their_place",),
    ),
    Mutant(
        "log-name-of-a-commit-that-is-not-on-the-disk",
        "src/replaystore/buffers/create_open.py",
        "        elif not synced:  # names",
        "        elif synced is None:  # names",
        "a name is that of the newest commit that is there",
        ("test_unsynced.py::test_a_name_is_that_of_the_newest_commit_which_is_there[raw.zarr]",),
    ),
    Mutant(
        "sampler-shows-fields-that-are-gone",
        "src/replaystore/sampling/refreshing.py",
        "        if gone:\n",
        "        if len(gone) > 99:\n",
        "a sampler of a field that a rollback has taken says so",
        ("test_live_sampling.py::test_a_field_that_a_rollback_takes_is_told",),
    ),
    Mutant(
        "log-rows-of-a-killed-writer-not-synced",
        "src/replaystore/arrays/array_store.py",
        "                store.doubt_what_was_left()\n",
        "                pass\n",
        "what a killed writer did not sync is synced by the next",
        ("test_unsynced.py::test_what_a_killed_writer_did_not_sync_is_synced_by_the_next[coded.zarr]",),
    ),
    Mutant(
        "log-only-the-first-shard-of-a-killed-writer-synced",
        "src/replaystore/containers/zarr/container.py",
        "number >= row // spec.shard_rows:\n                    self._touch",
        "number == row // spec.shard_rows:\n                    self._touch",
        "what a killed writer of a ring did not sync is synced by the next, whatever has been dropped",
        ("test_unsynced.py::test_what_a_killed_writer_of_a_ring_did_not_sync_is_synced_by_the_next[raw]",),
    ),
    Mutant(
        "log-segment-that-is-removed-while-followed",
        "src/replaystore/arrays/history.py",
        "if self._look()[1][-1:] == segments[-1:]:",
        "if self._look()[1]:",
        "a reader goes on when the segment that it was in is removed",
        ("test_far_pruned.py::test_whichever_request_segments_are_removed_before[followed-a.zarr]",),
    ),
    Mutant(
        "log-newest-segment-that-was-removed-taken-for-one-without-its-name",
        "src/replaystore/containers/zarr/named_log.py",
        "            if named == before:\n",
        "            if named:\n",
        "a reader shows no older commit when segments are removed",
        ("test_far_pruned.py::test_whichever_request_segments_are_removed_before[listed-a.zarr]",),
    ),
    Mutant(
        "log-names-that-were-taken-back-stay",
        "src/replaystore/arrays/state.py",
        '        self.names.pop(meta.get("forget", ""), None)\n',
        "",
        "a name that was taken back is that of no commit",
        ("test_forgotten_names.py::test_a_name_that_was_taken_back_is_that_of_no_commit",),
    ),
)
