#!/usr/bin/env python3
"""Train a convolutional variational autoencoder on the fragments of a replay buffer.

    python scripts/train_vae_on_replay_buffer.py --replay_buffer_path runs/x/replay_buffer.zarr
    --vae_latent_dim 32 --vae_num_epochs 50

Beside the replay buffer, which may be larger than memory, it leaves trained_vae.pth, logs for TensorBoard in
vae_training/ and pictures in vae_visualizations/. An epoch goes over all fragments once. A training that is
ended early, by Ctrl-C, SIGTERM or an error, leaves the best of its epochs in trained_vae.interrupted.pth.
`--load trained_vae.pth` draws the pictures of a model that is there, without training.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import installed  # noqa: F401  # first, so that what is missing is said in one line
import numpy as np
import torch
from commandline import Logs, argument, check, check_target, check_tensorboard, parse, run
from sources import Source, loaded

import replaystore as rs
from replaystore.analysis import figures, vae_plots
from replaystore.analysis.fragments import Fragments
from replaystore.analysis.vae import FragmentVAE
from replaystore.analysis.vae_training import Result, Settings, Unlocking, train
from replaystore.errors import FormatError, NotFoundError, SchemaError
from replaystore.formats.shared.new_files import NewFiles

HELD_OUT = 0.1
"""The part of the trajectories that a buffer without the split "val" is validated with."""
ARCHITECTURE = f"{FragmentVAE.__module__}.{FragmentVAE.__qualname__}"
"""What a saved model says it is: this class, made with its `vae_config`."""
UNUSED = {
    (
        "it counts only for models with attention, which neither this one is nor the one of active_rlhf's "
        "script"
    ): [f"vae_{name}" for name in ("attention_dim", "attention_heads", "attention_blocks", "decoder_layers")]
}
"""Arguments of active_rlhf's script that change nothing, by the reason."""


@dataclass
class Arguments:
    replay_buffer_path: str = argument(
        text=("a .pkl, .zarr, .h5 or .safetensors file, or a folder with the latter")
    )
    env_id: str | None = argument(None, "the environment, if neither the file nor its folder says it")
    vae_latent_dim: int = argument(32, "latent numbers of a fragment", least=1)
    vae_hidden_dims: tuple[int, ...] = argument(
        (128, 64, 32), "widths of the layers between the convolutions and the latent numbers", least=1
    )
    vae_lr: float = argument(1e-3, "learning rate", above=0)
    vae_weight_decay: float = argument(1e-4, "weight decay", least=0)
    vae_batch_size: int = argument(32, "fragments in a batch", least=1)
    vae_num_epochs: int = argument(50, "epochs, each over all fragments", least=1)
    vae_dropout: float = argument(0.1, "dropout", least=0, below=1)
    vae_kl_weight: float = argument(
        1.0, ("weight of the KL divergence, which is divided among the states of a fragment"), least=0
    )
    vae_kl_warmup_epochs: int = argument(10, "epochs over which that weight rises from 0", least=0)
    vae_early_stopping_patience: int = argument(
        10, ("stop after so many epochs without a gain; 0: never"), least=0
    )
    vae_conv_kernel_size: int = argument(3, "steps that a convolution sees at once", least=1)
    vae_conv_padding: int | None = argument(
        None, ("steps added at each end: (vae_conv_kernel_size - 1) / 2, so that their number stays")
    )
    device: str = argument("auto", "cpu, cuda, or auto")
    seed: int = argument(42, "of everything that is random")
    fragment_length: int = argument(50, "steps of a fragment", least=1)
    save_vae: bool = argument(True, "save the model")
    vae_save_path: str | None = argument(None, "where to (default: trained_vae.pth beside the replay buffer)")
    load: str | None = argument(None, "a saved model, of which the pictures are drawn; nothing is trained")
    create_visualizations: bool = argument(True, "draw the pictures")
    num_visualization_samples: int = argument(
        1000, ("fragments that are drawn, of those used for training"), least=1
    )
    enable_gradual_unlocking: bool = argument(False, "begin with the oldest trajectories and go on to more")
    initial_data_fraction: float = argument(0.1, "of the trajectories, in the first epoch", above=0, most=1)
    final_data_fraction: float = argument(1.0, "of the trajectories, in the last epoch", above=0, most=1)
    unlock_schedule: str = argument("linear", "how it goes on", choices=["linear", "exponential", "step"])
    unlock_steps: int = argument(10, 'of the schedule "step"', least=1)


def problems(args: Arguments) -> Iterator[str]:
    """What cannot be."""
    if args.enable_gradual_unlocking and args.initial_data_fraction > args.final_data_fraction:
        given = (
            f"--initial_data_fraction {args.initial_data_fraction:g}, --final_data_fraction "
            f"{args.final_data_fraction:g}"
        )
        yield f"{given}: the first is more than the last"
    kernel, padding = args.vae_conv_kernel_size, args.vae_conv_padding
    if padding is not None and 2 * padding not in (kernel - 1, kernel):
        kept = f"only {(kernel - 1) // 2} keeps the number of steps with --vae_conv_kernel_size {kernel}"
        yield f"--vae_conv_padding {padding}: {kept}; leave it out"
    if args.load is not None and not args.create_visualizations:
        yield "--load draws pictures and does nothing else: leave out --create_visualizations False"


def split(source: Source, args: Arguments, length: int) -> tuple[Fragments, Fragments]:
    """Fragments to learn from and to validate with: the splits "train" and "val", or, without both of them,
    parts of all trajectories."""
    buffer = source.buffer
    kept = [info for info in buffer.trajectories if info.length >= length]
    if buffer.trajectories and not kept:
        longest = max(info.length for info in buffer.trajectories)
        hint = (
            f"pass --fragment_length {longest} or less"
            if longest and args.load is None
            else ("pass another --replay_buffer_path")
        )
        raise SchemaError(
            f"{args.replay_buffer_path}: no trajectory has a fragment of {length} steps: {hint}"
        )
    learned = [info for info in kept if info.split == "train"]
    judged = [info for info in kept if info.split == "val"]
    if kept and not (learned and judged):
        if len(kept) < 2:
            raise SchemaError(
                f"{args.replay_buffer_path} has one trajectory of {length} steps or more: two are needed, "
                "to learn and to validate; "
                f"a smaller --fragment_length may find more"
            )
        count = max(1, round(HELD_OUT * len(kept)))
        chosen = set(np.random.default_rng(args.seed).permutation(len(kept))[:count].tolist())
        learned = [info for number, info in enumerate(kept) if number not in chosen]
        judged = [kept[number] for number in sorted(chosen)]
        print(
            f"the splits train and val are not both there: {count} of {len(kept)} trajectories are held "
            "out for validation"
        )
    everything = buffer.trajectories
    return Fragments(buffer, learned or everything, length), Fragments(buffer, judged or everything, length)


def settings_of(args: Arguments) -> Settings:
    """How to train."""
    unlocking = None
    if args.enable_gradual_unlocking:
        unlocking = Unlocking(
            args.initial_data_fraction, args.final_data_fraction, args.unlock_schedule, args.unlock_steps
        )
    return Settings(
        epochs=args.vae_num_epochs,
        batch_size=args.vae_batch_size,
        lr=args.vae_lr,
        weight_decay=args.vae_weight_decay,
        kl_weight=args.vae_kl_weight,
        kl_warmup_epochs=args.vae_kl_warmup_epochs,
        patience=args.vae_early_stopping_patience,
        unlocking=unlocking,
        seed=args.seed,
    )


def new_model(source: Source, args: Arguments, device: torch.device) -> FragmentVAE:
    """A model that has learned nothing."""
    torch.manual_seed(args.seed)
    state_dim = int(source.buffer.obs.shape[1])
    shape = (
        state_dim,
        args.fragment_length,
        args.vae_latent_dim,
        args.vae_hidden_dims,
        args.vae_dropout,
        args.vae_conv_kernel_size,
    )
    return FragmentVAE(*shape).to(device)


def fit(
    model: FragmentVAE,
    source: Source,
    data: tuple[Fragments, Fragments],
    settings: Settings,
    writer: Logs,
    done: list[int],
) -> Result:
    """Train, log each epoch, and count them in `done`."""

    def report(epoch: int, values: Mapping[str, float]) -> None:
        done[0] = epoch + 1
        for name, value in values.items():
            writer.add_scalar(f"vae/{name}", value, epoch)
        train_losses, val_losses = (
            [values[f"{part}_{name}_loss"] for name in ("recon", "kl", "total")] for part in ("train", "val")
        )
        shown = "  ".join(
            f"{part} {a:.4f} {b:.2f} {c:.4f}"
            for part, (a, b, c) in (("train", train_losses), ("val", val_losses))
        )
        print(f"epoch {epoch + 1}/{settings.epochs}  {shown}  (reconstruction, KL, total)", flush=True)

    return train(model, source.buffer, *data, settings, report)


def save(model: FragmentVAE, path: Path, source: Source, args: Arguments, epochs: int) -> None:
    """Write a model, and what it is, to a file that appears whole. StorageError."""
    state = {name: tensor.cpu() for name, tensor in model.state_dict().items()}
    about = {
        "architecture": ARCHITECTURE,
        "replaystore_version": rs.__version__,
        "environment": source.environment,
        "epochs": epochs,
    }
    content = io.BytesIO()
    torch.save(
        {**about, "vae_config": model.config, "vae_state_dict": state, "training_args": asdict(args)}, content
    )
    with NewFiles([str(path)], overwrite=True) as new:
        new.files[0].write(content.getbuffer())
    print(f"saved {path}")


def saved_model(path: str, source: Source, device: torch.device) -> FragmentVAE:
    """A model that `save` has written. NotFoundError, FormatError: there is none; SchemaError: it is of other
    states."""
    if not Path(path).is_file():
        raise NotFoundError(f"{path}: there is no such file: check --load")
    try:
        found = torch.load(path, map_location=device, weights_only=True)
        architecture = found.get("architecture") or "a model that does not say what it is"
    except (RuntimeError, ValueError, EOFError, AttributeError, pickle.UnpicklingError):
        raise FormatError(
            f"{path} is no model that this script has saved, or damaged: pass another file to --load"
        ) from None
    if architecture != ARCHITECTURE:
        raise FormatError(
            f"{path} holds {architecture}, not {ARCHITECTURE}: open it with the program that saved it"
        )
    try:
        model = FragmentVAE(**found["vae_config"]).to(device)
        model.load_state_dict(found["vae_state_dict"])
    except (RuntimeError, KeyError, TypeError) as error:
        raise FormatError(
            f"{path} is damaged: its weights do not fit its sizes: train the model again"
        ) from error
    held, needed = int(source.buffer.obs.shape[1]), model.config["state_dim"]
    if held != needed:
        raise SchemaError(
            f"{path} is a model of {needed} observations, but {source.path} has {held}: pass "
            "its own --replay_buffer_path"
        )
    return model


def trained_model(source: Source, args: Arguments, device: torch.device) -> FragmentVAE:
    """Train a model, and save it, even if it is interrupted."""
    settings, data = settings_of(args), split(source, args, args.fragment_length)
    print(
        f"{len(data[0]):,} fragments of {args.fragment_length} steps to learn from, {len(data[1]):,} to "
        "validate with"
    )
    model = new_model(source, args, device)
    path = Path(args.vae_save_path or source.folder / "trained_vae.pth")
    if args.save_vae:
        check_target(path)
    with Logs(source.folder / "vae_training") as writer:
        epochs = [0]
        try:
            result = fit(model, source, data, settings, writer, epochs)
        except BaseException:
            if args.save_vae and epochs[0]:  # an earlier model that is complete stays
                save(model, path.with_stem(f"{path.stem}.interrupted"), source, args, epochs[0])
            raise
        print(f"{result.epochs} epochs, of which number {result.best_epoch + 1} was the best")
        share = result.recon / result.mean_recon
        print(
            f"validation error: {result.recon:.4f}; of predicting the mean: {result.mean_recon:.4f}; that "
            f"is {share:.1%} of it"
        )
        writer.add_scalar("vae/final_reconstruction_loss", result.recon, 0)
        if args.save_vae:
            save(model, path, source, args, result.epochs)
    return model


def main(argv: Sequence[str] | None = None) -> int:
    args = parse(Arguments, argv, __doc__.splitlines()[0], UNUSED)
    check(args, problems(args))
    if args.load is None:
        check_tensorboard()
    if args.create_visualizations:
        figures.check_installed()
    wanted = args.device if args.device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
    with loaded(args.replay_buffer_path, args.env_id, args.fragment_length, wanted) as source:
        print(f"{args.replay_buffer_path}: {source.buffer.size:,} rows of {source.environment}")
        print(source.verify())
        device = torch.device(wanted)
        model = (
            trained_model(source, args, device)
            if args.load is None
            else saved_model(args.load, source, device)
        )
        if args.create_visualizations:
            learned, _ = split(source, args, model.config["fragment_length"])
            drawn = learned.draw(args.num_visualization_samples, np.random.default_rng(args.seed))
            for picture in vae_plots.draw_all(
                model, drawn, source.folder / "vae_visualizations", source.title
            ):
                print(f"saved {picture}")
    return 0


if __name__ == "__main__":
    run(main)
