"""The buffers of other projects."""

from __future__ import annotations

from mutant import Mutant

__all__ = ["MUTANTS"]


MUTANTS: tuple[Mutant, ...] = (
    Mutant(
        "ring-in-memory-keeps-the-first-rows",
        "src/replaystore/compat/memory_ring.py",
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
        "src/replaystore/compat/memory_ring.py",
        "            self.changes += 1\n            self._look()\n",
        "            self._look()\n",
        "a change behind a buffer's back reaches what it is saved to",
        ("test_compat_velora.py::test_a_change_behind_the_buffers_back_is_noticed_between_any_rows",),
    ),
    Mutant(
        "ring-edit-lost",
        "src/replaystore/compat/ring_slots.py",
        "        rows[found] = self.values[at[found]]\n",
        "        rows[found] = rows[found]\n",
        "what is set in a field of a lazy buffer is read from it",
        ("test_compat_active_rlhf_lazy.py::test_what_is_set_in_a_lazy_tensor_reaches_the_store",),
    ),
)
