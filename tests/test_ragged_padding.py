"""Values of any length in batches as arrays and masks: the same values, at the side that was asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numbered_values import BESIDE, PLAIN, Numbered

import replaystore as rs
from replaystore.errors import ArgumentError
from replaystore.schema.ragged import Ragged

named = pytest.mark.parametrize
SIDES: list[Any] = [
    "end",
    "start",
    {"observation/tokens": (-1, "start"), "action/moves": 0.5},
    {"observation/text": 32},
]


@named("given", SIDES, ids=str)
@named("shape", [{}, {"fragment_length": 3, "pad": "end"}, {"frame_stack": 2}], ids=str)
@named("several", [False, True])
def test_padded_values_are_the_values_where_the_mask_says_so(
    tmp_path: Path, given: Any, shape: dict[str, Any], several: bool
) -> None:
    world = Numbered(tmp_path / "one.zarr")
    with world.buffer as buffer:
        world.fill(9)
        source: Any = rs.concat([buffer]) if several else buffer
        plain = source.sampler(16, seed=3, **shape).sample()
        batch = source.sampler(16, seed=3, pad_values=given, **shape).sample()
        assert batch["index"].tolist() == plain["index"].tolist()
        wanted = dict.fromkeys(BESIDE, (0, given)) if isinstance(given, str) else given
        for field in BESIDE:
            for name in {field, f"next_{field}"} & plain.keys():
                if field not in wanted:
                    assert batch[name] == plain[name]
                    continue
                how = wanted[field]
                fill, side = how if isinstance(how, tuple) else (how, "end")
                expect_padded(batch[name], batch[f"mask/{name}"], plain[name], fill, side)
        masks = {name for name in batch if name.startswith("mask/")}
        assert masks == {f"mask/{name}" for name in plain if name.removeprefix("next_") in wanted}


def expect_padded(array: Any, mask: Any, ragged: Ragged, fill: Any, side: str) -> None:
    lengths = ragged.lengths.reshape(-1).tolist()
    assert array.shape == (*ragged.lead, max(lengths), *ragged.inner)
    assert mask.shape == array.shape[: len(ragged.lead) + 1]
    assert array.dtype == ragged.dtype
    flat, flags = array.reshape(-1, *array.shape[len(ragged.lead) :]), mask.reshape(len(lengths), -1)
    for at, length in enumerate(lengths):
        begin = 0 if side == "end" else max(lengths) - length
        there = np.zeros(max(lengths), bool)
        there[begin : begin + length] = True
        assert np.array_equal(flags[at], there)
        begins = int(ragged.offsets[at])
        assert np.array_equal(flat[at][there], ragged.values[begins : begins + length])
        assert (flat[at][~there] == fill).all()


def test_without_fragments_pad_is_about_values(tmp_path: Path) -> None:
    world = Numbered(tmp_path / "one.zarr")
    with world.buffer as buffer:
        world.fill(9)
        sources: list[Any] = [buffer, rs.concat([buffer])]
        for source in sources:
            batch = source.sampler(16, seed=3, pad="start").sample()
            other = source.sampler(16, seed=3, pad_values="start").sample()
            assert batch.keys() == other.keys()
            assert all(np.array_equal(batch[name], other[name]) for name in batch)
            assert "mask" not in batch
        taken = buffer.sampler(16, seed=3)
        taken.load_state_dict(buffer.sampler(16, seed=3, pad="end").state_dict())


@named(
    ("given", "said"),
    [
        ("middle", "side is 'end' or 'start'"),
        (3, "pad_values is"),
        ({"observation/id": 0}, "the fields of any length in these batches are"),
        ({"observation/tokens": 0.5}, "nothing is rounded"),
        ({"observation/tokens": (0, "left")}, "side is 'end' or 'start'"),
    ],
)
def test_padding_that_cannot_be_is_refused(tmp_path: Path, given: Any, said: str) -> None:
    world = Numbered(tmp_path / "one.zarr")
    with world.buffer as buffer:
        world.fill(3)
        with pytest.raises(ArgumentError, match=said):
            buffer.sampler(4, pad_values=given)
        with pytest.raises(ArgumentError, match="leave out pad_values"):
            buffer.sampler(4, fields=PLAIN, pad_values="end")
        with pytest.raises(ArgumentError, match="pad is for fragments"):
            buffer.sampler(4, fields=PLAIN, pad="end")
