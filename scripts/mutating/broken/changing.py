"""Values that are set later."""

from __future__ import annotations

from mutant import Mutant

__all__ = ["MUTANTS"]

CHANGING = "src/replaystore/arrays/changing.py"
CHANGED = "src/replaystore/columns/changed.py"
SEEN = ("test_mutable_fields.py",)

MUTANTS: tuple[Mutant, ...] = (
    Mutant(
        "changing-rows-that-a-commit-has-in-place",
        CHANGING,
        "        committed = int(np.searchsorted(rows, self.state.lengths.get(tree.group_of(name), 0)))\n",
        "        committed = 0\n",
        "what a commit shows stays as it is when values are set",
        SEEN,
    ),
    Mutant(
        "changing-without-summing-up-again",
        CHANGING,
        "        self._overwritten.add(name)\n",
        "",
        "checksums are those of rows that were written over before their commit",
        SEEN,
    ),
    Mutant(
        "changing-a-digest-of-half",
        CHANGING,
        "newest(*entries_of(self, of, begin, stop))",
        "newest(*entries_of(self, of, end, stop))",
        "a digest has all steps that were ever changed",
        SEEN,
    ),
    Mutant(
        "changed-first-value-wins",
        CHANGED,
        "    last = np.append(ordered[1:] != ordered[:-1], True)\n",
        "    last = np.append(True, ordered[1:] != ordered[:-1])\n",
        "of several values of a step the last one counts",
        SEEN,
    ),
    Mutant(
        "changed-pages-written-in-place",
        CHANGED,
        "        table = np.full(end - begin + 2, -1, np.int64)\n",
        "        if begin == self._begin and end == begin + len(known):\n            return\n"
        "        table = np.full(end - begin + 2, -1, np.int64)\n",
        "a sampler goes on showing the values of its commit",
        SEEN,
    ),
    Mutant(
        "changed-without-rows-appended-since",
        CHANGED,
        "            steps, values = self._with_new_rows(before, steps, values)\n",
        "",
        "rows that are appended behind a changed one are shown",
        SEEN,
    ),
)
