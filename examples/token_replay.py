"""Two actors answer prompts with tokens, a learner reads both stores: they learn to repeat what they read.

    for who in 0 1 learner; do python examples/token_replay.py runs/tokens $who & done; wait

Kill any of them when you like, and run it again: the policy ends the same, bit for bit. Needs [torch]."""

import sys
import time
from pathlib import Path
from typing import Any

import torch

import replaystore as rs

ROUNDS, ANSWERS, WINDOW = 40, 64, 256  # a round: a named commit of each store, then a file
FIELDS = {
    "prompt": rs.Field.of_text("extra"),
    "tokens": rs.Field("int32", (None,), "extra"),  # 1 is "a"
    "logprob": rs.Field("float32", (None,), "extra"),  # of each token, when it was drawn
    "reward": rs.Field("float32", (), "reward"),  # the share that was right
}
torch.manual_seed(0)
POLICY = torch.nn.Sequential(torch.nn.Embedding(9, 32), torch.nn.Linear(32, 9))


def wait_for(look: Any, place: Path, **how: Any) -> Any:
    """What another process is about to make: a file, a store, a commit."""
    while True:
        try:
            return look(place, **how)
        except FileNotFoundError:
            time.sleep(0.01)


def act(folder: Path, actor: int) -> None:
    place = folder / f"actor-{actor}.zarr"
    new = {"capacity": WINDOW, "keep_named": 2, "durability": "none"}  # 2: the learner is one round behind
    with rs.open(place, "r+") if place.exists() else rs.create(place, rs.Schema(FIELDS), **new) as buffer:
        buffer.rollback(buffer.names[-1] if buffer.names else 0)
        for turn in range(len(buffer.names), ROUNDS):
            if turn > 1:
                POLICY.load_state_dict(wait_for(torch.load, folder / f"{turn - 2:03}.pt"))
            torch.manual_seed(2 * turn + actor)  # so a round needs nothing of those before it
            letters, lengths = torch.randint(1, 9, (ANSWERS, 6)), torch.randint(1, 7, (ANSWERS,))
            chances = torch.distributions.Categorical(logits=POLICY(letters))
            tokens, mask = chances.sample(), torch.arange(6) < lengths[:, None]
            parts = letters, tokens.int(), chances.log_prob(tokens).detach()
            words, said, logprob = (part[mask].split(lengths.tolist()) for part in parts)
            asked = ["".join(chr(96 + letter) for letter in word) for word in words]
            right = ((tokens == letters) & mask).sum(1) / lengths
            steps = {"prompt": asked, "tokens": said, "logprob": logprob, "reward": right}
            buffer.append(steps, ends=range(ANSWERS))
            buffer.commit(f"round-{turn}")


def learn(folder: Path) -> None:
    optimizer, saved = torch.optim.SGD(POLICY.parameters(), 1.0), sorted(folder.glob("*.pt"))
    POLICY.load_state_dict(torch.load(saved[-1]) if saved else POLICY.state_dict())
    for turn in range(len(saved), ROUNDS):
        both = [wait_for(rs.open, folder / f"actor-{n}.zarr", commit=f"round-{turn}") for n in (0, 1)]
        sampler = rs.concat(both).sampler(64, order="epoch", seed=turn, pad_values="end", device="cpu")
        with both[0], both[1]:
            for batch in sampler:
                chances = torch.distributions.Categorical(logits=POLICY(batch["prompt"].int() & 15))
                ratio = (chances.log_prob(batch["tokens"]) - batch["logprob"]).exp()
                gain = (batch["reward"] - batch["reward"].mean())[:, None]
                loss = torch.max(-ratio * gain, -ratio.clamp(0.8, 1.2) * gain)
                optimizer.zero_grad()
                loss[batch["mask/tokens"]].mean().backward()
                optimizer.step()
            print(f"{turn}: {batch['reward'].mean():.0%} right", both[0]["prompt"][-1], both[0]["tokens"][-1])
        torch.save(POLICY.state_dict(), folder / "new")
        (folder / "new").replace(folder / f"{turn:03}.pt")


if __name__ == "__main__":
    where, who = Path(sys.argv[1]), sys.argv[2]
    learn(where) if who == "learner" else act(where, int(who))
