"""Fragments, epochs and the autoencoder, on buffers of which everything is known."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from replaystore.analysis import plots
from replaystore.analysis.fragments import Fragments, blocks, places, random_rows, statistics, unowned
from replaystore.analysis.vae import FragmentVAE, kl_divergence
from replaystore.analysis.vae_training import Result, Settings, Unlocking, train
from replaystore.errors import SchemaError


@dataclass
class Run:
    start_pos: int
    length: int
    split: str = "train"
    on_policiness_score: float = 0.0


class Counting:
    """A tensor that knows how many rows were read of it at most at once."""

    def __init__(self, rows: torch.Tensor) -> None:
        self.rows, self.shape, self.most = rows, rows.shape, 0

    def __getitem__(self, places: torch.Tensor) -> torch.Tensor:
        self.most = max(self.most, places.numel())
        return self.rows[places]


class Ring:
    """A buffer whose observations say in which row they are."""

    def __init__(
        self, capacity: int, trajectories: list[Run], size: int | None = None, width: int = 2
    ) -> None:
        self.capacity, self.trajectories, self.size = (
            capacity,
            trajectories,
            capacity if size is None else size,
        )
        numbers = torch.arange(capacity, dtype=torch.float32)
        self.obs: Any = Counting(torch.stack([numbers * (place + 1) for place in range(width)], dim=1))
        self.acts: Any = torch.zeros(capacity, 1)
        self.rews: Any = Counting(numbers[:, None] / 7)
        self.dones: Any = Counting(numbers[:, None] % 25 == 24)


@st.composite
def rings(draw: st.DrawFn) -> Ring:
    """Trajectories side by side round a ring, with gaps; the last one may reach round the end."""
    lengths = draw(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 12)), max_size=6))
    total = sum(gap + length for gap, length in lengths)
    capacity = max(1, total + draw(st.integers(0, 3)))
    place, runs = draw(st.integers(0, capacity - 1)), []
    for gap, length in lengths:
        runs.append(Run((place + gap) % capacity, length))
        place += gap + length
    return Ring(capacity, runs)


@given(rings(), st.integers(1, 7))
def test_blocks_are_the_rows_of_trajectories_in_order(ring: Ring, block: int) -> None:
    expected = [
        (run.start_pos + step) % ring.capacity for run in ring.trajectories for step in range(run.length)
    ]

    found = list(places(ring, ring.trajectories, block))

    assert [row for rows in found for row in rows.tolist()] == expected
    assert all(0 < len(rows) <= block for rows in found)


@given(rings())
def test_rows_of_no_trajectory_are_all_the_others(ring: Ring) -> None:
    owned = {
        (run.start_pos + step) % ring.capacity for run in ring.trajectories for step in range(run.length)
    }

    rest = [run.start_pos + step for run in unowned(ring) for step in range(run.length)]

    assert sorted(rest) == sorted(set(range(ring.size)) - owned)


@given(rings(), st.integers(1, 6), st.integers(1, 5), st.integers(0, 9))
def test_an_epoch_goes_over_whole_fragments_once(ring: Ring, length: int, batch_size: int, seed: int) -> None:
    if not any(run.length >= length for run in ring.trajectories):
        with pytest.raises(SchemaError, match="fragment"):
            Fragments(ring, ring.trajectories, length)
        return
    data = Fragments(ring, ring.trajectories, length)
    owner = {
        (run.start_pos + step) % ring.capacity: run for run in ring.trajectories for step in range(run.length)
    }

    for batches in (data.epoch(batch_size, np.random.default_rng(seed)), data.in_order(batch_size)):
        fragments = [rows for batch in batches for rows in batch[:, :, 0].long().tolist()]
        assert all(rows == [(rows[0] + step) % ring.capacity for step in range(length)] for rows in fragments)
        assert all(owner[rows[0]] is owner[rows[-1]] for rows in fragments)
        assert len({row for rows in fragments for row in rows}) == length * len(fragments), (
            "no row comes twice"
        )
    assert len(fragments) == len(data) == sum(run.length // length for run in ring.trajectories)
    assert len(data.draw(3, np.random.default_rng(seed))) == min(3, len(data))


def test_every_step_is_at_every_place_of_a_fragment_after_some_epochs() -> None:
    data = Fragments(Ring(40, [Run(0, 40)]), [Run(0, 40)], 8)
    generator = np.random.default_rng(0)

    begins = {
        int(fragment[0, 0]) % 8 for _ in range(60) for batch in data.epoch(4, generator) for fragment in batch
    }

    assert begins == set(range(8))


def test_a_few_fragments_stand_for_many() -> None:
    ring = Ring(1000, [Run(0, 1000)])

    found = torch.cat(list(Fragments(ring, ring.trajectories, 10).in_order(4, at_most=5)))

    assert found[:, 0, 0].tolist() == [0, 240, 490, 740, 990]


def test_statistics_and_random_rows_are_of_the_trajectories_only() -> None:
    ring = Ring(100, [Run(10, 20), Run(95, 10)], width=1)
    rows = [*range(10, 30), *range(95, 100), *range(5)]

    found = statistics(ring, "obs", ring.trajectories)
    drawn = random_rows(ring, "obs", ring.trajectories, 1000, np.random.default_rng(0))

    assert (found.count, found.mean[0], found.std[0]) == (
        30,
        pytest.approx(np.mean(rows)),
        pytest.approx(np.std(rows)),
    )
    assert sorted(drawn[:, 0].tolist()) == sorted(rows)
    assert len(random_rows(ring, "obs", ring.trajectories, 7, np.random.default_rng(0))) == 7


def test_pictures_need_a_block_of_rows_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("replaystore.analysis.fragments.BLOCK_BYTES", 4 * 50 * 2)
    monkeypatch.setattr("replaystore.analysis.plots.SAMPLE", 60)
    ring = Ring(1000, [Run(0, 300), Run(300, 300, "val"), Run(700, 200, "")])

    written = plots.draw_all(ring, tmp_path / "analysis", "numbers")

    assert len(written) == 5
    assert ring.obs.most == 60
    assert ring.rews.most == ring.dones.most == 100
    assert [len(block) for block in blocks(ring, "obs", ring.trajectories)] == [50] * 16


@pytest.mark.parametrize(
    "ring",
    [
        Ring(10, [], size=0),
        Ring(10, [Run(0, 0)], size=0),
        Ring(50, [], size=20),
        Ring(60, [Run(3, 50)], width=50),
    ],
)
def test_pictures_of_odd_buffers_are_drawn_too(ring: Ring, tmp_path: Path) -> None:
    assert all(path.stat().st_size > 5000 for path in plots.draw_all(ring, tmp_path, "odd"))


# --- the autoencoder


class Waves(Ring):
    """Sines: a fragment is told by an amplitude and a phase for each dimension."""

    def __init__(self) -> None:
        super().__init__(1200, [Run(0, 500), Run(500, 500), Run(1000, 200, "val")])
        step = torch.arange(1200) / 4
        self.obs = torch.stack(
            [100 + 5 * torch.sin(step), torch.cos(step / 1.7), torch.full((1200,), 3.0)], dim=1
        )

    def fit(self, settings: Settings) -> tuple[FragmentVAE, Result, list[dict[str, float]]]:
        torch.manual_seed(0)
        model, seen = FragmentVAE(3, 12, latent_dim=6, hidden_dims=(16,), dropout=0.0, kernel_size=4), []
        data = Fragments(self, self.trajectories[:2], 12), Fragments(self, self.trajectories[2:], 12)
        result = train(
            model, self, *data, settings, lambda epoch, values: seen.append({"epoch": epoch, **values})
        )
        return model, result, seen


QUICK = Settings(epochs=12, batch_size=8, lr=3e-3, kl_weight=0.05, kl_warmup_epochs=3, patience=0)


def test_the_autoencoder_learns_what_fragments_have_in_common() -> None:
    model, result, seen = Waves().fit(QUICK)

    assert result.mean_recon == pytest.approx(2 / 3, rel=0.1), "one of three dimensions never changes"
    assert result.recon < 0.1 * result.mean_recon
    assert seen[0]["val_recon_loss"] > 2 * seen[-1]["val_recon_loss"]
    assert model.mean.tolist() == pytest.approx([100, 0, 3], abs=0.2)
    assert not model.training or result.epochs == 12


def test_the_same_seed_gives_the_same_model_and_another_one_does_not() -> None:
    short = replace(QUICK, epochs=2)

    one, again, other = (Waves().fit(replace(short, seed=seed))[0].state_dict() for seed in (5, 5, 6))

    assert all(torch.equal(one[name], again[name]) for name in one)
    assert not torch.equal(one["latent.weight"], other["latent.weight"])


def test_training_stops_when_nothing_is_gained_and_not_while_the_weight_rises() -> None:
    still = replace(QUICK, epochs=40, lr=1e-12, weight_decay=0.0, kl_warmup_epochs=6, patience=3)

    _, result, seen = Waves().fit(still)

    assert 6 + 3 <= result.epochs <= 6 + 3 + 2
    assert len(seen) == result.epochs
    assert Waves().fit(replace(still, patience=0, epochs=12))[1].epochs == 12


def test_the_best_model_is_kept() -> None:
    model, result, seen = Waves().fit(replace(QUICK, lr=0.05, epochs=6))

    best = min(seen, key=lambda values: values["val_total_loss"])
    assert (result.best_epoch, result.recon) == (best["epoch"], best["val_recon_loss"])
    waves = Waves()
    fragments = torch.cat(list(Fragments(waves, waves.trajectories[2:], 12).in_order(100)))
    error = (model.standardised(model.eval()(fragments)[0]) - model.standardised(fragments)) ** 2
    assert error.mean().item() == pytest.approx(result.recon, rel=1e-4)


def test_more_and_more_trajectories_are_unlocked() -> None:
    _, _, seen = Waves().fit(replace(QUICK, epochs=5, unlocking=Unlocking(0.5, 1.0)))

    assert [values["train_trajectories_used"] for values in seen] == [1, 1, 1, 1, 2]
    assert [values["data_fraction"] for values in seen] == pytest.approx([0.5, 0.625, 0.75, 0.875, 1.0])


@pytest.mark.parametrize(
    ("schedule", "fractions"),
    [
        ("linear", [0.2, 0.4, 0.6, 0.8, 1.0]),
        ("exponential", [0.2, 0.3514, 0.5314, 0.7454, 1.0]),
        ("step", [0.2, 0.2, 0.6, 0.6, 1.0]),
    ],
)
def test_schedules_of_unlocking(schedule: str, fractions: list[float]) -> None:
    unlocking = Unlocking(0.2, 1.0, schedule, steps=2)

    assert [unlocking.fraction(epoch, 5) for epoch in range(5)] == pytest.approx(fractions, abs=1e-4)
    assert unlocking.fraction(0, 1) == pytest.approx(0.2)


def test_kl_divergence_agrees_with_torch() -> None:
    mean, log_variance = torch.randn(2, 5, 3).unbind()
    normal = torch.distributions.Normal

    expected = torch.distributions.kl_divergence(
        normal(mean, (log_variance / 2).exp()), normal(torch.zeros(3), torch.ones(3))
    )

    torch.testing.assert_close(kl_divergence(mean, log_variance), expected)


@pytest.mark.parametrize(
    "make",
    [
        lambda: FragmentVAE(3, 8, latent_dim=0),
        lambda: FragmentVAE(3, 8, hidden_dims=()),
        lambda: FragmentVAE(3, 8, dropout=1.0),
        lambda: Settings(epochs=0),
        lambda: Settings(kl_weight=-1),
        lambda: Unlocking(schedule="sudden"),
        lambda: Unlocking(initial=0.0),
    ],
)
def test_settings_that_cannot_be_are_refused(make: Any) -> None:
    with pytest.raises(SchemaError):
        make()


def test_observations_that_are_not_finite_are_refused() -> None:
    waves = Waves()
    waves.obs[3, 0] = float("inf")

    with pytest.raises(SchemaError, match="not finite"):
        waves.fit(QUICK)
