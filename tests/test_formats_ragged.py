"""Fields of any length on their way to files of other software: formats that take them get blocks of bounded
bytes; of others it is said that they are lost."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from conversions import contents, record

import replaystore as rs
from replaystore import errors
from replaystore.buffers.blocked import check_block
from replaystore.errors import SchemaError
from replaystore.formats import Options, blocks_of
from replaystore.schema.given_ragged import joined
from replaystore.schema.ragged import Ragged
from replaystore.testing import samples
from replaystore.testing.contents import bits
from replaystore.testing.formats import PLAIN
from replaystore.trajectories.blocks import Block

pytest_plugins = ["conversions"]

FORMATS = {"active_rlhf": "replay_buffer.pkl", "velora": "buffer_state.safetensors"}


def plain_with(location: str, more: rs.Schema) -> None:
    with rs.create(location, rs.Schema({**PLAIN.fields, **more.fields})) as buffer:
        buffer.append(samples.columns(buffer.schema, 40, 3))


@pytest.mark.parametrize("name", FORMATS)
def test_what_a_format_cannot_hold_is_lost_and_said(tmp_path: Path, name: str) -> None:
    first, second, third = str(tmp_path / "a.zarr"), str(tmp_path / "b.zarr"), str(tmp_path / FORMATS[name])
    tokens = rs.Schema({"info/tokens": rs.Field("int32", (None,), "info"), "text": rs.Field.of_text("extra")})
    plain_with(first, tokens)
    rs.convert(first, second, fields=list(PLAIN.fields))

    with pytest.raises(errors.UnsupportedError, match=r"left out \(values of any length\)"):
        rs.convert(first, third, format=name, strict=True)
    with pytest.raises(errors.UnsupportedError, match="cannot hold values of any length"):
        rs.convert(first, third, format=name, fields=["text"])
    assert not os.path.exists(third)

    report = rs.convert(first, third, format=name)

    written = Path(third).read_bytes()
    for lost in tokens.fields:
        assert str(report.fields[lost].kind) == "lost"
        assert report.fields[lost].how == "values of any length"
        assert lost not in report.recoded
    assert not report.exact
    alone = rs.convert(second, third, format=name, overwrite=True)
    assert {key: fate for key, fate in report.fields.items() if key not in tokens.fields} == alone.fields
    assert Path(third).read_bytes() == written


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("role", ["observation", "action"])
@pytest.mark.parametrize("name", FORMATS)
def test_nothing_is_written_without_any_observations_or_actions(
    tmp_path: Path, name: str, role: str, strict: bool
) -> None:
    """What is advised works."""
    kept = {key: field for key, field in PLAIN.fields.items() if field.role != role}
    first, target = str(tmp_path / "a.zarr"), str(tmp_path / FORMATS[name])
    text = rs.Schema({**kept, role: rs.Field.of_text(role)})  # type: ignore[arg-type]
    with rs.create(first, text) as buffer:
        buffer.append(samples.columns(text, 40, 3))

    for fields in (None, [*kept, role]):
        with pytest.raises(
            errors.UnsupportedError, match=rf"as those of '{role}' are: convert it to a store"
        ):
            rs.convert(first, target, format=name, fields=fields, strict=strict)
    assert not os.path.exists(target)
    assert rs.convert(first, tmp_path / "b.h5", strict=strict).exact


@pytest.mark.parametrize("most", [1, 5000, 1 << 22])
def test_blocks_hold_values_and_are_of_bounded_bytes(tmp_path: Path, most: int) -> None:
    first = str(tmp_path / "a.zarr")
    record(first, ragged=True)
    expected = contents(first)

    with rs.open(first) as buffer:
        blocks = list(blocks_of(buffer, Options(), most))
        assert all(
            len(block) == 1 or sum(c.nbytes for c in block.columns.values()) < 2 * most for block in blocks
        )

    assert (len(blocks) == expected.steps) == (most == 1)
    at = 0
    for story in expected.stories:
        count, mine = 0, []
        while count < len(story.columns["action"]):
            mine.append(blocks[at])
            count, at = count + len(blocks[at]), at + 1
        for name in ("observation/text", "info/tokens", "info/points"):
            assert joined([block.columns[name] for block in mine]) == story.columns[name]
        final = mine[-1].final
        assert (final is None) == (story.final_observation is None)
        if final is not None and story.final_observation is not None:
            assert bits(final["observation/text"]) == bits(story.final_observation["observation/text"])
            assert final["observation/text"].dtype == np.uint8
    assert at == len(blocks)


@pytest.mark.parametrize("where", ["steps", "final"])
def test_a_block_of_what_is_no_text_is_refused(where: str) -> None:
    """What a format has read has not been looked at by anybody."""
    schema = rs.Schema({"observation": rs.Field.of_text("observation")})
    half = np.array([0xC3], np.uint8)
    given = Ragged(half, [0, 1], text=True) if where == "steps" else Ragged.of(["a"], text=True)
    final = {"observation": half} if where == "final" else None

    with pytest.raises(SchemaError, match="value 0: its bytes are not UTF-8"):
        check_block(Block({"observation": given}, final=final), schema, schema, {})
