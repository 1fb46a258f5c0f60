"""What cannot be sampled is one clear error; and what a sampler says of itself."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sampled_buffers import Life, fill, schema
from tensors import torch

import replaystore as rs
from replaystore.errors import ArgumentError, SchemaError

pytest_plugins = ["sampled_buffers"]


def test_what_cannot_be_is_one_clear_error(stored: tuple[rs.Buffer, list[Life]]) -> None:
    buffer, _ = stored
    steps = len(buffer)
    cases: list[tuple[dict[str, Any], str]] = [
        ({"fragment_length": 35}, "no trajectory has 35 steps; the longest has 34"),
        (
            {"fragment_length": 31, "split": "s1"},
            "no trajectory with split 's1' has 31 steps; the longest has 8",
        ),
        ({"split": "nope"}, "no trajectory has split 'nope'"),
        ({"where": "length > 1000"}, "no trajectory has where 'length > 1000'"),
        ({"where": "size > 1000"}, 'no column "size"'),
        ({"fields": ["nope"]}, "nope"),
        (
            {"order": "shuffled"},
            "order is one of 'uniform', 'trajectory', 'epoch', 'prioritized', not 'shuffled'",
        ),
        ({"weights": np.full(steps, np.nan)}, "weight 0 is nan"),
        ({"weights": -np.ones(steps)}, "weight 0 is -1"),
        ({"weights": np.zeros(steps)}, "all weights are 0"),
        ({"weights": np.ones(3)}, f"one for each step, {steps} of them"),
        ({"weights": np.ones(7)}, 'for one for each trajectory say per="trajectory"'),
        ({"weights": np.ones(steps), "per": "trajectory"}, 'for one for each step say per="step"'),
        ({"weights": np.ones(steps), "per": "episode"}, 'per is "step" or "trajectory"'),
        ({"weights": np.ones(steps), "order": "epoch"}, "leave out order='epoch'"),
        ({"per": "trajectory"}, 'give weights, or order="trajectory"'),
        ({"order": np.ones(steps)}, "weights are given as weights=..."),
        ({"order": [1.0] * steps}, "weights are given as weights=..."),
        ({"weights": np.ones(steps), "prefetch": 2}, "leave out prefetch"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"frame_stack": 0}, "frame_stack must be at least 1"),
        ({"n_step": 2.5}, "n_step must be at least 1"),
        ({"gamma": 1.5}, "gamma must lie between 0 and 1"),
        ({"beta": np.nan}, "beta"),
        ({"beta": "high"}, "beta must be a number, not 'high'"),
        ({"beta": 0.4}, 'say order="prioritized", or leave out beta'),
        ({"order": "prioritized", "alpha": "high"}, "alpha must be a number, not 'high'"),
        ({"order": "prioritized", "alpha": None}, "alpha must be a number, not None"),
        ({"order": "prioritized", "alpha": np.ones(2)}, "alpha must be a number, not array"),
        ({"order": "prioritized", "alpha": -1}, "alpha must be a number that is not negative"),
        ({"order": "prioritized", "priority": 0}, "priority must be a number above 0"),
        ({"order": "prioritized", "priority": np.inf}, "priority 0 is inf"),
        ({"order": "prioritized", "priority": 1e200, "alpha": 2}, "divide priorities"),
        ({"priority": 1}, "leave it out"),
        ({"weights": np.full(steps, 1e308)}, "weight 0 is 1e+308: it has to be finite"),
        ({"gamma": None}, "gamma must be a number, not None"),
        ({"weights": np.ones(steps, complex)}, "numbers, not complex128: give their real parts"),
        ({"seed": -1}, "seed must be"),
        ({"prefetch": -1}, "prefetch must be"),
        ({"fragment_length": 3, "n_step": 2}, "leave out n_step, or fragment_length"),
        ({"pad": "end"}, "pad is for fragments"),
        ({"burn_in": 2}, "burn_in is for fragments"),
        ({"fragment_length": 3, "pad": "both"}, 'pad is "end", "start" or None'),
        ({"fragment_length": 3, "burn_in": -1}, "burn_in must be a number of steps"),
        (
            {"fragment_length": 3, "burn_in": 2, "pad": "start"},
            "fragment_length=3 + 2, and leave out burn_in",
        ),
    ]
    if torch is not None:
        cases.append(({"device": "toaster"}, "device 'toaster' is none of PyTorch's"))
        names = (f"cuda:{torch.cuda.device_count()}", "meta", "xla")
        cases += [({"device": name}, " use device='cpu'") for name in names]
    for chosen, message in cases:
        with pytest.raises(SchemaError) as caught:
            buffer.sampler(**chosen)
        assert message in str(caught.value), str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("live", [False, True])
def test_what_a_ring_is_too_small_for_is_said(live: bool) -> None:
    """And the advice works when it is followed."""
    with rs.create("memory:small-ring", schema(), capacity=5, overwrite=True) as buffer:
        fill(buffer, [(0, 50, True, True)])
        cases: list[tuple[dict[str, Any], str]] = [
            ({"fragment_length": 8}, "no trajectory has 8 steps here; the longest has 5"),
            ({"fragment_length": 8, "pad": "start"}, "the 7 steps before it"),
            ({"fragment_length": 2, "burn_in": 8}, "the 8 steps before it"),
            ({"frame_stack": 8}, "the 7 steps before it"),
            ({"fragment_length": 3, "frame_stack": 4}, "the 3 steps before it"),
        ]
        for chosen, message in cases:
            with pytest.raises(ArgumentError, match="all the steps before and behind" if live else message):
                buffer.sampler(4, live=live, **chosen).sample()
        buffer.sampler(4, live=live, fragment_length=5).sample()
        buffer.sampler(4, live=live, fragment_length=8, pad="end").sample()
        buffer.sampler(4, live=live, fragment_length=1, burn_in=4).sample()
        buffer.sampler(4, live=live, frame_stack=5).sample()


def test_arrays_that_do_not_fit_are_refused(stored: tuple[rs.Buffer, list[Life]]) -> None:
    sampler = stored[0].sampler(5)
    batch = sampler.sample()
    for wrong in ({}, batch | {"action": np.zeros(5)}, batch | {"observation": np.zeros((5, 3), "i4")}):
        with pytest.raises(SchemaError, match=r"out\['\w+'\] is .* it has to be"):
            sampler.sample(out=wrong)
    with pytest.raises(SchemaError, match="leave out `out`"):
        stored[0].sampler(5, prefetch=1).sample(out=batch)


@pytest.mark.parametrize(
    "chosen",
    [
        {},
        {"fragment_length": 3},
        {"frame_stack": 3},
        {"n_step": 3},
        {"order": "prioritized"},
        {"order": "epoch"},
        {"live": True},
        {"dtype": "float32"},
        {"prefetch": 2},
    ],
    ids=str,
)
def test_what_is_no_batch_to_be_filled_is_refused(chosen: dict[str, Any]) -> None:
    with rs.create("memory:out", schema(), overwrite=True) as buffer:
        fill(buffer, [(0, 20, True, True)])
        sampler = buffer.sampler(5, **chosen)
        for wrong in (32, np.int64(32)):
            with pytest.raises(ArgumentError, match=r"when a sampler is made: buffer\.sampler\(32\)"):
                sampler.sample(wrong)  # type: ignore[arg-type]
        for wrong in (True, "x", np.zeros(3), [np.zeros(3)]):
            with pytest.raises(ArgumentError, match=r"`out`, is a dict of arrays.*not"):
                sampler.sample(wrong)  # type: ignore[arg-type]
        sampler.close()


@pytest.mark.parametrize("live", [False, True])
@pytest.mark.parametrize("order", ["uniform", "trajectory", "prioritized"])
def test_nothing_is_drawn_where_a_ring_has_kept_nothing_that_can_be(order: Any, live: bool) -> None:
    with rs.create("memory:nothing-left", schema(), capacity=20, overwrite=True) as buffer:
        for joined in (False, True):
            fill(buffer, [(0, 20, True, True)])
            whole: Any = rs.concat([buffer]) if joined else buffer
            sampler = whole.sampler(4, order=order, fragment_length=8, live=live)
            sampler.sample()
            for _ in range(2):  # it follows the growth of what it is of
                fill(buffer, [(0, 20, True, True)])
                sampler.refresh()
                assert sampler.sample()["index"].min() >= buffer.first_row
            fill(buffer, [(0, 5, True, True)] * 6)
            sampler.refresh()
            assert sampler.num_items == 0
            for _ in range(2):
                with pytest.raises(ArgumentError, match=r"nothing to draw in any|no step to sample"):
                    sampler.sample()
            fill(buffer, [(0, 12, True, True)])
            sampler.refresh()
            assert sampler.sample()["index"].min() >= buffer.first_row


@pytest.mark.torch
def test_batches_become_tensors(stored: tuple[rs.Buffer, list[Life]]) -> None:
    batch, plain = stored[0].sampler(5, seed=1, device="cpu").sample(), stored[0].sampler(5, seed=1).sample()
    assert {name: value.dtype for name, value in batch.items()}["reward"] == torch.float32
    assert all(np.array_equal(batch[name].numpy(), plain[name]) for name in plain)


def test_it_says_how_it_reads(stored: tuple[rs.Buffer, list[Life]]) -> None:
    told = stored[0].sampler(5, seed=1).explain()
    assert told.splitlines()[0] == (
        f"uniform: batches of 5 out of {len(stored[0])} steps of commit {stored[0].commit_id}, seed 1"
    )
    assert "observation: raw, mapped: one take" in told
