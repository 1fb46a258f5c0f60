"""A sample of the matrix of formats, and whether a lie would be seen; `./scripts/campaign matrix` has all."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from tried_formats import SAMPLES, TRIED

from replaystore.formats.report import KEPT, Fate, after, changed, derived, lost, made_up, rest_after
from replaystore.testing import difficult
from replaystore.testing.campaigns import matrix as campaign
from replaystore.testing.matrix import Cell, Matrix, foreign, ways

STORES = ("plain", "nested", "wide", "images", "integers", "texts", "unflagged", "loose", "empty")


@pytest.fixture(scope="module")
def matrix() -> Iterator[Matrix]:
    """What one test has made is there for the others."""
    with tempfile.TemporaryDirectory() as folder:
        yield Matrix(folder)


def tried() -> list[str]:
    return [name for name in ways()[1] if name in TRIED]


@pytest.mark.parametrize("name", TRIED)
@pytest.mark.parametrize("store", ["everything", "plain"])
def test_what_a_report_does_not_name_comes_back(matrix: Matrix, name: str, store: str) -> None:
    if name not in tried():
        pytest.skip(f"what {name} needs is not installed")

    assert matrix.outcome(Cell(store, None, name)).problems == []


@pytest.mark.parametrize("at", range(len(TRIED)))
def test_what_went_through_two_formats_is_what_both_reports_say(matrix: Matrix, at: int) -> None:
    """Each format is the first once, and once the second."""
    both = tried()
    if at >= len(both):
        pytest.skip("not all formats are installed")
    cell = Cell(STORES[at % len(STORES)], both[at], both[(at + 1) % len(both)])

    assert matrix.outcome(cell).problems == [], cell


@pytest.mark.parametrize("name", ["cartpole", "dictobs"])
def test_what_was_recorded_goes_through_every_format(matrix: Matrix, name: str) -> None:
    if not SAMPLES.is_dir():
        pytest.skip("the samples of other software are not here")
    make = partial(difficult.truth, samples=str(SAMPLES), name=name)

    found = {way: matrix.outcome(Cell(name, None, way), make).problems for way in tried()}

    assert not any(found.values()), found


def test_files_of_other_software_are_found_by_their_content() -> None:
    if not SAMPLES.is_dir():
        pytest.skip("the samples of other software are not here")

    found = {name for name, _ in foreign(str(SAMPLES))}

    assert {"active_rlhf", "d4rl", "minari", "robomimic", "velora"} <= found


@pytest.mark.parametrize("store", difficult.DIFFICULT)
def test_difficult_stores_are_sound_and_the_same_for_a_seed(tmp_path: Path, store: str) -> None:
    if store == "short":
        pytest.skip("it takes long, and is made as the others are")
    one, two = Matrix(str(tmp_path / "a"), seed=3), Matrix(str(tmp_path / "b"), seed=3)

    first, second = (one.things(store), two.things(store))

    assert first.digests({}) == second.digests({})
    if store != "empty":
        assert first.table["open"].sum() == 1
        assert {"success", "score", "level"} <= first.table.keys()
        assert 1 in first.lengths
    if store not in ("empty", "unflagged"):
        assert (first.table["terminated"] & first.table["truncated"]).any()
        assert {"train", "val", ""} == set(first.table["split"].tolist())
        assert (first.table["seed"] >= 0).any()
        assert len(np.unique(first.table["env"])) > 2


def test_a_lie_is_caught_and_what_is_no_lie_is_not() -> None:
    with tempfile.TemporaryDirectory() as folder:
        tally = campaign.control(folder, seed=0)

    assert len(tally.failures) == 7, tally


@pytest.mark.parametrize(
    ("first", "second", "both"),
    [
        (KEPT, lost("a"), lost("a")),
        (lost("a"), KEPT, lost("a")),
        (lost("a"), made_up("b"), made_up("b")),
        (changed("a", 1.0), changed("b", 0.5), changed("a; b", 1.5)),
        (changed("a", 1.0), changed("b"), changed("a; b")),
        (changed("a", 1.0), derived("b"), changed("a", 1.0)),
        (derived("a"), KEPT, derived("a")),
        (made_up("a"), changed("b"), made_up("b")),
    ],
)
def test_what_two_conversions_make_of_a_thing(first: Fate, second: Fate, both: Fate) -> None:
    assert after({"x": first}, {"x": second}) == {"x": both}
    assert after({"x": first}, {}) == {"x": first}


def test_steps_of_no_trajectory_that_became_others_make_other_trajectories() -> None:
    first = {"steps": made_up("rows")}

    assert rest_after(first, {"steps": lost()}) == {
        "steps": lost(),
        "trajectories": changed("other steps are in them"),
    }
    assert after(first, {}) == first  # a field of that name
