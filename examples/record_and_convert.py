"""Record a real environment into Zarr, convert it to HDF5 and back, and check that nothing was lost or
changed.

    python examples/record_and_convert.py [FOLDER]

Half-cheetah is used where MuJoCo is installed (`pip install 'replaystore[mujoco]'`), the pendulum elsewhere.
"""

from __future__ import annotations

import importlib.util
import sys
import time
from collections.abc import Callable
from pathlib import Path

import gymnasium
import numpy as np

import replaystore as rs
from replaystore.gymnasium import RecordVector

STEPS = 100_000
NUM_ENVS = 8
HAS_MUJOCO = importlib.util.find_spec("mujoco") is not None
ENV_ID = "HalfCheetah-v5" if HAS_MUJOCO else "Pendulum-v1"


def record(location: Path) -> None:
    """Eight environments act at random; every thousand calls, what they did is committed: it would survive a
    crash."""
    env = gymnasium.make_vec(ENV_ID, num_envs=NUM_ENVS, vectorization_mode="sync")
    with rs.create(location, env, overwrite=True) as buffer:
        recorder = RecordVector(env, buffer)
        recorder.reset(seed=0)
        recorder.action_space.seed(0)
        while len(buffer) < STEPS:
            for _ in range(1000):
                recorder.step(recorder.action_space.sample())
            buffer.commit()
        recorder.close()


def check_identical(first: Path, second: Path) -> None:
    """Compare two stores bit for bit: schemas, tables of trajectories, all fields, final observations."""

    def same(one: np.ndarray, other: np.ndarray) -> bool:
        return one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()

    def check(equal: bool, what: str) -> None:
        if not equal:
            raise SystemExit(f"{first} and {second} differ in {what}")

    with rs.open(first) as a, rs.open(second) as b:
        check(a.schema == b.schema and len(a) == len(b), "schema or length")
        check(
            a.trajectories.columns.keys() == b.trajectories.columns.keys(),
            "the columns of the table of trajectories",
        )
        for name, column in a.trajectories.columns.items():
            check(same(column, b.trajectories[name]), f"column {name} of the table of trajectories")
        for name in a.schema.fields:
            for start in range(0, len(a), 65_536):
                block = slice(start, start + 65_536)
                check(same(a[name][block], b[name][block]), f"field {name}")
        for number in range(a.num_trajectories):
            one, other = a.trajectory(number), b.trajectory(number)
            check(
                all(same(one[name], other[name]) for name in a.schema.fields),
                f"steps of trajectory {number}",
            )
            finals = one.final_observation, other.final_observation  # HalfCheetah's observation is one array
            known = finals[0] is not None and finals[1] is not None
            check(
                same(*finals) if known else finals[0] is finals[1],
                f"final observation of trajectory {number}",
            )


def sample(location: Path, batches: int, batch_size: int) -> None:
    """Read random transitions: {"observation": …, "action": …, …, "next_observation": …}, each of shape
    (batch_size, …)."""
    with rs.open(location) as buffer:
        sampler = buffer.sampler(batch_size, seed=0)
        for _ in range(batches):
            batch = sampler.sample()
        assert batch["next_observation"].shape == batch["observation"].shape


def seconds_of(action: Callable[[], object]) -> float:
    begin = time.perf_counter()
    action()
    return time.perf_counter() - begin


def bytes_on_disk(path: Path) -> int:
    return sum(file.stat().st_size for file in [path, *path.rglob("*")] if file.is_file())


def main() -> None:
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "demo-output")
    first, hdf5, back = folder / "recorded.zarr", folder / "converted.h5", folder / "converted_back.zarr"
    if HAS_MUJOCO:
        import mujoco

        # MuJoCo 4 finds fault with Gymnasium's models, once for each environment.
        mujoco.set_mju_user_warning(lambda _: None)

    print(
        f"recording {STEPS:,} steps of {NUM_ENVS} {ENV_ID} environments with random actions ...", flush=True
    )
    times = {"record into Zarr": (seconds_of(lambda: record(first)), first)}
    times["convert to HDF5"] = (seconds_of(lambda: rs.convert(first, hdf5, overwrite=True)), hdf5)
    times["convert back to Zarr"] = (seconds_of(lambda: rs.convert(hdf5, back, overwrite=True)), back)
    check_identical(first, hdf5)
    check_identical(first, back)
    sampling = seconds_of(lambda: sample(first, batches=1000, batch_size=256))

    with rs.open(first) as buffer:
        steps, trajectories = len(buffer), buffer.num_trajectories
        row_bytes = sum(field.row_bytes for field in buffer.schema.fields.values())
    heads = f"{'steps':>9}{'trajectories':>14}{'bytes on disk':>15}{'seconds':>9}{'MB/s':>8}{'steps/s':>13}"
    print(f"\n{'':<22}{heads}")
    for what, (seconds, path) in times.items():
        speed = f"{seconds:>9.2f}{steps * row_bytes / seconds / 1e6:>8.1f}{steps / seconds:>13,.0f}"
        print(f"{what:<22}{steps:>9,}{trajectories:>14,}{bytes_on_disk(path):>15,}{speed}")
    drawn = 1000 * 256
    speed = f"{drawn * row_bytes / sampling / 1e6:>8.1f}{drawn / sampling:>13,.0f}"
    print(f"{'sample 1000 x 256':<22}{drawn:>9,}{'':>29}{sampling:>9.2f}{speed}")
    print(f"\nThe three are identical, bit for bit:\n  {first}\n  {hdf5}\n  {back}")


if __name__ == "__main__":
    main()
