"""What the scripts learn with: advantages, updates, ensembles and the teacher."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from running import script


def test_advantages_stop_at_the_ends_of_episodes() -> None:
    ppo = script("ppo")
    generator = torch.Generator().manual_seed(0)
    steps, gamma, gae_lambda = 7, 0.9, 0.8
    rewards, values = torch.rand(2, steps, 1, generator=generator)
    dones = torch.tensor([0, 0, 1, 0, 0, 0, 0], dtype=torch.bool)[:, None]
    agent = ppo.Agent(2, 1)
    last_obs = torch.rand(1, 2, generator=generator)
    obs, actions = torch.zeros(steps, 1, 2), torch.zeros(steps, 1, 1)
    rollout = ppo.Rollout(obs, actions, rewards, dones, rewards, values, last_obs, torch.tensor([False]), [])

    found = ppo.advantages(rollout, rewards, agent, gamma, gae_lambda)[:, 0]

    following = [*values[1:, 0].tolist(), agent.get_value(last_obs).item()]
    # The observation after step 1 is the last one of an episode.
    ends = [False, True, False, False, False, False, False]
    for step in range(steps):
        expected, weight = 0.0, 1.0
        for later in range(step, steps):
            bootstrap = 0.0 if ends[later] else gamma * following[later]
            expected += weight * (rewards[later, 0].item() + bootstrap - values[later, 0].item())
            weight *= 0.0 if ends[later] else gamma * gae_lambda
        assert found[step].item() == pytest.approx(expected, abs=1e-5)


def test_updates_prefer_actions_that_did_better() -> None:
    ppo = script("ppo")
    torch.manual_seed(0)
    agent = ppo.Agent(2, 1)
    optimizer = torch.optim.Adam(agent.parameters(), lr=3e-3)
    settings = ppo.Settings(4, 4, 0.2, True, True, 0.0, 0.5, 0.5, None)
    obs, dones = torch.zeros(256, 1, 2), torch.zeros(256, 1, dtype=torch.bool)
    dones[::2] = True  # of these nothing is learned, though they say the opposite

    for _ in range(12):
        with torch.no_grad():
            actions, log_probs, _, values = agent.get_action_and_value(obs.flatten(0, 1))
        rewards = -((actions - 1.5) ** 2).T.reshape(256, 1)
        rewards[::2] *= -1
        rollout = ppo.Rollout(
            obs,
            actions[:, None],
            rewards,
            dones,
            log_probs[:, None],
            values[:, None],
            obs[0],
            torch.tensor([False]),
            [],
        )
        measured = ppo.update(agent, optimizer, rollout, rewards - values[:, None], settings)

    assert agent.policy(torch.zeros(1, 2)).item() > 0.5
    assert np.isfinite(list(measured.values())).all()


def test_the_ensemble_learns_the_reward_that_the_teacher_has_in_mind() -> None:
    from replaystore.compat.active_rlhf import ReplayBufferBatch

    preferences = script("preferences")
    torch.manual_seed(0)
    generator = np.random.default_rng(0)
    obs, acts = torch.randn(240, 10, 3), torch.randn(240, 10, 2)
    true = obs[..., :1] - 0.5 * acts[..., 1:]
    answers = preferences.Answers()
    session = preferences.Teacher(0.0, generator).ask(
        ReplayBufferBatch(obs, acts, true, true > 0), 120, answers
    )
    settings = preferences.RewardSettings(10, 3e-3, 0.0, 1.0, 32, 8, 2, (32,), 0.0, 0.2)
    ensemble = preferences.RewardEnsemble(5, settings, torch.device("cpu"))

    before = ensemble.learn(answers, generator)
    for _ in range(5):
        after = ensemble.learn(answers, generator)

    assert (len(answers), len(session.differences), session.equal) == (120, 120, 0)
    assert after["train_loss"] < before["train_loss"]
    assert after["accuracy"] > 0.85
    predicted = ensemble.rewards(obs, acts)
    assert np.corrcoef(predicted.flatten(), true.flatten())[0, 1] > 0.8


def test_the_teacher_takes_small_differences_for_none() -> None:
    from replaystore.compat.active_rlhf import ReplayBufferBatch

    preferences = script("preferences")
    answers = preferences.Answers()
    rewards = torch.tensor([0.0, 1.0, 5.0]).reshape(3, 1, 1)
    fragments = ReplayBufferBatch(
        torch.arange(3.0).reshape(3, 1, 1), torch.zeros(3, 1, 1), rewards, rewards > 9
    )

    session = preferences.Teacher(2.0, np.random.default_rng(0)).ask(fragments, 30, answers)

    numbers = [
        (int(first[0, 0]), int(second[0, 0]))
        for first, second in zip(answers.first, answers.second, strict=True)
    ]
    returns = rewards.flatten().tolist()
    for (one, other), preferred in zip(numbers, answers.preferred, strict=True):
        difference = returns[one] - returns[other]
        assert preferred == (0.5 if abs(difference) <= 2 else float(difference > 0))
    assert session.equal == answers.preferred.count(0.5) > 0
