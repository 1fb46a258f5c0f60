"""The proof that ends every conversion: what it compares, and what is left when that is not the same."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import Run
from conversions import record

import replaystore as rs
from replaystore import formats, registry
from replaystore.converting import imports, stores
from replaystore.errors import ProofError
from replaystore.testing.held import Held

pytest_plugins = ["commands"]

FLAGS = {name: rs.Field("bool", (), name) for name in ("terminated", "truncated")}
SCHEMA = rs.Schema(
    {
        "observation": rs.Field("float64", (3,), "observation"),
        "action": rs.Field("float32", (2,), "action"),
        "reward": rs.Field("float32", (), "reward"),
        **FLAGS,
    }
)


@pytest.fixture
def store(tmp_path: Path) -> str:
    """Four trajectories of two splits, with seeds, and one that is open."""
    where, random = str(tmp_path / "store.zarr"), np.random.default_rng(0)
    with rs.create(where, SCHEMA, metadata={"by": "me"}) as buffer:
        for number in range(5):
            steps = 6 + number
            ends = np.zeros(steps, bool)
            ends[-1] = number < 4
            columns = {
                "observation": random.random((steps, 3)),
                "action": random.random((steps, 2), np.float32),
                "reward": random.random(steps, np.float32),
                "terminated": ends,
                "truncated": np.zeros(steps, bool),
            }
            seen = random.random((1, 3))
            buffer.append(
                columns,
                env=number % 2,
                seed=number,
                split=["train", "val"][number % 2],
                final_observation=seen,
            )
    return where


# --- what is compared


@pytest.mark.parametrize("target", ["b.zarr", "b.h5", "b.zarr.zip"])
def test_from_store_to_store_everything_is(tmp_path: Path, target: str) -> None:
    record(str(tmp_path / "a.zarr"), ragged=True)

    proof = rs.convert(tmp_path / "a.zarr", tmp_path / target).proof

    found = rs.digest(tmp_path / target)
    assert proof is not None
    assert set(proof.fields) == set(found.fields)
    assert set(proof.rest) == set(found.rest)
    assert (proof.content, proof.not_proved) == (found.content, {})


def test_a_part_is_compared_with_that_part(tmp_path: Path) -> None:
    record(str(tmp_path / "a.zarr"))

    proof = rs.convert(
        tmp_path / "a.zarr", tmp_path / "b.zarr", fields=["observation", "reward"], where="length > 1"
    ).proof

    assert proof is not None
    assert set(proof.fields) == {"observation/camera", "observation/joints", "reward"}
    assert {"seed", "split", "env", "final_observation", "score", "kept", "metadata"} <= set(proof.rest)


def test_without_it_nothing_is_read_again(store: str, tmp_path: Path) -> None:
    assert rs.convert(store, tmp_path / "b.zarr", proof=False).proof is None


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A format that holds everything."""
    with registry.using("formats", "velora", Held()):
        yield


@pytest.mark.usefixtures("held")
def test_a_file_is_read_again(store: str, tmp_path: Path) -> None:
    there = rs.convert(store, tmp_path / "b.held", target_format="velora")
    back = rs.convert(tmp_path / "b.held", tmp_path / "c.zarr", source_format="velora")

    assert there.proof is not None
    assert there.proof.fields == list(SCHEMA.fields)
    assert set(there.proof.rest) >= {"seed", "split", "env", "final_observation", "metadata", "terminated"}
    assert there.proof.not_proved == {}
    assert back.proof is not None
    assert back.proof.content == rs.digest(tmp_path / "c.zarr").content


def test_what_cannot_be_compared_is_said(store: str, tmp_path: Path) -> None:
    """As of a ring of transitions, in which values were cast."""
    report = rs.convert(store, tmp_path / "b_state.safetensors", where="length < 8")

    assert report.proof is not None
    assert report.proof.fields == ["action", "reward"]
    assert report.proof.not_proved["observation"] == "they lie in a ring, and were changed"
    assert report.to_json()["proof"]["not_proved"] == report.proof.not_proved


class Casting(Held):
    """Observations become float32."""

    claimed = 1e-7

    def write(self, buffer: Any, path: str, options: formats.Options) -> formats.Report:
        report = super().write(buffer, path, options)
        fate = formats.changed("float64 became float32", self.claimed)
        return replace(report, fields={**report.fields, "observation": fate})

    @contextmanager
    def read(self, path: str) -> Iterator[formats.Source]:
        with super().read(path) as source:
            assert isinstance(source, formats.Source)
            schema = rs.Schema(
                {**source.schema.fields, "observation": rs.Field("float32", (3,), "observation")}
            )

            def blocks(most: int) -> Iterator[formats.Block]:
                for block in source.blocks(most):
                    cast = block.columns["observation"].astype(np.float32)
                    final = None
                    if block.final is not None:
                        final = {"observation": np.asarray(block.final["observation"], np.float32)}
                    yield replace(block, columns={**block.columns, "observation": cast}, final=final)

            yield replace(source, schema=schema, blocks=blocks)


def test_values_that_were_cast_are_within_what_was_said(
    store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with registry.using("formats", "velora", Casting()):
        proof = rs.convert(store, tmp_path / "b.held", target_format="velora").proof
    assert proof is not None
    assert 0 < proof.within["observation"] <= Casting.claimed
    assert "observation" not in proof.fields
    assert "seed" in proof.rest

    monkeypatch.setattr(Casting, "claimed", 1e-9)
    with registry.using("formats", "velora", Casting()), pytest.raises(ProofError, match="at most 1e-09"):
        rs.convert(store, tmp_path / "c.held", target_format="velora")
    assert not (tmp_path / "c.held").exists()


# --- when it is not the same


class Lying(Held):
    """One reward is another one when it is read again."""

    @contextmanager
    def read(self, path: str) -> Iterator[formats.Source]:
        with super().read(path) as source:
            assert isinstance(source, formats.Source)

            def blocks(most: int) -> Iterator[formats.Block]:
                for block in source.blocks(most):
                    reward = np.array(block.columns["reward"])
                    reward[-1] += 1
                    yield replace(block, columns={**block.columns, "reward": reward})

            yield replace(source, blocks=blocks)


def test_a_file_that_is_not_the_same_is_taken_away(store: str, tmp_path: Path) -> None:
    path, before = tmp_path / "b.held", sorted(tmp_path.iterdir())

    with registry.using("formats", "velora", Lying()):
        with pytest.raises(ProofError, match=r"b\.held: what was written does not have 'reward'"):
            rs.convert(store, path, target_format="velora")
        assert sorted(tmp_path.iterdir()) == before
        rs.convert(store, path, target_format="velora", proof=False)
    assert path.exists()


def test_what_was_to_be_replaced_is_there_again(store: str, tmp_path: Path) -> None:
    path = tmp_path / "b.held"
    with registry.using("formats", "velora", Held()):
        rs.convert(store, path, target_format="velora", where="length < 8")
        known, before = path.read_bytes(), sorted(tmp_path.iterdir())
    with registry.using("formats", "velora", Lying()):
        with pytest.raises(ProofError):
            rs.convert(store, path, target_format="velora", overwrite=True)
        assert path.read_bytes() == known
        assert sorted(tmp_path.iterdir()) == before
    with registry.using("formats", "velora", Held()):
        rs.convert(store, path, target_format="velora", overwrite=True)
    assert path.read_bytes() != known
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("target", ["b.zarr", "b.h5", "b.zarr.zip"])
@pytest.mark.parametrize("replaced", [False, True])
def test_a_store_that_is_not_the_same_gets_no_name(
    store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str, replaced: bool
) -> None:
    if replaced:
        rs.convert(store, tmp_path / target, where="length < 8")
    before = sorted(path.name for path in tmp_path.iterdir())
    digest_of = stores.digest_of
    monkeypatch.setattr(
        stores, "digest_of", lambda *a, **k: replace(digest_of(*a, **k), fields={"reward": ""})
    )

    with pytest.raises(ProofError, match=rf"{target}: what was written does not have 'reward'"):
        rs.convert(store, tmp_path / target, overwrite=replaced)

    assert sorted(path.name for path in tmp_path.iterdir()) == before
    if replaced:
        assert rs.verify(tmp_path / target).problems == []


@pytest.mark.usefixtures("held")
def test_nor_one_that_is_made_of_a_file(store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rs.convert(store, tmp_path / "b.held", target_format="velora")
    digest = imports.digest_of_blocks
    monkeypatch.setattr(imports, "digest_of_blocks", lambda *a: replace(digest(*a), rest={"seed": ""}))

    with pytest.raises(ProofError, match="does not have 'seed'"):
        rs.convert(tmp_path / "b.held", tmp_path / "c.zarr", source_format="velora")

    assert not (tmp_path / "c.zarr").exists()


# --- how it is told


def test_the_command_line_tells_of_it(
    store: str, tmp_path: Path, run: Run, facts: Callable[..., Any]
) -> None:
    code, out, _ = run("convert", store, tmp_path / "b.zarr", "--fields", "observation,reward")
    as_json = facts("convert", store, tmp_path / "c.zarr")
    left_out = facts("convert", store, tmp_path / "d.zarr", "--no-proof")

    assert code == 0
    assert "reward       field  kept" in out
    assert "action       field  lost" in out
    assert "proof: 2 fields and 10 things beside them are the same on both sides" in out
    assert set(as_json["proof"]["fields"]) == set(SCHEMA.fields)
    assert left_out["proof"] is None
