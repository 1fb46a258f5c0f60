"""DQN on CartPole that goes on where it was killed, to the same network, bit for bit.

    python examples/resume_dqn.py runs/dqn     # kill it when you like, and run it again

Its replay buffer is a ring on the disk, which has gone round many times before the training ends. A
checkpoint is a word, "step-1506": a file of that name has what PyTorch keeps, the commit of that name the
buffer. Needs the extra [torch].
"""

import copy
import os
import sys
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
from torch import nn

import replaystore as rs
from replaystore.gymnasium import Record

STEPS, CAPACITY, EVERY, BATCH, GAMMA = 6_000, 1_000, 500, 64, 0.99


def save(path: Path, state: dict[str, Any]) -> None:
    """All of it or nothing, whenever the process is killed."""
    torch.save(state, path.with_suffix(".new"))
    os.replace(path.with_suffix(".new"), path)


def learn(net: nn.Module, target: nn.Module, optimizer: Any, batch: dict[str, Any]) -> None:
    """One step of Q-learning."""
    with torch.no_grad():
        following = target(batch["next_observation"]).max(1).values
        wanted = batch["reward"] + GAMMA * following * ~batch["terminated"]
    chosen = net(batch["observation"]).gather(1, batch["action"][:, None])[:, 0]
    optimizer.zero_grad()
    nn.functional.smooth_l1_loss(chosen, wanted.float()).backward()
    optimizer.step()


def main(folder: Path) -> None:
    """Train to the end, which leaves `network.pt` in the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    raw, place = gymnasium.make("CartPole-v1"), folder / "steps.zarr"
    net = nn.Sequential(nn.Linear(4, 64), nn.ReLU(), nn.Linear(64, 2))
    target, optimizer = copy.deepcopy(net), torch.optim.Adam(net.parameters(), 1e-3)
    rng, at = np.random.default_rng(0), {"step": 0, "episode": 0, "due": 0}

    new = {"capacity": CAPACITY, "durability": "none"}  # kills are survived, power cuts are not
    buffer = rs.open(place, "r+") if place.exists() else rs.create(place, raw, **new)
    buffer.rollback(buffer.names[-1] if buffer.names else 0)  # 0: killed before the first checkpoint
    sampler = buffer.sampler(BATCH, live=True, seed=0, device="cpu")
    if buffer.names:
        saved = torch.load(folder / f"{buffer.names[-1]}.pt")
        for name, part in (("net", net), ("target", target), ("optimizer", optimizer), ("sampler", sampler)):
            part.load_state_dict(saved[name])
        rng.bit_generator.state, at = saved["rng"], saved["at"]

    env = Record(raw, buffer)
    while at["step"] < STEPS:
        if at["step"] >= at["due"]:  # the first before the first step, so that there always is one
            at["due"] += EVERY
            name = f"step-{at['step']}"
            parts = {"net": net, "target": target, "optimizer": optimizer, "sampler": sampler}
            states = {key: part.state_dict() for key, part in parts.items()}
            save(folder / f"{name}.pt", states | {"rng": rng.bit_generator.state, "at": at})
            buffer.commit(name)  # last: a name says that the file of that name is there
        observation, _ = env.reset(seed=at["episode"])  # so an episode needs nothing of those before it
        terminated = truncated = False
        while not (terminated or truncated):
            explore = rng.random() < max(0.05, 1 - at["step"] / 1_000)
            with torch.no_grad():
                action = rng.integers(2) if explore else net(torch.from_numpy(observation)).argmax().numpy()
            observation, _, terminated, truncated, _ = env.step(action)
            at["step"] += 1
            if at["step"] % 4 == 0 and at["step"] >= EVERY:
                learn(net, target, optimizer, sampler.sample())
            if at["step"] % 200 == 0:
                target.load_state_dict(net.state_dict())
        at["episode"] += 1
    save(folder / "network.pt", net.state_dict())


if __name__ == "__main__":
    main(Path(sys.argv[1]))
