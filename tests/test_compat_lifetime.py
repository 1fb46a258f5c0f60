"""Fields outlive their buffers, and states are tensors that can be saved."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from adopted_buffers import of_both, velora_buffer
from rlhf_buffers import STORES

from replaystore.compat import velora

# --- fields that outlive their buffers


@pytest.mark.parametrize("mode", ["r", "r+"])
@pytest.mark.parametrize("suffix", STORES)
def test_a_field_that_is_kept_keeps_what_it_needs(suffix: str, mode: Any, tmp_path: Path) -> None:
    for load, names, memory in of_both(tmp_path, suffix, mode):
        for name in names:
            expected = getattr(memory, name)
            assert torch.equal(getattr(load(), name)[:5], expected[:5])
            kept = getattr(load(), name)
            gc.collect()
            assert torch.equal(kept[:], expected)
            iterator = iter(kept)
            del kept
            gc.collect()
            assert torch.equal(torch.stack(list(iterator)), expected)


@pytest.mark.parametrize("suffix", STORES)
def test_a_store_is_released_with_the_last_that_refers_to_it(suffix: str, tmp_path: Path) -> None:
    for load, names, _ in of_both(tmp_path, suffix, "r+"):
        kept = getattr(load(), names[0])
        ring = kept._ring
        assert ring.writable
        del kept
        assert ring.buffer.closed  # at once, without the garbage collector: the next writer waits for nothing
        load().close()


# --- the state of a buffer


@pytest.mark.parametrize("suffix", STORES)
def test_the_state_of_a_lazy_buffer_is_tensors_that_can_be_saved(suffix: str, tmp_path: Path) -> None:
    memory = velora_buffer()
    memory.save(tmp_path / f"b{suffix}")
    state = velora.ReplayBuffer.load(tmp_path / f"b{suffix}").state_dict()
    gc.collect()

    assert all(
        type(tensor) is torch.Tensor and torch.equal(tensor, memory.state_dict()[name])
        for name, tensor in state.items()
    )
    safetensors.torch.save_file(state, tmp_path / "state.safetensors")
    assert velora.ReplayBuffer.load(tmp_path / "state.safetensors", memory.metadata()).size == 5
