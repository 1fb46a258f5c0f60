"""The autoencoder of fragments learns, stops, is kept, and refuses what cannot be."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from analysed_rings import Ring, Run

from replaystore.analysis.fragments import Fragments
from replaystore.analysis.vae import FragmentVAE, kl_divergence
from replaystore.analysis.vae_training import Result, Settings, Unlocking, train
from replaystore.errors import SchemaError


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
