"""From one file of other software to another: one report of both conversions, which is true of the files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import replaystore as rs
from replaystore import formats, registry
from replaystore.formats.report import KEPT, Fate, after, changed, lost, rest_after
from replaystore.testing import difficult
from replaystore.testing.held import Held
from replaystore.testing.promises import Things, untrue

PAIRS = [
    ("plain", "npz", "velora"),
    ("plain", "velora", "npz"),
    ("plain", "active_rlhf", "minari"),
    ("plain", "sb3", "active_rlhf"),
    ("wide", "d4rl", "robomimic"),
    ("wide", "minari", "d4rl"),
    ("loose", "tianshou", "torchrl"),
    ("unflagged", "pickled_dict", "d3rlpy"),
    ("integers", "velora", "rlds"),
]


def things(path: Path) -> Things:
    with rs.open(path) as buffer:
        return Things.of(buffer)


def same(one: Mapping[str, Fate], other: Mapping[str, Fate]) -> bool:
    """But for errors, which are measured on the way."""
    plain = [{name: (fate.kind, fate.how) for name, fate in fates.items()} for fates in (one, other)]
    return plain[0] == plain[1]


@pytest.mark.parametrize(("store", "first", "second"), PAIRS)
def test_a_report_of_two_conversions_is_true(tmp_path: Path, store: str, first: str, second: str) -> None:
    place, one, two = tmp_path / "a.zarr", tmp_path / "one", tmp_path / "two"
    difficult.made(str(place), store, 0)
    there = rs.convert(place, one, target_format=first)
    rs.convert(one, tmp_path / "middle.zarr", source_format=first)

    planned = rs.convert(one, two, source_format=first, target_format=second, dry_run=True)
    both = rs.convert(one, two, source_format=first, target_format=second)
    back = rs.convert(two, tmp_path / "b.zarr", source_format=second)

    assert same(planned.fields, both.fields)
    assert same(planned.rest, both.rest)
    fields, rest = after(both.fields, back.fields), rest_after(both.rest, back.rest)
    assert (
        untrue(
            things(place),
            things(tmp_path / "b.zarr"),
            after(there.fields, fields),
            rest_after(there.rest, rest),
        )
        == []
    )
    assert both.proof is not None
    assert all(both.fields.get(name, KEPT).exact for name in both.proof.fields)
    assert all(both.rest.get(name, KEPT).exact for name in both.proof.rest)
    if all(rest.get(name, KEPT).exact for name in ("trajectories", "order", "steps")):
        mine, theirs = rs.digest(tmp_path / "middle.zarr"), rs.digest(tmp_path / "b.zarr")
        exact = [name for name in mine.fields if fields.get(name, KEPT).exact]
        assert {name: mine.fields[name] for name in exact} == {name: theirs.fields[name] for name in exact}


class Without(Held):
    """Rewards cannot be read, and observations are changed where they are."""

    @contextmanager
    def read(self, path: str) -> Iterator[formats.Source]:
        with super().read(path) as source:
            assert isinstance(source, formats.Source)
            schema = source.schema.select([name for name in source.schema.fields if name != "reward"])

            def blocks(most: int) -> Iterator[formats.Block]:
                for block in source.blocks(most):
                    columns = {name: rows for name, rows in block.columns.items() if name != "reward"}
                    columns["observation"] = np.asarray(columns["observation"]) + np.float32(0.5)
                    yield replace(block, columns=columns)

            fates = {"reward": lost("nobody knows them"), "observation": changed("moved", 0.6)}
            yield replace(source, schema=schema, blocks=blocks, fields=fates, rest={"seed": lost("torn off")})


@pytest.mark.parametrize("dry_run", [False, True])
@pytest.mark.parametrize("target", ["velora", "npz"])
def test_what_was_lost_and_is_made_up_again_is_made_up(tmp_path: Path, target: str, dry_run: bool) -> None:
    difficult.made(str(tmp_path / "a.zarr"), "plain", 0)
    with registry.using("formats", "d3rlpy", Without()):
        rs.convert(tmp_path / "a.zarr", tmp_path / "one", target_format="d3rlpy", proof=False)
        report = rs.convert(
            tmp_path / "one", tmp_path / "two", source_format="d3rlpy", target_format=target, dry_run=dry_run
        )

    made_up = target == "velora"
    assert report.fields["reward"].kind == ("made up" if made_up else "lost")
    assert report.fields["observation"] == changed("moved", 0.6)
    assert report.rest["seed"].kind == "lost"
    if dry_run:
        assert report.proof is None
        return
    assert report.proof is not None
    assert report.proof.content == ""
    assert not {"observation", "reward", "seed"} & {*report.proof.fields, *report.proof.rest}
    if not made_up:
        assert report.proof.within["observation"] == 0.6
    rs.convert(tmp_path / "two", tmp_path / "b.zarr", source_format=target)
    with rs.open(tmp_path / "b.zarr") as buffer:
        assert ("reward" in buffer.schema.fields) == made_up
        assert not made_up or not np.any(buffer["reward"][:])
