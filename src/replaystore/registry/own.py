"""What comes with replaystore: its storage, its containers, and the formats that it knows.

The order counts: where several fit, the first decides. Formats whose files are recognised by little come
after those whose files say what they are.
"""

from __future__ import annotations

from replaystore.registry.entry import Entry, Kind

__all__ = ["OWN", "PLAIN"]

PLAIN = "local"
"""The storage of paths that name no other."""
GENERAL: tuple[Entry, ...] = (
    Entry(
        "lerobot",
        "replaystore.formats.lerobot.format:LeRobot",
        what="a dataset of LeRobot",
        members=("meta/info.json",),
        extra="arrow",
    ),
    Entry(
        "safetensors",
        "replaystore.formats.safetensors.format:Safetensors",
        what="steps as plain tensors of safetensors",
        suffixes=(".safetensors",),
    ),
    Entry(
        "csv",
        "replaystore.formats.tables.trajectories:Csv",
        what="the table of trajectories as CSV",
        suffixes=(".csv",),
    ),
    Entry(
        "parquet",
        "replaystore.formats.tables.files:Parquet",
        what="a table of steps in Parquet",
        suffixes=(".parquet", ".pq"),
        magic=(b"PAR1",),
        extra="arrow",
    ),
    Entry(
        "arrow",
        "replaystore.formats.tables.files:Arrow",
        what="a table of steps of Arrow",
        suffixes=(".arrow", ".feather", ".ipc", ".arrows"),
        magic=(b"ARROW1",),
        extra="arrow",
    ),
)
"""Formats of files that may be anything, which come after those that know what theirs are."""
OWN: dict[Kind, tuple[Entry, ...]] = {
    "storage": (
        Entry(PLAIN, "replaystore.storage.places:LOCAL", "a folder or file"),
        Entry(
            "zip",
            "replaystore.storage.places:ZIP",
            "a zip file",
            suffixes=(".zarr.zip", ".zip"),
            magic=(b"PK\x03\x04", b"PK\x05\x06"),
            container="zarr",
        ),
        Entry(
            "memory",
            "replaystore.storage.places:MEMORY",
            "memory of the process",
            schemes=("memory",),
            container="zarr",
        ),
        Entry(
            "http",
            "replaystore.storage.http.places:HTTP",
            "files on a server",
            schemes=("http", "https"),
            urls=True,
            packed="http-zip",
        ),
        Entry(
            "http-zip",
            "replaystore.storage.http.places:HTTP_ZIP",
            "a zip file on a server",
            container="zarr",
            urls=True,
        ),
        Entry(
            "replay",
            "replaystore.client.places:REPLAY",
            "a store that `replaystore serve` serves",
            schemes=("replay", "replays"),
            urls=True,
            packed="replay-zip",
        ),
        Entry(
            "replay-zip",
            "replaystore.client.places:REPLAY_ZIP",
            "a zip file that `replaystore serve` serves",
            container="zarr",
            urls=True,
        ),
    ),
    "containers": (
        Entry(
            "zarr",
            "replaystore.containers.zarr.container:ZarrContainer",
            "a folder of Zarr",
            suffixes=(".zarr",),
            members=("zarr.json",),
        ),
        Entry(
            "hdf5",
            "replaystore.containers.hdf5.container:Hdf5Container",
            "an HDF5 file",
            suffixes=(".hdf5", ".h5"),
            magic=(b"\x89HDF\r\n\x1a\n", b"REPLAYSTORE HDF5"),
            magic_later=True,
        ),
    ),
    "formats": (
        Entry(
            "imitation",
            "replaystore.formats.imitation.trajectories:Imitation",
            what="trajectories of imitation",
            members=("state.json",),
            extra="arrow",
        ),
        Entry(
            "cpprb",
            "replaystore.formats.cpprb.transitions:Cpprb",
            what="transitions of cpprb",
            magic=(b"PK\x03\x04",),
        ),
        Entry(
            "minari_arrow",
            "replaystore.formats.minari.dataset:MinariArrow",
            what="a dataset of Minari in Arrow",
            members=("metadata.json", "data"),
            extra="arrow",
        ),
        Entry(
            "minari_parquet",
            "replaystore.formats.minari.dataset:MinariParquet",
            what="a dataset of Minari in Parquet",
            members=("metadata.json", "data"),
            extra="arrow",
        ),
        Entry(
            "minari",
            "replaystore.formats.minari.dataset:Minari",
            what="a dataset of Minari",
            members=("metadata.json", "data"),
            magic=(b"\x89HDF\r\n\x1a\n",),
        ),
        Entry(
            "imitation",
            "replaystore.formats.imitation.trajectories:Imitation",
            what="trajectories of imitation",
            members=("state.json",),
            extra="arrow",
        ),
        Entry(
            "rlds",
            "replaystore.formats.rlds.datasets:Rlds",
            what="a dataset of TFDS (RLDS)",
            suffixes=(".rlds",),
            members=("features.json",),
        ),
        Entry(
            "sb3",
            "replaystore.formats.stable_baselines3.pickles:StableBaselines3",
            what="a pickle of Stable-Baselines3",
            suffixes=(".sb3.pkl",),
            magic=(b"\x80",),
        ),
        Entry(
            "active_rlhf",
            "replaystore.formats.active_rlhf.pickles:ActiveRlhf",
            what="a pickle of active_rlhf",
            suffixes=(".pkl", ".pickle"),
            magic=(b"\x80",),
        ),
        Entry(
            "diffusion_policy",
            "replaystore.formats.diffusion_policy:DiffusionPolicy",
            what="a replay buffer of diffusion_policy",
            magic=(b"PK\x03\x04",),
            members=("meta/episode_ends",),
        ),
        Entry(
            "torchrl",
            "replaystore.formats.torchrl.buffers:TorchRL",
            what="a replay buffer of TorchRL",
            magic=(b"PK\x03\x04", b"\x89HDF\r\n\x1a\n"),
            members=("storage", "meta.json", "storage_metadata.json", "checkpoint.h5", "zarr.json"),
        ),
        Entry(
            "velora",
            "replaystore.formats.velora.files:Velora",
            what="a velora buffer",
            suffixes=(".safetensors",),
            members=("buffer_state.safetensors",),
        ),
        Entry(
            "d3rlpy",
            "replaystore.formats.d3rlpy:D3rlpy",
            what="an HDF5 file of d3rlpy",
            magic=(b"\x89HDF\r\n\x1a\n",),
        ),
        Entry(
            "tianshou",
            "replaystore.formats.tianshou.buffers:Tianshou",
            what="an HDF5 file of Tianshou",
            magic=(b"\x89HDF\r\n\x1a\n",),
        ),
        Entry(
            "robomimic",
            "replaystore.formats.robomimic.demos:Robomimic",
            what="an HDF5 file of robomimic",
            magic=(b"\x89HDF\r\n\x1a\n",),
        ),
        Entry(
            "d4rl",
            "replaystore.formats.d4rl:D4rl",
            what="a flat HDF5 file as D4RL has them",
            magic=(b"\x89HDF\r\n\x1a\n",),
        ),
        *GENERAL,
        Entry(
            "npz",
            "replaystore.formats.npz.arrays:Npz",
            what="an .npz file of flat arrays",
            suffixes=(".npz",),
            magic=(b"PK\x03\x04",),
        ),
        Entry(
            "pickled_dict",
            "replaystore.formats.pickled_dict.dicts:PickledDict",
            what="a pickle of a dict of arrays",
            suffixes=(".dict.pkl",),
            magic=(b"\x80",),
        ),
    ),
}
"""Where several fit, the first decides."""
