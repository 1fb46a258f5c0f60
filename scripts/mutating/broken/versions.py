"""Versions of the stored form: what is read, kept, hidden and refused."""

from __future__ import annotations

from mutant import Mutant

__all__ = ["MUTANTS"]

DOCUMENT, NEEDS = "src/replaystore/schema/document.py", "src/replaystore/schema/needs.py"
STORES, CHECKS = "src/replaystore/converting/stores.py", "src/replaystore/arrays/record_checks.py"
TESTS = "test_versions.py::"
KEPT = (TESTS + "test_a_newer_minor_version_is_read_written_and_kept",)
CONVERTED = (TESTS + "test_a_conversion_says_what_it_does_not_take_and_keeps_what_other_software_has",)
HIDDEN = (TESTS + "test_a_field_that_needs_an_unknown_word_is_hidden_and_not_lost",)
RECORDS = (TESTS + "test_a_later_record_is_read_whatever_keys_it_has_and_more_needs_a_dot_or_a_colon",)

MUTANTS: tuple[Mutant, ...] = (
    Mutant(
        "versions-newer-major-read",
        DOCUMENT,
        "    if major > _MAJOR:\n",
        "    if major > _MAJOR + 1:\n",
        "a newer major version is refused by its number",
        (TESTS + "test_a_newer_major_version_is_refused_in_words",),
    ),
    Mutant(
        "versions-keys-of-a-newer-minor-lost",
        DOCUMENT,
        "and_kept(beside(self, lambda _: True), ",
        "and_kept(beside(self, is_foreign), ",
        "a document that is changed keeps what a newer minor version has in its sections",
        KEPT,
    ),
    Mutant(
        "versions-keys-of-a-newer-minor-converted",
        STORES,
        "given = documents.to_plain(known.layout.overrides, whole=False)\n",
        "given = documents.to_plain(known.layout.overrides)\n",
        "a conversion has a document of its own version",
        CONVERTED,
    ),
    Mutant(
        "versions-unknown-arrays-not-told-of",
        STORES,
        "        if unknown:\n",
        "        if unknown and self.moved:\n",
        "a conversion says which arrays it does not take",
        CONVERTED,
    ),
    Mutant(
        "versions-needs-of-writers-not-asked",
        NEEDS,
        '    unknown = [("it", word, "") for word in needs if word not in KNOWN]\n',
        '    unknown = [("it", word, "") for word in needs if word in KNOWN]\n',
        "who does not know what writers have to know does not write",
        (TESTS + "test_what_a_writer_has_to_know_is_said_and_readers_need_not",),
    ),
    Mutant(
        "versions-field-of-tomorrow-shown",
        NEEDS,
        "    return {name: words[0] for name, words in unknown.items() if words}\n",
        "    return {name: words[1] for name, words in unknown.items() if len(words) > 1}\n",
        "a field that needs an unknown word is hidden",
        HIDDEN,
    ),
    Mutant(
        "versions-hidden-field-lost-by-conversion",
        "src/replaystore/converting/convert.py",
        "    if name is not None and selected.fields is None:\n",
        "    if name is not None and selected.split is not None:\n",
        "a conversion of all does not lose a field that cannot be shown",
        HIDDEN,
    ),
    Mutant(
        "versions-more-not-in-a-base-record",
        "src/replaystore/arrays/state.py",
        "        if self.more:\n",
        "        if self.more and self.dropped:\n",
        "what writers that know more keep is carried into the next segment of the log",
        KEPT,
    ),
    Mutant(
        "versions-more-lost-by-a-rollback",
        "src/replaystore/arrays/rollback.py",
        "state.mutable, state.more = old.state.mutable, (old.state if lost else newest).more\n",
        "state.mutable, state.more = old.state.mutable, {}\n",
        "what writers that know more keep stays at a rollback",
        KEPT,
    ),
    Mutant(
        "versions-unknown-arrays-trimmed",
        "src/replaystore/arrays/recovery.py",
        "for name in self.state.arrays if not tree.is_journal(name)}\n        )\n",
        "for name in self.state.arrays if not (tree.is_journal(name) or tree.is_unknown(name))}\n        )\n",
        "arrays that are not known stay where they are",
        KEPT,
    ),
    Mutant(
        "versions-unknown-blob-read",
        CHECKS,
        'any(name.partition(":")[0] not in KINDS for name in blobs)',
        "any(not name for name in blobs)",
        "a record with bytes of no known kind is refused",
        RECORDS,
    ),
    Mutant(
        "versions-more-without-a-dot",
        CHECKS,
        'not all("." in key or ":" in key for key in more)',
        "not all(more)",
        "names in `more` have a dot or a colon",
        RECORDS,
    ),
)
