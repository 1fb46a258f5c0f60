#!/usr/bin/env python3
"""Train a convolutional variational autoencoder on the fragments of a replay buffer.

    python scripts/train_vae_on_replay_buffer.py --replay_buffer_path runs/x/replay_buffer.zarr --vae_latent_dim 32 --vae_num_epochs 50

Beside the replay buffer, which may be larger than memory, it leaves trained_vae.pth, logs for TensorBoard in vae_training/ and pictures in
vae_visualizations/. An epoch goes over all fragments once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from commandline import Loaded, argument, check_target, loaded, parse, run, summary_writer

from replaystore.analysis import vae_plots
from replaystore.analysis.fragments import Fragments
from replaystore.analysis.vae import FragmentVAE
from replaystore.analysis.vae_training import Result, Settings, Unlocking, train
from replaystore.errors import SchemaError

HELD_OUT = 0.1
"""The part of the trajectories that a buffer without the split "val" is validated with."""


@dataclass
class Arguments:
    replay_buffer_path: str = argument(text="a .pkl, .zarr, .h5 or .safetensors file, or a folder with the latter")
    env_id: str | None = argument(None, "the environment, if neither the file nor its folder says it")
    vae_latent_dim: int = argument(32, "latent numbers of a fragment")
    vae_hidden_dims: tuple[int, ...] = argument((128, 64, 32), "widths of the layers between the convolutions and the latent numbers")
    vae_lr: float = argument(1e-3, "learning rate")
    vae_weight_decay: float = argument(1e-4, "weight decay")
    vae_batch_size: int = argument(32, "fragments in a batch")
    vae_num_epochs: int = argument(50, "epochs, each over all fragments")
    vae_dropout: float = argument(0.1, "dropout")
    vae_kl_weight: float = argument(1.0, "weight of the KL divergence, which is divided among the states of a fragment")
    vae_kl_warmup_epochs: int = argument(10, "epochs over which that weight rises from 0")
    vae_early_stopping_patience: int = argument(10, "stop after so many epochs without a gain; 0: never")
    vae_conv_kernel_size: int = argument(3, "steps that a convolution sees at once")
    device: str = argument("auto", "cpu, cuda, or auto")
    seed: int = argument(42, "of everything that is random")
    fragment_length: int = argument(50, "steps of a fragment")
    save_vae: bool = argument(True, "save the model")
    vae_save_path: str | None = argument(None, "where to (default: trained_vae.pth beside the replay buffer)")
    create_visualizations: bool = argument(True, "draw the pictures")
    num_visualization_samples: int = argument(1000, "fragments that are drawn, of those used for training")
    enable_gradual_unlocking: bool = argument(False, "begin with the oldest trajectories and go on to more")
    initial_data_fraction: float = argument(0.1, "of the trajectories, in the first epoch")
    final_data_fraction: float = argument(1.0, "of the trajectories, in the last epoch")
    unlock_schedule: str = argument("linear", "how it goes on", choices=["linear", "exponential", "step"])
    unlock_steps: int = argument(10, 'of the schedule "step"')


def split(source: Loaded, args: Arguments) -> tuple[Fragments, Fragments]:
    """Fragments to learn from and to validate with: the splits "train" and "val", or, without both of them, parts of all trajectories."""
    length, buffer = args.fragment_length, source.buffer
    kept = [info for info in buffer.trajectories if info.length >= length]
    learned = [info for info in kept if info.split == "train"]
    judged = [info for info in kept if info.split == "val"]
    if kept and not (learned and judged):
        if len(kept) < 2:
            raise SchemaError(
                f"{args.replay_buffer_path} has one trajectory of {length} steps or more: two are needed, to learn and to validate"
            )
        count = max(1, round(HELD_OUT * len(kept)))
        chosen = set(np.random.default_rng(args.seed).permutation(len(kept))[:count].tolist())
        learned = [info for number, info in enumerate(kept) if number not in chosen]
        judged = [kept[number] for number in sorted(chosen)]
        print(f"the splits train and val are not both there: {count} of {len(kept)} trajectories are held out for validation")
    everything = buffer.trajectories
    return Fragments(buffer, learned or everything, length), Fragments(buffer, judged or everything, length)


def settings_of(args: Arguments) -> Settings:
    """How to train. SchemaError: numbers without sense."""
    if args.num_visualization_samples < 1:
        raise SchemaError(f"--num_visualization_samples must be at least 1, not {args.num_visualization_samples}")
    unlocking = Unlocking(args.initial_data_fraction, args.final_data_fraction, args.unlock_schedule, args.unlock_steps)
    return Settings(
        epochs=args.vae_num_epochs,
        batch_size=args.vae_batch_size,
        lr=args.vae_lr,
        weight_decay=args.vae_weight_decay,
        kl_weight=args.vae_kl_weight,
        kl_warmup_epochs=args.vae_kl_warmup_epochs,
        patience=args.vae_early_stopping_patience,
        unlocking=unlocking if args.enable_gradual_unlocking else None,
        seed=args.seed,
    )


def new_model(source: Loaded, args: Arguments, device: torch.device) -> FragmentVAE:
    """A model that has learned nothing. SchemaError: sizes without sense."""
    torch.manual_seed(args.seed)
    state_dim = int(source.buffer.obs.shape[1])
    shape = (state_dim, args.fragment_length, args.vae_latent_dim, args.vae_hidden_dims, args.vae_dropout, args.vae_conv_kernel_size)
    return FragmentVAE(*shape).to(device)


def fit(model: FragmentVAE, source: Loaded, data: tuple[Fragments, Fragments], settings: Settings, writer: Any) -> Result:
    """Train, and log each epoch."""

    def report(epoch: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            writer.add_scalar(f"vae/{name}", value, epoch)
        train_losses, val_losses = ([values[f"{part}_{name}_loss"] for name in ("recon", "kl", "total")] for part in ("train", "val"))
        shown = "  ".join(f"{part} {a:.4f} {b:.2f} {c:.4f}" for part, (a, b, c) in (("train", train_losses), ("val", val_losses)))
        print(f"epoch {epoch + 1}/{settings.epochs}  {shown}  (reconstruction, KL, total)", flush=True)

    return train(model, source.buffer, *data, settings, report)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse(Arguments, argv, __doc__.splitlines()[0])
    wanted = args.device if args.device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
    with loaded(args.replay_buffer_path, args.env_id, args.fragment_length, wanted) as source:
        print(f"{args.replay_buffer_path}: {source.buffer.size:,} rows of {source.environment}")
        path = Path(args.vae_save_path or source.folder / "trained_vae.pth")
        settings, data = settings_of(args), split(source, args)
        print(f"{len(data[0]):,} fragments of {args.fragment_length} steps to learn from, {len(data[1]):,} to validate with")
        model = new_model(source, args, torch.device(wanted))
        if args.save_vae:
            check_target(path)
        writer = summary_writer(source.folder / "vae_training")
        try:
            result = fit(model, source, data, settings, writer)
            print(f"{result.epochs} epochs, of which number {result.best_epoch + 1} was the best")
            share = result.recon / result.mean_recon
            print(f"validation error: {result.recon:.4f}; of predicting the mean: {result.mean_recon:.4f}; that is {share:.1%} of it")
            writer.add_scalar("vae/final_reconstruction_loss", result.recon, 0)
        finally:
            writer.close()
        if args.save_vae:
            state = {name: tensor.cpu() for name, tensor in model.state_dict().items()}
            partial = path.with_name(path.name + ".partial")
            torch.save({"vae_state_dict": state, "vae_config": model.config, "training_args": asdict(args)}, partial)
            partial.replace(path)
            print(f"saved {path}")
        if args.create_visualizations:
            drawn = data[0].draw(args.num_visualization_samples, np.random.default_rng(args.seed))
            for picture in vae_plots.draw_all(model, drawn, source.folder / "vae_visualizations"):
                print(f"saved {picture}")
    return 0


if __name__ == "__main__":
    run(main)
