"""Pictures say what they show: whose they are, what was never scored, which line is which; and they are
written whole, or not at all."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from analysed_rings import Ring, Run
from matplotlib.figure import Figure

from replaystore.analysis import figures, plots, vae_plots
from replaystore.analysis.vae import FragmentVAE
from replaystore.errors import AlreadyExistsError, StorageError

TITLE = "HalfCheetah-v5, 300 rows"


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> dict[str, Figure]:
    """Figures by the name of their file, which is not written."""
    found: dict[str, Figure] = {}

    def keep(made: Figure, path: Path) -> None:
        found[Path(path).stem] = made

    monkeypatch.setattr(plots, "save", keep)
    monkeypatch.setattr(vae_plots, "save", keep)
    return found


def ring(scores: list[float]) -> Ring:
    runs = [
        Run(30 * number, 30, "val" if number % 3 == 0 else "train", score)
        for number, score in enumerate(scores)
    ]
    return Ring(300, runs)


def model(width: int) -> tuple[FragmentVAE, torch.Tensor]:
    torch.manual_seed(0)
    return FragmentVAE(width, 8, 4, (16,)), torch.randn(6, 8, width)


def words(made: Figure) -> str:
    """All that is written in a picture."""
    axes = made.get_axes()
    texts = [text.get_text() for place in axes for text in [*place.texts, place.title]]
    return "\n".join([*texts, *legend(made)])


def legend(made: Figure) -> list[str]:
    legends = [place.get_legend() for place in made.get_axes()]
    return [text.get_text() for shown in legends if shown is not None for text in shown.get_texts()]


def test_every_picture_says_whose_it_is(drawn: dict[str, Figure], tmp_path: Path) -> None:
    plots.draw_all(ring([0.0] * 10), tmp_path, TITLE)
    vae_plots.draw_all(*model(3), tmp_path, TITLE)

    assert len(drawn) == 10
    assert {made.get_suptitle() for made in drawn.values()} == {TITLE}


def test_trajectories_that_were_never_scored_are_no_zeros(drawn: dict[str, Figure], tmp_path: Path) -> None:
    plots.draw_all(ring([-40.0, -30.0, 0.0, -20.0, float("nan"), 0.0, -10.0]), tmp_path, TITLE)

    made = drawn["on_policiness_scores"]
    each, over_age = made.get_axes()
    assert "2 of 7 trajectories were never scored" in each.get_title()
    assert legend(made) == ["train: 2", "val: 3", "train: 2 scored", "val: 3 scored", "never scored: 2"]
    points = {str(shown.get_label()): np.asarray(shown.get_offsets()) for shown in over_age.collections}
    assert points["never scored: 2"][:, 0].tolist() == [2, 5]
    assert all(0 not in shown[:, 1] for shown in points.values()), "no score is 0"
    low, high = over_age.get_xlim()
    assert low < 0
    assert high > 6


@pytest.mark.parametrize(("scores", "expected"), [([0.0] * 4, "no trajectory has been scored"), ([], "none")])
def test_where_nothing_is_scored_that_is_said(
    scores: list[float], expected: str, drawn: dict[str, Figure], tmp_path: Path
) -> None:
    plots.draw_all(ring(scores), tmp_path, TITLE)

    assert words(drawn["on_policiness_scores"]).split("\n").count(expected) == 2


@pytest.mark.parametrize("width", [1, 17, figures.MAX_LINES])
def test_lines_are_told_apart_and_named(width: int, drawn: dict[str, Figure], tmp_path: Path) -> None:
    vae_plots.draw_all(*model(width), tmp_path, TITLE)

    made = drawn["reconstructions"]
    for place in made.get_axes():
        looks = {(line.get_color(), line.get_linestyle()) for line in place.get_lines()}
        assert len(looks) == len(place.get_lines()) == width
    assert [text.get_text() for text in made.legends[0].get_texts()] == [
        str(number) for number in range(width)
    ]


def test_more_lines_than_can_be_told_apart_are_an_image(drawn: dict[str, Figure], tmp_path: Path) -> None:
    width = figures.MAX_LINES + 1

    vae_plots.draw_all(*model(width), tmp_path, TITLE)

    *places, bar = drawn["reconstructions"].get_axes()
    assert len(places) == 10
    for place in places:
        assert not place.get_lines()
        (image,) = place.get_images()
        assert image.get_size() == (width, 8)
    assert "standard deviations" in bar.get_ylabel()


def test_splits_have_colours_of_their_own() -> None:
    splits = ["train", "val", *(f"split {number}" for number in range(8))]

    assert len({figures.colour(split, number) for number, split in enumerate(splits)}) == len(splits)


def half(made: Figure, file: Any, **_: Any) -> None:
    file.write(b"half of a picture")
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_picture_that_cannot_be_written_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(figures, "DPI", 30)
    before = {path: path.read_bytes() for path in plots.draw_all(ring([-1.0] * 3), tmp_path, TITLE)}
    monkeypatch.setattr(Figure, "savefig", half)

    for folder in (tmp_path, tmp_path / "new"):
        with pytest.raises(
            StorageError,
            match=(
                r"trajectory_lengths\.png cannot be written: No space left "
                r"on device; make room"
            ),
        ):
            plots.draw_all(ring([-1.0] * 3), folder, TITLE)
        with pytest.raises(StorageError, match=r"latent_space_2d\.png cannot be written"):
            vae_plots.draw_all(*model(3), folder, TITLE)

    assert not list((tmp_path / "new").iterdir())
    assert {path: path.read_bytes() for path in tmp_path.glob("*.*")} == before


def test_a_folder_is_not_taken_for_a_picture(tmp_path: Path) -> None:
    (tmp_path / "kl_per_dimension.png").mkdir()

    with pytest.raises(AlreadyExistsError, match="choose another name"):
        vae_plots.draw_all(*model(3), tmp_path, TITLE)
