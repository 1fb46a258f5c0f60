"""Statistics and samples."""

from __future__ import annotations

from mutant import Mutant

__all__ = ["MUTANTS"]


MUTANTS: tuple[Mutant, ...] = (
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
        "statistics-lengths-for-values",
        "src/replaystore/views/statistics.py",
        "RaggedStatistics(len(spans), Statistics.of(lengths), found)",
        "RaggedStatistics(len(spans), Statistics.of(spans[:, 1]), found)",
        "the lengths of values are counted, not where they end",
        ("test_ragged_statistics.py",),
    ),
    Mutant(
        "statistics-of-a-long-value-without-its-end",
        "src/replaystore/views/statistics.py",
        "for start in range(begin, end, rows):",
        "for start in range(begin, end - rows + 1, rows):",
        "a value longer than a block counts whole",
        ("test_ragged_statistics.py",),
    ),
    Mutant(
        "sampling-beyond-the-last-part",
        "src/replaystore/sampling/steps.py",
        "            last = (following == length).nonzero()[0]\n",
        "            last = (following > length).nonzero()[0]\n",
        "the observation after the last step of a part is its trajectory's, not that of the next row",
        ("test_sampling.py::test_any_buffer_is_sampled_as_a_plain_loop_says",),
    ),
    Mutant(
        "sampling-beyond-the-last-part-of-a-drawn-row",
        "src/replaystore/sampling/steps.py",
        "            last = (place + 1 == length).nonzero()[0]\n",
        "            last = (place == length).nonzero()[0]\n",
        "the observation after the last step of a part is its trajectory's, not that of the next row",
        ("test_sampling_live.py::test_a_ring_may_be_smaller_than_a_chunk",),
    ),
    Mutant(
        "sampling-one-step-too-many",
        "src/replaystore/sampling/steps.py",
        "        usable: Rows = np.minimum(found, most)\n",
        "        usable: Rows = np.minimum(found + 1, most)\n",
        "n-step returns end with the trajectory",
        ("test_sampling.py::test_any_buffer_is_sampled_as_a_plain_loop_says",),
    ),
    Mutant(
        "sampling-stack-begins-too-early",
        "src/replaystore/sampling/stacks_and_returns.py",
        "cut = np.flatnonzero((shown[:, 0] < start)",
        "cut = np.flatnonzero((shown[:, 0] + stride < start)",
        "a stack shows no frame of the trajectory before",
        ("test_sampling.py::test_any_buffer_is_sampled_as_a_plain_loop_says",),
    ),
    Mutant(
        "sampling-discount-after-the-end",
        "src/replaystore/sampling/stacks_and_returns.py",
        'batch["discount"] = self.recipe.gamma**used * ~terminated[item, used - 1]',
        'batch["discount"] = self.recipe.gamma**used',
        "nothing follows a terminated step",
        ("test_sampling.py::test_any_buffer_is_sampled_as_a_plain_loop_says",),
    ),
    Mutant(
        "weighted-draws-from-old-sums",
        "src/replaystore/sampling/weights.py",
        "            self._top = None\n",
        "",
        "weights that were changed count for the next draw",
        ("test_sampling_weights.py::test_weights_can_be_changed",),
    ),
    Mutant(
        "chosen-rows-that-were-overwritten",
        "src/replaystore/columns/chosen.py",
        "        there = self._shown[slots] == rows\n",
        "        there = self._shown[slots] >= -1\n",
        "rows whose place the next ones have taken are not there",
        ("test_chosen_rows.py::test_rows_are_those_of_the_array_as_they_make_room[1500-3]",),
    ),
    Mutant(
        "live-staged-steps-not-written",
        "src/replaystore/arrays/live.py",
        "        if stop > self._written:\n",
        "        if stop > self._stop:\n",
        "a live sampler shows steps that no flush has brought to the store yet",
        ("test_live_sampling.py::test_what_is_staged_is_drawn_as_if_it_were_written",),
    ),
)
