"""The scripts, from end to end with small numbers: learn from preferences, check, analyse, fit an
autoencoder; survive a kill."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import gymnasium
import numpy as np
import pytest
import torch
from running import ENV_ID, SCRIPTS, SMALL, run, script

import replaystore as rs
from replaystore.analysis.vae import FragmentVAE
from replaystore.compat.active_rlhf import ReplayBuffer
from replaystore.compat.velora import ReplayBuffer as VeloraBuffer

ANALYSIS = [
    "observation_dimensions",
    "on_policiness_scores",
    "reward_distribution",
    "split_distribution",
    "trajectory_lengths",
]
PICTURES = [
    "kl_per_dimension",
    "latent_space_2d",
    "latent_space_heatmap",
    "reconstruction_errors",
    "reconstructions",
]


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a short training that kept its replay buffer in a Zarr store."""
    folder = tmp_path_factory.mktemp("trained")
    before = Path.cwd()
    os.chdir(folder)
    try:
        assert run("pref_ppo", f"{SMALL} --replay_buffer_save_path runs/x/replay_buffer.zarr") == 0
    finally:
        os.chdir(before)
    return folder / "runs" / "x"


def scalars(folder: Path) -> dict[str, list[float]]:
    """What TensorBoard would show."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder))
    events.Reload()
    return {tag: [event.value for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def assert_pictures(folder: Path, names: list[str]) -> None:
    from matplotlib.image import imread

    assert sorted(path.stem for path in folder.glob("*.png")) == names
    for name in names:
        pixels = imread(folder / f"{name}.png")
        assert min(pixels.shape[:2]) > 500
        assert pixels.std() > 0.02, f"{name} is empty"


# --- training


def test_training_keeps_every_rollout_and_says_where_it_was(trained: Path) -> None:
    with rs.open(trained / "replay_buffer.zarr") as store:
        assert store.environment is not None
        assert store.environment["id"] == ENV_ID
        assert len(store) == 5 * 96
        assert store.trajectories["split"][0] == "val"
        assert "train" in store.trajectories["split"]
        assert len(set(store["observation"][:][:, 0].tolist())) > 100


def test_training_logs_what_it_learns(trained: Path) -> None:
    found = scalars(next(iter(trained.parent.glob(f"{ENV_ID}__pref_ppo__1__*"))))

    assert len(found["losses/policy_loss"]) == 4
    for tag in (
        "reward/accuracy",
        "reward/train_loss",
        "debug/corr_pearson",
        "charts/learning_rate",
        "prefs/mean_return_delta",
    ):
        assert np.isfinite(found[tag]).all(), tag
    assert found["prefs/num_pairs"][-1] == 60
    assert found["replay_buffer/num_trajectories"] == [2, 3, 4, 5]


@pytest.mark.parametrize("name", ["runs/y/kept.h5", "kept.pkl", None])
def test_training_keeps_other_kinds_of_files(
    name: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    more = f"--replay_buffer_save_path {name}" if name else "--save-model True"

    assert (
        run(
            "pref_ppo",
            (
                f"{SMALL} {more} --total_timesteps 192 --sampling_strategy priority --num-envs 2 "
                "--num_steps 48"
            ),
        )
        == 0
    )

    runs = next(iter((tmp_path / "runs").glob(f"{ENV_ID}__pref_ppo__1__*")))
    loaded = ReplayBuffer.load(tmp_path / name if name else runs / "replay_buffer.pkl", device="cpu")
    assert [info.length for info in loaded.trajectories] == [48] * 6, (
        "each environment has trajectories of its own"
    )
    assert any(info.on_policiness_score for info in loaded.trajectories)
    loaded.close()
    assert (runs / "pref_ppo.cleanrl_model").exists() == (name is None)


def test_nothing_is_kept_if_that_is_not_wanted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    assert run("pref_ppo", f"{SMALL} --total_timesteps 96 --save_replay_buffer False") == 0

    assert not list(tmp_path.rglob("replay_buffer*"))


def test_a_ring_that_is_full_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    assert run("pref_ppo", f"{SMALL} --replay_buffer_capacity 300 --replay_buffer_save_path a.zarr") == 0

    with ReplayBuffer.load("a.zarr", device="cpu") as loaded:
        assert (loaded.size, loaded.pos) == (300, 5 * 96 - 300)
    assert run("test_replay_buffer_loading", "--replay_buffer_path a.zarr") == 0


def test_an_error_in_training_does_not_lose_the_buffer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    calls = []

    def fails(*args: object) -> dict[str, float]:
        calls.append(args)
        raise OSError("out of luck")

    monkeypatch.setattr(script("pref_ppo"), "update", fails)

    assert run("pref_ppo", f"{SMALL} --replay_buffer_save_path kept.pkl") == 1

    assert len(calls) == 1
    assert ReplayBuffer.load("kept.pkl", device="cpu").size == 2 * 96


def test_training_that_is_killed_leaves_a_buffer_for_the_other_scripts(tmp_path: Path) -> None:
    store = tmp_path / "runs" / "x" / "replay_buffer.zarr"
    command = [sys.executable, str(SCRIPTS / "pref_ppo.py"), *SMALL.split(), "--total_timesteps", "10000000"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [*command, "--replay_buffer_save_path", str(store)], cwd=tmp_path, env=environment
    )
    try:
        rows = 0
        while rows < 4 * 96:
            assert process.poll() is None, "training ended"
            time.sleep(0.05)
            if store.exists():
                with rs.open(store) as seen:
                    rows = len(seen)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()

    path = f"--replay_buffer_path {store}"
    assert run("test_replay_buffer_loading", path) == 0
    assert run("analyze_replay_buffer", path) == 0
    assert (
        run(
            "train_vae_on_replay_buffer",
            f"{path} --fragment_length 8 --vae_num_epochs 1 --create_visualizations False",
        )
        == 0
    )
    assert (store.parent / "trained_vae.pth").exists()


# --- what is made of a buffer


def test_analysis_draws_five_pictures(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("analyze_replay_buffer", f"--replay_buffer_path {trained / 'replay_buffer.zarr'}") == 0

    assert f"480 rows of {ENV_ID}" in capsys.readouterr().out
    assert_pictures(trained / "analysis", ANALYSIS)


def test_the_autoencoder_learns_and_is_kept(trained: Path) -> None:
    path = trained / "replay_buffer.zarr"
    arguments = (
        f"--replay-buffer-path {path} --fragment-length 8 --vae_latent_dim 12 --vae-hidden-dims 32 "
        "16 --vae_num_epochs 8"
    )

    assert (
        run(
            "train_vae_on_replay_buffer",
            f"{arguments} --vae_kl_warmup_epochs 2 --vae_batch_size 8 --device cpu",
        )
        == 0
    )

    losses = scalars(trained / "vae_training")
    assert losses["vae/train_recon_loss"][-1] < 0.8 * losses["vae/train_recon_loss"][0]
    assert losses["vae/val_recon_loss"][-1] < losses["vae/val_recon_loss"][0]
    assert_pictures(trained / "vae_visualizations", PICTURES)
    saved = torch.load(trained / "trained_vae.pth", weights_only=True)
    assert saved["vae_config"]["hidden_dims"] == [32, 16]
    assert saved["training_args"]["vae_num_epochs"] == 8
    model = FragmentVAE(**saved["vae_config"])
    model.load_state_dict(saved["vae_state_dict"])
    with ReplayBuffer.load(path, fragment_length=8, device="cpu") as loaded:
        fragments = loaded.sample2(4, "train").obs
    assert model.eval()(fragments)[0].shape == fragments.shape


def test_the_same_seed_gives_the_same_autoencoder(trained: Path, tmp_path: Path) -> None:
    def fit(name: str, seed: int) -> dict[str, torch.Tensor]:
        arguments = (
            f"--replay_buffer_path {trained / 'replay_buffer.zarr'} --fragment_length 8 "
            f"--vae_num_epochs 2 --seed {seed}"
        )
        unlocking = (
            "--enable_gradual_unlocking True --initial_data_fraction 0.4 --unlock_schedule step "
            "--unlock_steps 2"
        )
        target = tmp_path / name
        assert (
            run(
                "train_vae_on_replay_buffer",
                f"{arguments} {unlocking} --create_visualizations False --vae_save_path {target}",
            )
            == 0
        )
        found: dict[str, torch.Tensor] = torch.load(target, weights_only=True)["vae_state_dict"]
        return found

    first, again, other = fit("a.pth", 1), fit("b.pth", 1), fit("c.pth", 2)

    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["latent.weight"], other["latent.weight"])


@pytest.mark.parametrize(("suffix", "drawn"), [(".pkl", True), (".h5", False)])
def test_other_kinds_of_files_are_accepted(
    suffix: str, drawn: bool, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / f"{ENV_ID}__x__1__0"
    folder.mkdir()
    path = folder / f"replay_buffer{suffix}"
    with ReplayBuffer.load(trained / "replay_buffer.zarr", device="cpu") as loaded:
        loaded.save(path)

    assert run("test_replay_buffer_loading", f"--replay_buffer_path {path}") == 0
    assert run("analyze_replay_buffer", f"--replay_buffer_path {path}") == 0
    arguments = (
        f"--replay_buffer_path {path} --fragment_length 8 --vae_num_epochs 1 --create_visualizations {drawn}"
    )
    assert run("train_vae_on_replay_buffer", arguments) == 0

    assert capsys.readouterr().out.count(ENV_ID) >= 3
    assert_pictures(folder / "analysis", ANALYSIS)
    if drawn:
        assert_pictures(folder / "vae_visualizations", PICTURES)


@pytest.fixture
def velora_folder(tmp_path: Path) -> Path:
    """A folder with a safetensors file of one environment's steps, in several episodes."""
    buffer = VeloraBuffer(200, 3, 1, 2)
    states = torch.from_numpy(np.random.default_rng(0).normal(size=(101, 3)).astype(np.float32))
    for step in range(100):
        buffer.add(
            states[step], torch.zeros(1), float(step), states[step + 1], step % 25 == 24, torch.zeros(2)
        )
    buffer.save(tmp_path / "velora")
    return tmp_path / "velora"


@pytest.mark.parametrize("name", ["", "buffer_state.safetensors"])
def test_safetensors_files_and_their_folders_are_accepted(
    name: str, velora_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = velora_folder / name

    assert run("test_replay_buffer_loading", f"--replay_buffer_path {path} --fragment_length 10") == 0
    arguments = (
        f"--replay_buffer_path {path} --env_id Pendulum-v1 --fragment_length 10 --vae_num_epochs 1 "
        "--create_visualizations False"
    )
    assert run("train_vae_on_replay_buffer", arguments) == 0

    output = capsys.readouterr().out
    assert "unknown environment" in output
    assert "1 of 4 trajectories are held out for validation" in output
    assert (velora_folder / "trained_vae.pth").exists()


def test_scripts_read_any_store_that_was_recorded(tmp_path: Path) -> None:
    from replaystore.gymnasium import RecordVector

    envs = gymnasium.make_vec("Pendulum-v1", num_envs=2, vectorization_mode="sync")
    with rs.create(tmp_path / "a.zarr", envs) as buffer:
        recorder = RecordVector(envs, buffer)
        recorder.reset(seed=0)
        recorder.action_space.seed(0)
        for _ in range(410):
            recorder.step(recorder.action_space.sample())

    assert run("test_replay_buffer_loading", f"--replay_buffer_path {tmp_path / 'a.zarr'}") == 0
    assert run("analyze_replay_buffer", f"--replay_buffer_path {tmp_path / 'a.zarr'}") == 0
    assert_pictures(tmp_path / "analysis", ANALYSIS)


# --- what is wrong


def test_the_loading_test_fails_if_no_fragment_can_be_sampled(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        run(
            "test_replay_buffer_loading",
            f"--replay_buffer_path {trained / 'replay_buffer.zarr'} --fragment_length 97",
        )
        == 1
    )

    assert "pass --fragment_length 96 or less" in capsys.readouterr().out


def test_the_loading_test_finds_rows_that_are_not_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    envs = gymnasium.make_vec("Pendulum-v1", num_envs=1, vectorization_mode="sync")
    buffer = ReplayBuffer(envs, capacity=300, fragment_length=10, device="cpu")
    for split in ("train", "val"):
        buffer.add(torch.rand(100, 3), torch.rand(100, 1), torch.rand(100), torch.zeros(100), split)
    path = f"--replay_buffer_path {tmp_path / 'a.pkl'}"

    buffer.trajectories[1].start_pos = 50
    buffer.save(tmp_path / "a.pkl")
    assert run("test_replay_buffer_loading", path) == 1
    assert "belong to another one too" in capsys.readouterr().out

    buffer.trajectories[1].start_pos = 150
    buffer.save(tmp_path / "a.pkl")
    assert run("test_replay_buffer_loading", path) == 1
    assert "has row 249 of 200" in capsys.readouterr().out

    buffer.trajectories[1].start_pos = 100
    buffer.rews[150] = float("nan")
    buffer.save(tmp_path / "a.pkl")
    assert run("test_replay_buffer_loading", path) == 1
    assert "rews has values that are not finite" in capsys.readouterr().out
    assert run("analyze_replay_buffer", path) == 0


PATH = "--replay_buffer_path"
MISTAKES = {
    "no file": (
        "analyze_replay_buffer",
        f"{PATH} nowhere.zarr",
        1,
        "nowhere.zarr: there is no such file or folder: check",
    ),
    "not a buffer": ("test_replay_buffer_loading", f"{PATH} {__file__}", 1, "test_scripts.py"),
    "another environment": (
        "analyze_replay_buffer",
        f"{PATH} BUFFER --env_id CartPole-v1",
        1,
        "CartPole-v1 has 4 observations",
    ),
    "no environment": ("analyze_replay_buffer", f"{PATH} BUFFER --env_id Nothing-v1", 1, "Nothing"),
    "too long": (
        "train_vae_on_replay_buffer",
        f"{PATH} BUFFER --fragment_length 500",
        1,
        "pass --fragment_length 96 or less",
    ),
    "no such device": ("train_vae_on_replay_buffer", f"{PATH} BUFFER --device tpu", 1, "pass --device cpu"),
    "a fraction": ("train_vae_on_replay_buffer", f"{PATH} BUFFER --final_data_fraction 2", 1, "fraction"),
    "no path": ("train_vae_on_replay_buffer", "", 2, "--replay_buffer_path"),
    "unknown argument": ("analyze_replay_buffer", f"{PATH} x --shiny 1", 2, "--shiny"),
    "not a boolean": ("pref_ppo", "--save_replay_buffer perhaps", 2, "expected True or False, not 'perhaps'"),
    "not numbers": ("pref_ppo", "--reward_net_hidden_dims [a,b]", 2, "expected whole numbers"),
    "another selector": ("pref_ppo", "--selector_type variquery", 1, "use --selector_type random"),
    "no such selector": ("pref_ppo", "--selector-type nice", 1, "there is no such selector"),
    "tracking": ("pref_ppo", "--track True", 1, "--track True: this script sends nothing anywhere"),
    "discrete actions": ("pref_ppo", "--env_id CartPole-v1", 1, "CartPole-v1 has the actions Discrete(2)"),
    "short rollouts": ("pref_ppo", "--num_steps 20", 1, "--num_steps 20 is less than --fragment_length 50"),
    "small ring": ("pref_ppo", "--replay_buffer_capacity 3000", 1, "must hold at least two rollouts"),
    "short training": ("pref_ppo", "--total_timesteps 100", 1, "less than one rollout"),
    "a number too many": (
        "train_vae_on_replay_buffer",
        f"{PATH} BUFFER --num_visualization_samples 0",
        1,
        "at least 1, not 0",
    ),
    "a folder for the model": (
        "train_vae_on_replay_buffer",
        f"{PATH} BUFFER --vae_save_path {SCRIPTS}",
        1,
        "is a folder: name a file in it",
    ),
    "no folder for the model": (
        "train_vae_on_replay_buffer",
        f"{PATH} BUFFER --vae_save_path {__file__}/x.pth",
        1,
        "choose another place",
    ),
    "a seed": ("train_vae_on_replay_buffer", f"{PATH} BUFFER --seed -1", 2, "expected a number from 0"),
    "another suffix": (
        "pref_ppo",
        "--replay_buffer_save_path x.safetensors",
        1,
        "has none of the suffixes .pkl, .pickle, .zarr, .h5, .hdf5",
    ),
    "a folder for the buffer": (
        "pref_ppo",
        "--replay_buffer_save_path a_folder.pkl",
        1,
        "a_folder.pkl is a folder: name a file in it",
    ),
    "no folder for the buffer": (
        "pref_ppo",
        f"--replay_buffer_save_path {__file__}/x.zarr",
        1,
        "choose another place",
    ),
    "a learning rate": ("pref_ppo", "--learning_rate nan", 1, "--learning_rate must be more than 0, not nan"),
    "a huge ring": (
        "pref_ppo",
        "--replay_buffer_capacity 1000000000000000",
        1,
        "--replay_buffer_capacity 1000000000000000 takes",
    ),
    "no envs": ("pref_ppo", "--num_envs 0", 1, "--num_envs must be at least 1, not 0"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_told_in_one_line(
    mistake: str,
    trained: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    if "a_folder.pkl" in MISTAKES[mistake][1]:
        (tmp_path / "a_folder.pkl").mkdir()
    name, arguments, code, message = MISTAKES[mistake]

    assert run(name, arguments.replace("BUFFER", str(trained / "replay_buffer.zarr"))) == code

    last = capsys.readouterr().err.strip().split("\n")
    assert message in last[-1]
    assert len(last) == 1
    assert not [path for path in tmp_path.rglob("*") if path.name not in ("runs", "a_folder.pkl")], (
        "nothing is half-written"
    )


def test_a_missing_library_is_named_with_its_extra(
    trained: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = f"--replay_buffer_path {trained / 'replay_buffer.zarr'}"
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)

    for name in ("analyze_replay_buffer", "train_vae_on_replay_buffer"):
        assert run(name, path) == 1
        printed = capsys.readouterr()
        assert "pip install 'replaystore[analysis]'" in printed.err
        assert not printed.out, "it is noticed before any work"
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    for name, arguments in (("train_vae_on_replay_buffer", path), ("pref_ppo", SMALL)):
        assert run(name, arguments) == 1
        assert "pip install 'replaystore[training]'" in capsys.readouterr().err


def test_help_lists_every_argument_with_its_default(capsys: pytest.CaptureFixture[str]) -> None:
    for name in (
        "pref_ppo",
        "analyze_replay_buffer",
        "train_vae_on_replay_buffer",
        "test_replay_buffer_loading",
    ):
        assert run(name, "--help") == 0
        output = " ".join(capsys.readouterr().out.split())
        for argument in script(name).Arguments.__dataclass_fields__:
            assert f"--{argument}" in output
    assert "(default: 0)" in output


def test_the_loading_script_is_no_test_of_the_package(pytestconfig: pytest.Config) -> None:
    assert script("test_replay_buffer_loading").__test__ is False
    assert pytestconfig.getini("testpaths") == ["tests"]


def test_the_example_gives_arguments_that_exist() -> None:
    lines = [
        line.split("#")[0]
        for line in (SCRIPTS.parent / "examples" / "preferences.sh").read_text().splitlines()
    ]
    commands = [line.split()[1:] for line in lines if line.startswith('"$python"')]
    assert len(commands) == 4

    for path, *arguments in commands:
        name = Path(path).stem
        parsed = script("commandline").parse(script(name).Arguments, arguments, "")
        assert "$buffer" in vars(parsed).values()


# --- what the scripts learn with


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
