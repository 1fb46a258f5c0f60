"""Writes rollouts into TorchRL's LazyMemmapStorage, as often as a line on standard input says how many;
answers with the seconds taken.

Run by an interpreter that has torchrl: torchrl_worker.py ROLLOUTS.npz FOLDER
"""

from __future__ import annotations

import os
import shutil
import sys
import time
import warnings

import numpy as np

warnings.simplefilter("ignore")
try:
    import torch
    from tensordict import TensorDict
    from torchrl.data import LazyMemmapStorage, ReplayBuffer
except ImportError as error:
    sys.exit(
        f"TorchRL is not installed for {sys.executable} ({error}); name one that has it: --torchrl PYTHON"
    )


def main() -> None:
    torch.set_num_threads(1)
    data = np.load(sys.argv[1])
    names = sorted({key.partition("/")[2] for key in data.files})
    numbers = sorted({int(key.partition("/")[0]) for key in data.files})
    rollouts = [{name: data[f"{number}/{name}"] for name in names} for number in numbers]
    size = len(rollouts[0][names[0]])
    tensors = [
        TensorDict({name: torch.from_numpy(rows) for name, rows in one.items()}, [size]) for one in rollouts
    ]
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # TorchRL prints, too
    print("ready", file=answers, flush=True)
    for line in sys.stdin:
        count = int(line)
        buffer = ReplayBuffer(storage=LazyMemmapStorage(count * size, scratch_dir=sys.argv[2]))
        buffer.extend(tensors[0])  # makes the files
        buffer.empty()
        begin = time.perf_counter()
        for number in range(count):
            buffer.extend(tensors[number % len(tensors)])
        taken = time.perf_counter() - begin
        for name in names:
            wanted = np.concatenate([rollouts[number % len(rollouts)][name] for number in range(count)])
            if not np.array_equal(buffer[:][name].numpy(), wanted):
                sys.exit(f"TorchRL gave back other values of {name} than were written")
        del buffer
        shutil.rmtree(sys.argv[2], ignore_errors=True)
        print(taken, file=answers, flush=True)


if __name__ == "__main__":
    main()
