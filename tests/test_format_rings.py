"""The state of a physical ring in the document: one key for all formats, and what stores had before."""

from __future__ import annotations

from pathlib import Path

import pytest
import rlhf_samples
import velora_rings

import replaystore as rs

RINGS = {
    "active_rlhf": (rlhf_samples.sample, rlhf_samples.SAMPLES, "replay_buffer.pkl"),
    "velora": (velora_rings.sample, velora_rings.SAMPLES, "buffer_state.safetensors"),
}
CASES = [(kind, name) for kind, (_, names, _) in RINGS.items() for name in names]


def made_as_before(source: Path, place: str, kind: str) -> None:
    """A store whose document has the state under the name of its format, and says nothing else of it."""
    rs.convert(source, place)
    with rs.open(place, "r+") as buffer:
        state = dict(buffer._document.extensions["ring"])
        assert state.pop("format") == kind
        assert state.pop("ends")
        buffer._replace_document(extensions={kind: state})


@pytest.mark.parametrize(("kind", "name"), CASES)
@pytest.mark.parametrize("again", [False, True])
def test_a_store_with_the_old_key_comes_out_as_it_was(
    kind: str, name: str, again: bool, tmp_path: Path
) -> None:
    sample, _, called = RINGS[kind]
    place = str(tmp_path / "a.zarr")
    made_as_before(sample(name), place, kind)
    if again:
        rs.convert(place, tmp_path / "b.zarr")
        place = str(tmp_path / "b.zarr")
        with rs.open(place) as buffer:
            assert buffer._document.extensions.keys() == {"ring"}
    rs.convert(place, tmp_path / "x" / called, strict=True)

    rs.convert(sample(name), tmp_path / "new.zarr")
    rs.convert(tmp_path / "new.zarr", tmp_path / "y" / called, strict=True)
    assert (tmp_path / "x" / called).read_bytes() == (tmp_path / "y" / called).read_bytes()


@pytest.mark.parametrize(("kind", "name"), CASES)
def test_what_the_flags_of_an_old_store_mean_is_known_to_the_other_format(
    kind: str, name: str, tmp_path: Path
) -> None:
    sample, _, _ = RINGS[kind]
    (other,) = (called for known, (_, _, called) in RINGS.items() if known != kind)
    made_as_before(sample(name), str(tmp_path / "a.zarr"), kind)
    rs.convert(tmp_path / "a.zarr", tmp_path / "x" / other)

    rs.convert(sample(name), tmp_path / "y" / other)
    assert (tmp_path / "x" / other).read_bytes() == (tmp_path / "y" / other).read_bytes()
