"""Programs of velora and active_rlhf compute the same, bit for bit, as they are and with one line changed.

ACTIVE_RLHF_SRC and VELORA_SRC name checkouts of the two projects; without them, or without what their
programs import, the tests are skipped. Training with velora 0.2.0 needs sqlmodel 0.0.24: with newer ones it
fails by itself.
"""

from __future__ import annotations

import importlib.metadata
import json
import shutil
from pathlib import Path
from typing import Any

import gymnasium
import pytest
import torch
from real_projects import checkout, differences, needs, run, with_line

import replaystore as rs
from replaystore.compat import active_rlhf, velora

STORES = ("zarr", "h5")
FIELDS = ("obs", "acts", "rews", "dones")


def assert_same(original: Any, changed: Any) -> None:
    """Equal results, of which those of the changed program, and only those, were made with our buffers."""
    assert original["modules"].keys() == changed["modules"].keys()
    assert not any(name.startswith("replaystore") for name in original["modules"].values())
    assert any(name.startswith("replaystore") for name in changed["modules"].values())
    assert differences(original["kept"], changed["kept"]) == []


def test_a_difference_of_one_bit_is_seen() -> None:
    one = {"a": [torch.zeros(2), 1.0], "b": None}

    assert differences(one, {"a": [torch.zeros(2), 1.0], "b": None}) == []
    assert differences(one, {"a": [torch.tensor([0.0, -0.0]), 1.0], "b": None}) == [".a[0]"]
    assert differences(one, {"a": [torch.zeros(2), 1], "c": None}) == [
        ".b in one of them",
        ".c in one of them",
        ".a[1]: 1.0 and 1",
    ]
    assert differences(one, {"a": [torch.zeros(2).double()], "b": 0})[:2] == [".a has 2 and 1", ".a[0]"]
    with pytest.raises(ValueError, match="unpack"):
        with_line("import a\nimport b\n", "import", "from c import")


# --- active_rlhf

IMPORT = ("from active_rlhf.data.buffers import", "from replaystore.compat.active_rlhf import")
TRAINING = """
    --env_id HalfCheetah-v5 --exp_name x --num_steps 128 --num_minibatches 4 --update_epochs 1
    --fragment_length 10 --cuda False --total_queries 80 --queries_per_session 10 --reward_net_hidden_dims
    [16,16] --variquery_vae_num_epochs 1 --variquery_vae_batch_size 64 --variquery_vae_hidden_dims [16,8]
    --variquery_vae_latent_dim 8
"""
AUTOENCODER = """
    --vae_num_epochs 4 --fragment_length 10 --vae_hidden_dims 16 8 --vae_latent_dim 8 --device cpu
    --create_visualizations False --vae_save_path saved/vae.pth
"""
SELECTIONS = {
    "random": "--total_timesteps 1024",
    "duo, by priority, round the ring": "--total_timesteps 1536 --selector_type duo --sampling_strategy "
    "priority "
    "--replay_buffer_capacity 690 --oversampling_factor 10 --seed 7",
    "variquery": (
        "--total_timesteps 1024 --selector_type variquery --replay_buffer_capacity 5000 "
        "--oversampling_factor 4"
    ),
}


def script(root: Path, name: str, folder: Path, *, changed: bool) -> Path:
    """A copy of a script of active_rlhf, in a folder of its own."""
    text = Path(root, "active_rlhf", "scripts", name).read_text()
    folder.mkdir(parents=True)
    copy = folder / name
    copy.write_text(with_line(text, *IMPORT) if changed else text)
    return copy


def rlhf() -> Path:
    root = checkout("ACTIVE_RLHF_SRC", "active-rlhf", "active_rlhf/data/buffers.py")
    needs("active-rlhf", "tyro", "scipy", "sklearn", "tqdm", "tensorboard", "mujoco")
    return root


@pytest.mark.parametrize("selection", SELECTIONS)
def test_the_main_script_of_active_rlhf_computes_the_same_with_another_import(
    selection: str, tmp_path: Path
) -> None:
    root, arguments = rlhf(), [*TRAINING.split(), *SELECTIONS[selection].split(), "--replay_buffer_save_path"]
    suffix = STORES[list(SELECTIONS).index(selection) % 2]
    original = run(
        script(root, "pref_ppo.py", tmp_path / "original", changed=False), [*arguments, "saved/b.pkl"], root
    )
    changed = run(
        script(root, "pref_ppo.py", tmp_path / "ours", changed=True), [*arguments, f"saved/b.{suffix}"], root
    )

    assert_same(original, changed)
    assert sum(len(value) for value in original["kept"]["names"].values() if isinstance(value, dict)) > 100
    real = active_rlhf.ReplayBuffer.load(tmp_path / "original/saved/b.pkl", device="cpu")
    with active_rlhf.ReplayBuffer.load(tmp_path / f"ours/saved/b.{suffix}", device="cpu") as ours:
        assert all(torch.equal(getattr(ours, name)[:], getattr(real, name)) for name in FIELDS)
        assert [vars(info) for info in ours.trajectories] == [vars(info) for info in real.trajectories]
        assert (ours.pos, ours.size, ours.global_step) == (real.pos, real.size, real.global_step)


@pytest.mark.parametrize(("unlocking", "forms"), [(False, ("pkl", "h5")), (True, ("zarr",))])
def test_the_autoencoder_of_active_rlhf_learns_the_same_from_each_form(
    unlocking: bool, forms: tuple[str, ...], tmp_path: Path
) -> None:
    root = rlhf()
    needs("active-rlhf", "umap", "imageio", "moviepy", "matplotlib")
    fill(tmp_path / "Pendulum-v1__x")  # the script takes the environment from the name of the folder
    arguments = [*AUTOENCODER.split(), "--enable_gradual_unlocking", str(unlocking), "--replay_buffer_path"]

    def results(name: str, suffix: str, *, changed: bool) -> Any:
        program = script(root, "train_vae_on_replay_buffer.py", tmp_path / name, changed=changed)
        kept = run(program, [*arguments, str(tmp_path / "Pendulum-v1__x" / f"b.{suffix}")], root)["kept"]
        return kept | {
            "weights": torch.load(program.parent / "saved/vae.pth", weights_only=True)["vae_state_dict"]
        }

    original = results("original", "pkl", changed=False)
    assert len(original["written"]) >= 24
    for suffix in forms:
        assert differences(original, results(suffix, suffix, changed=True)) == []


def fill(folder: Path) -> None:
    """A replay buffer of Pendulum-v1 with trajectories of both splits, some of which go round the end, in
    each form."""
    envs = gymnasium.vector.SyncVectorEnv([lambda: gymnasium.make("Pendulum-v1")])
    buffer = active_rlhf.ReplayBuffer(envs, capacity=100, fragment_length=10, device="cpu")
    generator = torch.Generator().manual_seed(0)
    for number in range(9):
        values = [torch.rand(16, width, generator=generator) for width in (3, 1)]
        buffer.add(
            *values,
            torch.rand(16, generator=generator),
            torch.zeros(16, dtype=torch.bool),
            "val" if number % 3 == 2 else "train",
        )
    folder.mkdir()
    buffer.save(folder / "b.pkl")
    for suffix in STORES:
        rs.convert(folder / "b.pkl", folder / f"b.{suffix}")
    envs.close()


# --- velora

PROGRAM = """\
from velora.models import {agent}
from velora.callbacks import SaveCheckpoints

model = {agent}("{env}", 20, 128, seed=64, buffer_size=150, device={device})
# the line
model.train(16, n_episodes=6, window_size=5, callbacks=[SaveCheckpoints("x", frequency=5, buffer=True)])
model.save("saved/one", buffer=True, config=True)
again = {agent}.load("saved/one", buffer=True)
again.train(16, n_episodes=2, window_size=5, warmup_steps=0)
"""
AGENTS = {
    "discrete": {"agent": "NeuroFlow", "env": "CartPole-v1", "device": "None"},
    "continuous": {
        "agent": "NeuroFlowCT",
        "env": "InvertedPendulum-v5",
        "device": "__import__('torch').device('cpu')",
    },
}
ADOPT = "import replaystore.compat.velora as ours; model.buffer = ours.ReplayBuffer.adopt(model.buffer{})"


def velora_root() -> Path:
    root = checkout("VELORA_SRC", "velora", "velora/buffer/replay.py")
    needs("velora", "sqlmodel", "array_api_compat", "moviepy", "pydantic_settings", "plotly", "mujoco")
    if (version := importlib.metadata.version("sqlmodel")) != "0.0.24":
        pytest.skip(
            f"velora's training fails with sqlmodel {version}: install sqlmodel==0.0.24 for this test"
        )
    return root


def checkpoints(folder: Path) -> dict[str, bytes]:
    """The files of all checkpoints, but for the one that has the time that training took."""
    files = [
        file
        for suffix in ("safetensors", "json")
        for file in folder.rglob(f"*.{suffix}")
        if file.name != "completed.json"
    ]
    return {str(file.relative_to(folder)): file.read_bytes() for file in files if ".zarr" not in str(file)}


@pytest.mark.parametrize("kind", AGENTS)
def test_an_agent_of_velora_learns_the_same_with_one_line_changed_or_added(kind: str, tmp_path: Path) -> None:
    root = velora_root()
    text = PROGRAM.format(**AGENTS[kind])
    inside = tmp_path / "inside"  # where the agents' own module has another import
    shutil.copytree(root / "velora", inside / "velora", ignore=shutil.ignore_patterns("__pycache__"))
    module = inside / "velora/models/nf/agent.py"
    module.write_text(
        with_line(
            module.read_text(), "from velora.buffer.replay import", ("from replaystore.compat.velora import")
        )
    )
    adopting = {
        name: ADOPT.format(place)
        for name, place in (("memory", ""), *((suffix, f', "b.{suffix}"') for suffix in STORES))
    }

    def results(name: str, code: str, folder: Path) -> tuple[Any, dict[str, bytes]]:
        program = tmp_path / name / "program.py"
        program.parent.mkdir(exist_ok=True)
        program.write_text(code)
        return run(program, [], folder), checkpoints(program.parent)

    original, files = results("original", text, root)
    assert len(files) >= 10
    assert json.loads(files["saved/one/metadata.json"])["buffer"]["size"] > 32
    for name, line in {"inside": "# the line", **adopting}.items():
        changed, ours = results(
            name, with_line(text, "# the line", line), inside if name == "inside" else root
        )

        assert_same(original, changed)
        assert {file for file in files if ours.get(file) != files[file]} == set()
        assert files.keys() >= {file for file in ours if not file.startswith("velora/")}
        if name in STORES:
            state = original["kept"]["names"]["model"]["buffer"]
            with velora.ReplayBuffer.load(tmp_path / name / f"b.{name}") as lazy:
                assert (lazy.size, lazy.position) == (state["size"], state["position"])
                assert all(torch.equal(tensor, state[field]) for field, tensor in lazy.state_dict().items())
