"""Reading: checksums that are compared, and stores that have moved on."""

from __future__ import annotations

from mutant import Mutant

__all__ = ["MUTANTS"]

FETCHING = "src/replaystore/columns/checked_chunks.py"
HISTORY = "src/replaystore/arrays/history.py"
READING = "src/replaystore/arrays/reading.py"
HISTORIES = "test_other_histories.py"
FAR_HISTORIES = (
    "test_far_histories.py::test_rows_are_of_one_history_whichever_request_a_writer_goes_back_before"
)

MUTANTS: tuple[Mutant, ...] = (
    Mutant(
        "coded-chunk-checksum-not-compared",
        FETCHING,
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
            "test_codecs_damage.py::test_of_several_chunks_those_that_are_wrong_are_told[f4-places0-4000-gzip:1-zarr]",
        ),
    ),
    Mutant(
        "checksum-of-chunk-apart-not-compared",
        "src/replaystore/containers/codecs.py",
        "        if not payload.size or google_crc32c.value(payload) != checksum:\n",
        "        if not payload.size or not checksum:\n",
        "rows are taken from no chunk that has changed",
        ("test_codecs_damage.py::test_chunks_apart_are_compared_with_their_checksums",),
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
        "    if rows > first and value(data) != checksum:\n",
        "    if rows > first and not data:\n",
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
        HISTORY,
        "        if found.generation != generation:\n",
        "        if found.generation < 0:\n",
        "a reader does not mix rows of two histories",
        (f"{HISTORIES}::test_rows_opened_after_a_rollback_are_not_taken_for_those_before",),
    ),
    Mutant(
        "far-rows-not-checked",
        "src/replaystore/arrays/columns_of.py",
        "    if store.state.extra.get(SEALED) is not True:\n        store.check_generation()\n",
        "",
        "of raw rows from far it is asked afterwards whether the store has gone back",
        (f"{FAR_HISTORIES}[zarr-a_slice]", f"{FAR_HISTORIES}[h5-several_fields]"),
    ),
    Mutant(
        "far-rows-of-one-column-not-checked",
        "src/replaystore/columns/plain.py",
        "                elif self.files.far:\n                    self.check()\n",
        "",
        "of rows of a single column, too",
        (f"{FAR_HISTORIES}[h5-one_field]",),
    ),
    Mutant(
        "other-store-not-noticed",
        HISTORY,
        "        if found.store == self.state.store:\n",
        "        if found.store:\n",
        "a reader does not go on with another store that has taken the name",
        (f"{HISTORIES}::test_a_reader_does_not_go_on_with_another_store",),
    ),
    Mutant(
        "refresh-always-says-that-it-moved",
        HISTORY,
        "            self._forget_tails()\n        return self.state.commit != before\n",
        "            self._forget_tails()\n        return True\n",
        "refresh says whether there was another commit",
        ("test_far_costs.py::test_a_live_store_is_opened_in_three_rounds",),
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
