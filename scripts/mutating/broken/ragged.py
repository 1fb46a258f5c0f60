"""Fields of any length: where their values lie, what is read of them, and what leaves with the steps."""

from __future__ import annotations

from mutant import Mutant

__all__ = ["MUTANTS"]

VALUES = "src/replaystore/columns/values.py"
PLACING = "src/replaystore/buffers/placing.py"
DROPPING = "src/replaystore/arrays/dropping.py"
CHECKING = "src/replaystore/checking/values.py"
NOT_THERE = ("test_ragged_values.py::test_what_is_not_there_is_not_read",)
RING = ("test_ragged_values.py::test_a_ring_takes_what_its_steps_take",)
INSIDE = ("test_ragged_values.py::test_values_that_lie_in_each_other_are_refused_where_they_are_much",)
GROUPS = ("test_values_groups.py::test_values_go_with_rows",)
LATE = ("test_values_groups.py::test_values_of_a_late_field_leave_though_a_name_is_older",)

MUTANTS: tuple[Mutant, ...] = (
    Mutant(
        "values-before-the-first",
        VALUES,
        "        if begins.min() < first or ends.max()",
        "        if ends.max()",
        "no value is read that has left the ring",
        NOT_THERE,
    ),
    Mutant(
        "values-behind-the-last",
        VALUES,
        " or ends.max() > stop or (ends",
        " or (ends",
        "no value is read that the commit has not",
        NOT_THERE,
    ),
    Mutant(
        "values-backwards",
        VALUES,
        " or ends.max() > stop or (ends < begins).any():",
        " or ends.max() > stop:",
        "a value does not end before it begins",
        NOT_THERE,
    ),
    Mutant(
        "values-in-each-other",
        VALUES,
        "            if (several[1:, 0] < several[:-1, 1]).any():",
        "            if False:",
        "a stranger's store cannot make one value stand for many",
        INSIDE,
    ),
    Mutant(
        "values-too-large",
        VALUES,
        "        if longest * width > MOST_BYTES:",
        "        if False:",
        "a value has at most so many bytes",
        INSIDE,
    ),
    Mutant(
        "values-leave-too-late",
        DROPPING,
        "    for name in names if row is not None else ():",
        "    for name in ():",
        "values leave a ring with their steps",
        RING,
    ),
    Mutant(
        "values-leave-too-early",
        DROPPING,
        'row, row + 1), "<i8")[0])',
        'row, row + 1), "<i8")[1])',
        "values are there as long as their steps",
        RING,
    ),
    Mutant(
        "a-name-from-before-a-field-keeps-its-values",
        "src/replaystore/arrays/state.py",
        "    return first.get(group, unknown if tree.is_values(group) else 0)",
        "    return first.get(group, 0)",
        "a commit keeps what it shows, and no values of a field that it has not",
        LATE,
    ),
    Mutant(
        "dropped-values-of-no-field",
        "src/replaystore/arrays/rollback.py",
        "        return group in state.lengths or not tree.is_values(group)",
        "        return True",
        "a rollback to before a field leaves a store that opens",
        LATE,
    ),
    Mutant(
        "values-begin-anew",
        "src/replaystore/arrays/appending.py",
        "                if name == group or name.startswith(prefix):",
        "                if name.startswith(prefix):",
        "values are appended to those that there are",
        ("test_ragged_places.py::test_what_follows_is_written_once_if_it_is_the_next_step",),
    ),
    Mutant(
        "no-values-written",
        "src/replaystore/arrays/appending.py",
        "                if number:  # of values there may be none",
        "                if True:",
        "there may be no values among those that are appended",
        GROUPS,
    ),
    Mutant(
        "taken-over-unseen",
        PLACING,
        "            if known is None or not _equal(known, _value(rows, place)):",
        "            if known is None:",
        "a step has the place of what was said to precede it only if it is that, bit for bit",
        ("test_ragged_places.py::test_a_value_that_differs_by_a_bit_is_not_taken_over",),
    ),
    Mutant(
        "taken-over-from-behind",
        PLACING,
        "            known = None if begin < before else self.value(name, span)",
        "            known = self.value(name, span)",
        "values lie in the order of steps",
        ("test_ragged_places.py::test_what_follows_is_written_again_if_it_lies_before_the_newest_step",),
    ),
    Mutant(
        "what-follows-forgotten",
        PLACING,
        "                elif len(inside):",
        "                elif False:",
        "what was said to follow is known until the next step",
        ("test_ragged_places.py::test_what_follows_is_known_however_much_is_appended_meanwhile",),
    ),
    Mutant(
        "a-reset-makes-a-commit",
        "src/replaystore/buffers/adding.py",
        "            self._changed = self._changed or count > 0",
        "            self._changed = True",
        "a reset alone is nothing to commit",
        ("test_ragged_cuts.py::test_a_reset_alone_is_nothing_to_commit",),
    ),
    Mutant(
        "next-values-of-the-same-step",
        "src/replaystore/views/column.py",
        "            places = np.minimum(np.arange(1, len(rows) + 1), last)",
        "            places = np.arange(len(rows))",
        "the next observation is that of the next step",
        ("test_ragged_places.py::test_many_trajectories_in_one_append",),
    ),
    Mutant(
        "texts-not-looked-at",
        CHECKING,
        "    if declared.text:",
        "    if False:",
        "verify says which text is none",
        ("test_ragged_places.py::test_a_text_that_is_damaged_is_told",),
    ),
    Mutant(
        "places-not-looked-at",
        CHECKING,
        "        if wrong is not None:\n            begin, after",
        "        if False:\n            begin, after",
        "verify says of which step the values cannot be where they are said to be",
        ("test_ragged_places.py::test_places_that_cannot_be_are_told_and_nothing_is_read_there",),
    ),
    Mutant(
        "one-id-for-all",
        "src/replaystore/schema/document.py",
        '"id": uuid.uuid4().hex,',
        '"id": "0" * 32,',
        "each store has an id of its own",
        ("test_ragged_fields.py::test_each_document_has_an_id_of_its_own",),
    ),
    Mutant(
        "document-of-another-store",
        "src/replaystore/checking/verify.py",
        "    if store.state.store != document.id:",
        "    if False:",
        "verify says that a document is that of another store",
        ("test_ragged_fields.py::test_verify_says_that_a_document_is_that_of_another_store",),
    ),
    Mutant(
        "needs-not-asked",
        "src/replaystore/schema/needs.py",
        "[word for word in words if word not in KNOWN]",
        "[word for word in words if word in KNOWN]",
        "a field that needs what is not known is left out",
        ("test_ragged_fields.py::test_a_field_that_needs_what_is_not_known_is_left_out",),
    ),
    Mutant(
        "written-without-a-field",
        "src/replaystore/schema/needs.py",
        " for name, word in unseen.items()]",
        " for name, word in ()]",
        "who does not know all fields of a store does not write to it",
        ("test_ragged_fields.py::test_who_does_not_know_all_fields_reads_the_others_and_does_not_write",),
    ),
)
