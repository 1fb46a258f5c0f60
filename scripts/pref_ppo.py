#!/usr/bin/env python3
"""Train an agent with PPO on a reward that is learned from preferences, and keep what it saw in a replay
buffer.

    python scripts/pref_ppo.py --env_id HalfCheetah-v5 --total_timesteps 20000 --replay_buffer_save_path
    runs/x/replay_buffer.zarr

A teacher that knows the true reward compares pairs of fragments out of the replay buffer; an ensemble of
networks learns a reward from its answers; PPO follows the learned reward. With a .zarr or .h5 path the replay
buffer is committed after every rollout, so that it survives a crash; a .pkl file is written at the end, and
also when the training stops with an error, by Ctrl-C, or by a SIGTERM, which batch systems send when the time
is over. What an earlier run has saved is never replaced: another one needs another path.

Command lines of active_rlhf's script of this name are taken as they are, but for the arguments that ask for
what is not done here.
"""

from __future__ import annotations

import contextlib
import json
import random
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import gymnasium
import installed  # noqa: F401  # first, so that what is missing is said in one line
import numpy as np
import torch
from commandline import Logs, argument, check, parse, run
from keeping import PICKLES, STORES, Keeper
from numpy.typing import NDArray
from ppo import Agent, Collector, Rollout, Settings, advantages, make_envs, update
from preferences import Answers, RewardEnsemble, RewardSettings, Session, Teacher

from replaystore.compat.active_rlhf import ReplayBuffer
from replaystore.errors import UnsupportedError
from replaystore.interrupts import signals_wait

FIRST_PAIRS = 32
"""Asked in the first session, which has nothing to build on."""
VAL_ROLLOUTS = 0.1
"""The part of the rollouts that goes to the split "val"."""
UNUSED = {
    "it counts only with --track True, which is not done here": [
        "wandb_project_name",
        "wandb_entity",
        "wandb_tags",
    ],
    "it counts only with --upload_model True, which is not done here": ["hf_entity"],
    "it counts only with --selector_type variquery or hybrid, which are not there": [
        *(
            f"variquery_vae_{name}"
            for name in ("latent_dim", "hidden_dims", "lr", "weight_decay", "batch_size", "val_batch_size")
        ),
        *(
            f"variquery_vae_{name}"
            for name in ("minibatch_size", "num_epochs", "dropout", "kl_weight", "kl_warmup_epochs")
        ),
        *(
            f"variquery_vae_{name}"
            for name in ("kl_warmup_steps", "early_stopping_patience", "conv_kernel_size", "attention_dim")
        ),
        *(
            f"variquery_vae_{name}"
            for name in ("attention_heads", "attention_blocks", "decoder_layers", "noise_sigma")
        ),
        "variquery_cluster_size",
    ],
    "it counts only with --selector_type duo, which is not there": ["duo_consensual_filter"],
    "it counts only with --selector_type hybrid, which is not there": [
        f"hybrid_dpp_{name}" for name in ("gamma_z", "gamma_r", "beta", "min_q", "temp_q")
    ],
}
"""Arguments of active_rlhf's script that change nothing here, by the reason."""
ELSEWHERE = ("variquery", "duo", "hybrid")
"""Selectors that active_rlhf has."""


@dataclass
class Arguments:
    exp_name: str = argument("pref_ppo", "name of the experiment, a part of the run's name")
    seed: int = argument(1, "of everything that is random")
    torch_deterministic: bool = argument(True, "only deterministic algorithms of cuDNN")
    cuda: bool = argument(True, "use a GPU if there is one")
    track: bool = argument(False, "not here: logs go to TensorBoard only")
    capture_video: bool = argument(
        False, ("record episodes of the first environment into videos/ (needs moviepy)")
    )
    save_model: bool = argument(False, "save the agent's state dict beside the logs")
    upload_model: bool = argument(False, "not here")
    env_id: str = argument("HalfCheetah-v5", "an environment of Gymnasium with continuous actions")
    total_timesteps: int = argument(1_000_000, "steps of training", least=1)
    learning_rate: float = argument(3e-4, "of the agent", above=0)
    num_envs: int = argument(1, "environments stepped together", least=1)
    num_steps: int = argument(2048, "steps of each environment in a rollout", least=1)
    anneal_lr: bool = argument(True, "let the learning rate fall to zero")
    gamma: float = argument(0.99, "discount", least=0, most=1)
    gae_lambda: float = argument(0.95, "of generalised advantage estimation", least=0, most=1)
    num_minibatches: int = argument(32, "that a rollout is cut into", least=1)
    update_epochs: int = argument(10, "over each rollout", least=1)
    norm_adv: bool = argument(True, "normalise advantages in each minibatch")
    clip_coef: float = argument(0.2, "how far the policy may move from the one that acted", above=0)
    clip_vloss: bool = argument(True, "clip the value loss as well")
    ent_coef: float = argument(0.0, "weight of the entropy")
    vf_coef: float = argument(0.5, "weight of the value loss", least=0)
    max_grad_norm: float = argument(0.5, "of the agent's gradients", above=0)
    target_kl: float | None = argument(None, "stop the epochs over a rollout beyond this divergence", least=0)
    replay_buffer_capacity: int = argument(1_000_000, "rows", least=1)
    reward_net_epochs: int = argument(3, "over all answers, after each session", least=0)
    reward_net_lr: float = argument(1e-3, "learning rate of the ensemble", above=0)
    reward_net_weight_decay: float = argument(0.0, "of the ensemble", least=0)
    reward_net_max_grad_norm: float = argument(1.0, "of the ensemble", above=0)
    reward_net_batch_size: int = argument(32, "pairs per step of the optimiser", least=1)
    reward_net_minibatch_size: int = argument(32, "pairs that are computed together", least=1)
    reward_net_ensemble_size: int = argument(3, "networks", least=1)
    reward_net_hidden_dims: tuple[int, ...] = argument(
        (256, 256, 256), ("layers of each network, such as '[256,256,256]'"), least=1
    )
    reward_net_dropout: float = argument(0.0, "in each network", least=0, below=1)
    reward_net_val_split: float = argument(
        0.2, ("part of the answers that are not learned from, but judged by"), least=0, below=1
    )
    preference_equality_threshold: float = argument(
        0.0, ("returns of fragments that differ by no more are equal to the teacher"), least=0
    )
    query_schedule: str = argument(
        "linear", "sessions are spread evenly over the training", choices=["linear"]
    )
    total_queries: int = argument(400, "pairs that the teacher may be asked about in all", least=1)
    queries_per_session: int = argument(10, f"pairs per session (in the first one {FIRST_PAIRS})", least=1)
    selector_type: str = argument("random", "how pairs are chosen: random (no other here)")
    sampling_strategy: str = argument(
        "uniform", "which fragments they are chosen from", choices=["uniform", "priority"]
    )
    oversampling_factor: float = argument(2.0, "fragments sampled per pair", least=1)
    fragment_length: int = argument(50, "steps of a fragment", least=1)
    save_replay_buffer: bool = argument(True, "keep the replay buffer")
    replay_buffer_save_path: str | None = argument(
        None, ("a .zarr, .h5 or .pkl path (default: runs/RUN/replay_buffer.pkl)")
    )


def problems(args: Arguments) -> Iterator[str]:
    """What is asked for, and not done here, or cannot be."""
    if args.selector_type != "random":
        known = (
            "pairs are chosen so in active_rlhf only"
            if args.selector_type in ELSEWHERE
            else "there is no such selector"
        )
        yield f"--selector_type {args.selector_type}: {known}; use --selector_type random"
    for name in ("track", "upload_model"):
        if getattr(args, name):
            yield (
                f"--{name} True: this script sends nothing anywhere; its logs are in runs/, for "
                f"TensorBoard: use --{name} False"
            )
    path = args.replay_buffer_save_path
    if args.save_replay_buffer and path is not None and not path.endswith((*STORES, *PICKLES)):
        yield f"--replay_buffer_save_path {path!r} has none of the suffixes {', '.join((*PICKLES, *STORES))}"
    rollout = args.num_steps * args.num_envs
    if args.num_steps < args.fragment_length:
        yield (
            f"--num_steps {args.num_steps} is less than --fragment_length {args.fragment_length}: no "
            "fragment would fit"
        )
    if args.replay_buffer_capacity < 2 * rollout:
        needed = f"must hold at least two rollouts: a rollout has num_steps * num_envs = {rollout} rows"
        yield f"--replay_buffer_capacity {args.replay_buffer_capacity} {needed}"
    if args.total_timesteps < rollout:
        yield f"--total_timesteps {args.total_timesteps} is less than one rollout of {rollout} steps"


def environments(args: Arguments, run_name: str) -> gymnasium.vector.SyncVectorEnv:
    """The vector environment, whose observations and actions are flat vectors of numbers."""
    envs = make_envs(
        args.env_id, args.num_envs, args.gamma, f"videos/{run_name}" if args.capture_video else None
    )
    actions = envs.single_action_space
    if not isinstance(actions, gymnasium.spaces.Box) or len(actions.shape) != 1:
        envs.close()
        raise UnsupportedError(
            f"{args.env_id} has the actions {actions}: only vectors of real numbers can "
            "be learned here (a flat Box)"
        )
    return envs


class Questions:
    """When the teacher is asked, about which fragments, and what the ensemble makes of the answers."""

    def __init__(self, args: Arguments, buffer: ReplayBuffer, agent: Agent, ensemble: RewardEnsemble) -> None:
        self._args, self._buffer, self._agent, self._ensemble = args, buffer, agent, ensemble
        self._generator = np.random.default_rng(args.seed)
        self._teacher = Teacher(args.preference_equality_threshold, self._generator)
        self._answers = Answers()
        sessions = max(1, args.total_queries // args.queries_per_session)
        self._due = list(np.linspace(0, 1, sessions + 1, endpoint=False)[1:] * args.total_timesteps)

    def ask(self, step: int, writer: Any) -> None:
        """Hold the sessions that are due at a step of the training."""
        args = self._args
        lengths = [info.length for info in self._buffer.trajectories if info.split == "train"]
        while self._due and step >= self._due[0] and max(lengths, default=0) >= args.fragment_length:
            del self._due[0]
            pairs = FIRST_PAIRS if not self._answers else args.queries_per_session
            pairs = min(pairs, args.total_queries - len(self._answers))
            count = int(pairs * args.oversampling_factor)
            if pairs < 1:
                continue
            if args.sampling_strategy == "priority":
                self._buffer.update_on_policiness_scores(self._agent)
                fragments = self._buffer.sample_by_on_policiness(max(2, count), self._agent, split="train")
            else:
                fragments = self._buffer.sample2(max(2, count), split="train")
            session = self._teacher.ask(fragments, pairs, self._answers)
            self._log(session, self._ensemble.learn(self._answers, self._generator), step, writer)

    def _log(self, session: Session, learned: dict[str, float], step: int, writer: Any) -> None:
        differences = np.abs(session.differences)
        writer.add_scalar("prefs/num_pairs", len(self._answers), step)
        writer.add_scalar("prefs/num_equal_labels", session.equal, step)
        writer.add_scalar("prefs/equal_pref_threshold", self._args.preference_equality_threshold, step)
        writer.add_scalar("prefs/mean_return_delta", differences.mean(), step)
        writer.add_histogram("prefs/return_deltas", differences, step)
        for name, value in learned.items():
            writer.add_scalar(f"reward/{name}", value, step)


def compare(learned: NDArray[np.float32], true: NDArray[np.float32]) -> dict[str, float]:
    """How well the learned reward follows the true one, for the logs."""
    ranks = [values.argsort().argsort().astype(np.float64) for values in (learned, true)]
    varied = learned.std() > 0 and true.std() > 0
    found = {
        "corr_pearson": float(np.corrcoef(learned, true)[0, 1]) if varied else 0.0,
        "corr_spearman": float(np.corrcoef(ranks[0], ranks[1])[0, 1]) if varied else 0.0,
    }
    for prefix, values in (("reward", learned), ("ground_truth_reward", true)):
        found |= {
            f"{prefix}_{name}": float(getattr(values, name)()) for name in ("mean", "std", "min", "max")
        }
    return found | {
        "reward_diff_mean": float((learned - true).mean()),
        "reward_diff_std": float((learned - true).std()),
    }


def add(buffer: ReplayBuffer, rollout: Rollout, split: str) -> None:
    """Add the rollout of each environment as a trajectory of its own, so that no fragment mixes
    environments."""
    for env in range(rollout.obs.shape[1]):
        with signals_wait():  # a buffer that is saved because of one has all of a trajectory
            buffer.add(
                rollout.obs[:, env],
                rollout.actions[:, env],
                rollout.rewards[:, env],
                rollout.dones[:, env],
                split,
            )


def log(writer: Logs, step: int, rollout: Rollout, scalars: Mapping[str, float]) -> None:
    """Log what was measured in an iteration."""
    for name, value in scalars.items():
        writer.add_scalar(name, value, step)
    for episode_return, length in rollout.episodes:
        print(f"global_step={step}, episodic_return={episode_return:.1f}")
        writer.add_scalar("charts/episodic_return", episode_return, step)
        writer.add_scalar("charts/episodic_length", length, step)


def train(args: Arguments, envs: gymnasium.vector.SyncVectorEnv, run_folder: Path) -> None:
    """Train, log and keep the replay buffer."""
    device = torch.device("cuda" if args.cuda and torch.cuda.is_available() else "cpu")
    sizes = [
        gymnasium.spaces.flatdim(space) for space in (envs.single_observation_space, envs.single_action_space)
    ]
    agent = Agent(*sizes).to(device)
    optimizer = torch.optim.Adam(agent.parameters(), lr=args.learning_rate, eps=1e-5)
    given = {field.name: getattr(args, f"reward_net_{field.name}") for field in fields(RewardSettings)}
    ensemble = RewardEnsemble(sum(sizes), RewardSettings(**given), device)
    settings = Settings(**{field.name: getattr(args, field.name) for field in fields(Settings)})
    buffer = ReplayBuffer(
        envs, capacity=args.replay_buffer_capacity, fragment_length=args.fragment_length, device=device
    )
    questions = Questions(args, buffer, agent, ensemble)
    path = Path(args.replay_buffer_save_path or run_folder / "replay_buffer.pkl")
    model = run_folder / f"{args.exp_name}.cleanrl_model"
    keeper = Keeper(
        buffer, agent, path if args.save_replay_buffer else None, model if args.save_model else None
    )
    rows = "\n".join(f"|{name}|{json.dumps(value)}|" for name, value in asdict(args).items())
    with contextlib.closing(envs), Logs(run_folder) as writer, keeper:
        writer.add_text("hyperparameters", f"|param|value|\n|-|-|\n{rows}")
        collector = Collector(envs, device, args.seed)
        add(buffer, collector.collect(agent, args.num_steps), "val")
        begin, batch = time.monotonic(), args.num_steps * args.num_envs
        for iteration in range(args.total_timesteps // batch):
            step = (iteration + 1) * batch
            if args.anneal_lr:
                optimizer.param_groups[0]["lr"] = args.learning_rate * (
                    1 - iteration / (args.total_timesteps // batch)
                )
            rollout = collector.collect(agent, args.num_steps)
            add(buffer, rollout, "val" if random.random() < VAL_ROLLOUTS else "train")  # noqa: S311
            keeper.after_rollout()
            questions.ask(step, writer)
            rewards = ensemble.rewards(rollout.obs, rollout.actions)
            measured = compare(rewards.flatten().cpu().numpy(), rollout.rewards.flatten().cpu().numpy())
            # Preferences say nothing of the scale of a reward.
            advantage = advantages(
                rollout, rewards / (rewards.std() + 1e-8), agent, args.gamma, args.gae_lambda
            )
            losses = update(agent, optimizer, rollout, advantage, settings)
            scalars = {f"debug/{name}": value for name, value in measured.items()} | {
                f"losses/{name}": losses[name] for name in losses
            }
            scalars |= {
                "charts/learning_rate": optimizer.param_groups[0]["lr"],
                "charts/SPS": int(step / (time.monotonic() - begin)),
            }
            log(writer, step, rollout, scalars)
            buffer.log_trajectory_statistics(writer, step)


def new_name(args: Arguments) -> str:
    """The name of a run, which no earlier one has."""
    now = int(time.time())
    while Path("runs", name := f"{args.env_id}__{args.exp_name}__{args.seed}__{now}").exists():
        now += 1
    return name


def main(argv: Sequence[str] | None = None) -> int:
    args = parse(Arguments, argv, __doc__.splitlines()[0], UNUSED)
    check(args, problems(args))
    random.seed(args.seed)
    np.random.seed(args.seed)  # noqa: NPY002  # sample2 draws from the global generator, as its users expect
    torch.manual_seed(args.seed)
    torch.backends.cudnn.deterministic = args.torch_deterministic
    run_name = new_name(args)
    train(args, environments(args, run_name), Path("runs") / run_name)
    return 0


if __name__ == "__main__":
    run(main)
