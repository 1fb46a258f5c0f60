"""Preference and rollout buffers, and every name that scripts import."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from rlhf_buffers import original, spaces

from replaystore.compat import active_rlhf
from replaystore.compat.active_rlhf import (
    PreferenceBuffer,
    PreferenceBufferBatch,
    ReplayBuffer,
    RolloutBuffer,
    TrajectoryPairBatch,
)
from replaystore.errors import SchemaError, UnsupportedError


def test_every_name_that_scripts_import_is_there() -> None:
    for name in (
        "ReplayBuffer",
        "ReplayBufferBatch",
        "PreferenceBuffer",
        "PreferenceBufferBatch",
        "TrajectoryPairBatch",
        "TrajectoryInfo",
    ):
        assert name in active_rlhf.__all__
    assert {"RolloutBuffer", "RolloutBufferBatch"} < set(active_rlhf.__all__)
    assert all(getattr(active_rlhf, name) for name in active_rlhf.__all__)


def pairs(count: int, first: int = 0) -> PreferenceBufferBatch:
    column = torch.arange(first, first + count, dtype=torch.float32)
    fields = [column.reshape(count, 1, 1) * scale for scale in range(1, 9)]
    return PreferenceBufferBatch(*fields, prefs=torch.stack([column, -column], dim=1))


def test_a_preference_buffer_keeps_the_newest_pairs() -> None:
    buffer = PreferenceBuffer(4)
    buffer.add(pairs(3))
    buffer.add(pairs(3, 3))

    assert (len(buffer), buffer.size, buffer.pos) == (4, 4, 2)
    assert [int(pair[0]) for pair in buffer.prefs] == [4, 5, 2, 3]
    assert torch.equal(buffer[0].second_dones, torch.full((1, 1), 32.0))
    loaded = next(
        iter(
            torch.utils.data.DataLoader(
                buffer, batch_size=4, collate_fn=lambda items: [int(item.prefs[0]) for item in items]
            )
        )
    )
    assert loaded == [4, 5, 2, 3]


def test_a_part_of_a_batch_of_preferences_keeps_its_preferences() -> None:
    batch = pairs(5)[2:4]

    assert isinstance(batch, TrajectoryPairBatch)
    assert len(batch) == 2
    assert batch.prefs[:, 0].tolist() == [2.0, 3.0]


def test_pairs_that_do_not_fit_are_refused_before_anything_is_added() -> None:
    wrong = pairs(3)
    wrong.second_rews = wrong.second_rews[:2]
    buffer = PreferenceBuffer(4)

    with pytest.raises(SchemaError, match="different numbers of pairs"):
        buffer.add(wrong)
    assert len(buffer) == 0
    assert buffer.first_obs == []
    with pytest.raises(SchemaError, match="capacity must be a positive number"):
        PreferenceBuffer(-1)
    none = PreferenceBuffer(0)
    none.add(pairs(0))
    with pytest.raises(SchemaError, match="make it with a larger capacity"):
        none.add(pairs(1))


def test_a_rollout_buffer_holds_steps_of_all_environments() -> None:
    buffer = RolloutBuffer(3, 2, spaces(4, 1))
    for step in range(3):
        values = [torch.full((2, *shape), float(step + 1)) for shape in ((4,), (1,), (), (), (), ())]
        buffer.store(step, *values)

    assert buffer.get_batch().obs.shape == (3, 2, 4)
    flat = buffer.get_flattened_batch()
    assert (flat.obs.shape, flat.actions.shape, flat.values.tolist()) == ((6, 4), (6, 1), [1, 1, 2, 2, 3, 3])
    memory = ReplayBuffer(spaces(4, 1), 10, 2, "cpu")
    memory.add_rollout(buffer.get_batch())
    assert memory.size == 6
    with pytest.raises(SchemaError, match=r"pass gym\.vector\.SyncVectorEnv"):
        RolloutBuffer(3, 2, None)
    with pytest.raises(SchemaError, match="num_envs must be a positive number"):
        RolloutBuffer(3, 0, spaces())
    with pytest.raises(UnsupportedError, match="meta"):
        RolloutBuffer(3, 2, spaces(), device="meta")


def test_the_variable_that_names_the_original_names_a_checkout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACTIVE_RLHF_SRC", str(tmp_path))
    with pytest.raises(AssertionError, match="is no checkout of active-rlhf"):
        original()
    monkeypatch.delenv("ACTIVE_RLHF_SRC")
    with pytest.raises(pytest.skip.Exception):
        original()
