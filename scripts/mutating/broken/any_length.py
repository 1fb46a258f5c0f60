"""Values of any length: in memory, on their way through writers, and of Gymnasium."""

from __future__ import annotations

from mutant import Mutant

__all__ = ["MUTANTS"]


MUTANTS: tuple[Mutant, ...] = (
    Mutant(
        "blocks-of-so-many-steps",
        "src/replaystore/views/blocks.py",
        "        for begin, end in _cut(widths.of(block), most):\n            yield block[begin:end]",
        "        yield block",
        "values of any length are shown in blocks of bytes",
        ("test_cli_show_texts.py", "test_blocks_of_bytes.py"),
    ),
    Mutant(
        "ragged-rows-for-tensors",
        "src/replaystore/compat/stored.py",
        "        check_flat(self.buffer)\n",
        "",
        "where values lie is no observation",
        ("test_compat_ragged.py::test_a_store_of_them_is_refused",),
    ),
    Mutant(
        "ragged-files-without-observations",
        "src/replaystore/converting/exports.py",
        "if bare or names == ():",
        "if names == ():",
        "no file is written without all observations",
        ("test_formats_ragged.py::test_nothing_is_written_without_any_observations_or_actions",),
    ),
    Mutant(
        "values-of-a-field-uncounted",
        "src/replaystore/views/describing.py",
        "        plain += values * spec.row_bytes\n",
        "",
        "what a field takes counts its values",
        ("test_ragged_described.py::test_values_are_counted",),
    ),
    Mutant(
        "text-decoded-with-replacements",
        "src/replaystore/schema/ragged.py",
        'return str(on_host(value).tobytes(), "utf-8")',
        'return str(on_host(value).tobytes(), "utf-8", "replace")',
        "what is no text is told, and not shown as one",
        ("test_ragged.py::TestTexts::test_what_is_no_text_is_told",),
    ),
    Mutant(
        "text-with-half-a-character",
        "src/replaystore/schema/values.py",
        'return np.frombuffer(value.encode("utf-8"), np.uint8)',
        'return np.frombuffer(value.encode("utf-8", "surrogatepass"), np.uint8)',
        "texts are UTF-8",
        ("test_given_ragged.py::test_what_is_refused",),
    ),
    Mutant(
        "text-cut-in-a-character",
        "src/replaystore/schema/ragged_forms.py",
        "(rests,) = (values[offsets[filled]] & 0xC0 == 0x80).nonzero()",
        "(rests,) = (values[offsets[filled]] & 0xC0 == 0xFF).nonzero()",
        "each text is UTF-8 by itself",
        ("test_given_ragged.py::TestTexts::test_the_first_that_is_none_is_named",),
    ),
    Mutant(
        "arrays-in-a-tuple-rounded",
        "src/replaystore/schema/values.py",
        "if stored is None and type(value) in _WITHOUT_DTYPE and not _has_dtype(value):",
        "if stored is None and type(value) in _WITHOUT_DTYPE:",
        "values of arrays are stored exactly",
        ("test_given_ragged.py::test_values_are_rounded_as_those_of_other_fields",),
    ),
    Mutant(
        "padding-at-the-other-side",
        "src/replaystore/schema/ragged_forms.py",
        'mask = places < lengths[..., None] if side == "end" else places',
        'mask = places < lengths[..., None] if side == "start" else places',
        "values are padded at the side that is asked for",
        ("test_ragged.py::TestAsAList::test_padded",),
    ),
    Mutant(
        "pool-keeps-what-it-is-given",
        "src/replaystore/buffers/pool.py",
        "ragged.compact().map(np.copy)",
        "ragged.compact()",
        "a writer keeps nothing of what it is given",
        ("test_ragged_writer.py::test_a_pool_keeps_copies_and_gives_them_in_any_order",),
    ),
    Mutant(
        "pool-without-bounds",
        "src/replaystore/buffers/staging.py",
        "        if self.pool.bytes >= STAGE_BYTES:\n",
        "        if self.pool.bytes < 0:\n",
        "what a writer stages is bounded",
        ("test_ragged_writer.py::test_what_is_staged_is_bounded_by_its_bytes",),
    ),
    Mutant(
        "observation-written-twice",
        "src/replaystore/buffers/handing_over.py",
        "plan = self._recorder.plan(columns, count, finals, followed, taken)",
        "plan = self._recorder.plan(columns, count, finals, followed)",
        "an observation that follows a step is written once",
        ("test_ragged_writer.py::test_an_observation_is_written_once",),
    ),
    Mutant(
        "following-of-another-environment",
        "src/replaystore/buffers/handing_over.py",
        "plan.following[name] = following[name][np.sort(touched)]",
        "plan.following[name] = following[name][touched]",
        "what follows a step is what its environment gave",
        ("test_ragged_writer.py::test_values_lie_where_their_numbers_lie",),
    ),
    Mutant(
        "texts-of-shared-memory",
        "src/replaystore/gymnasium/fitting.py",
        "shared = isinstance(base, AsyncVectorEnv) and base.shared_memory",
        "shared = isinstance(base, AsyncVectorEnv) and not base.shared_memory",
        "observations that Gymnasium does not bring are not recorded",
        ("test_gymnasium_ragged.py::test_texts_in_shared_memory_are_refused",),
    ),
    Mutant(
        "late-observations-without-final-ones",
        "src/replaystore/views/layout.py",
        "capacity=capacity, storage=storage) | finals\n",
        "capacity=capacity, storage=storage)\n",
        "observations that are added later are final ones, too",
        ("test_ragged_late_fields.py::test_observations_may_be_added_in_the_middle_of_trajectories",),
    ),
    Mutant(
        "keys-taken-for-fields",
        "src/replaystore/schema/fields.py",
        "if all(name == prefix or name.startswith(begin) for name in value):",
        "if all(name for name in value):",
        "an observation may have any keys",
        ("test_gymnasium_values.py::test_observations_may_have_keys_with_the_names_of_fields",),
    ),
)
