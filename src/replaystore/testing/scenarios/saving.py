"""Saving the drop-in buffers of velora and active_rlhf: to stores and to their own files, over what is there,
and again.

All rows follow from the seed. What a folder holds is what `load` gives, so that a mixture of two buffers is
neither of them.
"""

from __future__ import annotations

import os
from types import SimpleNamespace
from typing import Any

import gymnasium
import numpy as np
import torch

from replaystore.compat import active_ring, active_rlhf, velora, velora_ring
from replaystore.converting.convert import convert
from replaystore.errors import NotFoundError
from replaystore.testing.crashes import tiny
from replaystore.testing.scenarios.recordings import verified
from replaystore.testing.scenarios.replacing import Replacing, digest

__all__ = ["scenario"]

SIZES: dict[str, Any] = {"state_dim": 3, "action_dim": 2, "hidden_dim": 4}
FILES = ("buffer_state.safetensors", "buffer_metadata.json")
SUFFIXES = {"hdf5": ".h5", "files": "", "pickle": ".pkl", "zip": ".zarr.zip"}


class _Saving(Replacing):
    """What both have in common; `path` is what is saved to."""

    torch = True

    def __init__(self, name: str, seed: int, *, file: str, over: bool) -> None:
        super().__init__(name)
        self.seed, self.file, self.over = seed, file, over

    def path(self, folder: str) -> str:
        return os.path.join(folder, self.file)

    def filled(self, seed: int, count: int) -> Any:
        """A buffer in memory."""
        raise NotImplementedError

    def add(self, buffer: Any, seed: int, count: int) -> None:
        raise NotImplementedError

    def load(self, folder: str, **options: Any) -> Any:
        raise NotImplementedError

    def tensors(self, buffer: Any) -> dict[str, Any]:
        raise NotImplementedError

    def prepare(self, folder: str) -> None:
        if self.over:
            with tiny():
                self.filled(self.seed + 500, 9).save(self.path(folder))

    def do(self, folder: str) -> None:
        with tiny():
            self.filled(self.seed, 14).save(self.path(folder))

    def read(self, folder: str) -> str:
        buffer = self.load(folder)
        try:
            return digest(self.tensors(buffer))
        finally:
            buffer.close()

    def recover(self, folder: str) -> None:
        if self.file.endswith((".zarr", ".h5")) and os.path.lexists(self.path(folder)):
            self.load(folder, mode="r+").close()
        else:
            self._seen(folder)

    def verify(self, folder: str) -> None:
        if self.file.endswith((".zarr", ".h5")) and os.path.lexists(self.path(folder)):
            verified(self.path(folder))


class Velora(_Saving):
    """velora's buffer."""

    def filled(self, seed: int, count: int) -> Any:
        buffer = velora.ReplayBuffer(16 + seed % 7, **SIZES)
        self.add(buffer, seed, count)
        return buffer

    def add(self, buffer: Any, seed: int, count: int) -> None:
        draw = torch.Generator().manual_seed(seed)
        widths = (SIZES["state_dim"], SIZES["action_dim"], 1, SIZES["state_dim"], 1, SIZES["hidden_dim"])
        rows = [torch.randn(count, width, generator=draw) for width in widths]
        rows[4] = (rows[4] > 1).float()
        buffer.add_multi(*rows)

    def load(self, folder: str, **options: Any) -> Any:
        path = self.path(folder)
        return velora.ReplayBuffer.load(path if self.file else os.path.join(folder, FILES[0]), **options)

    def tensors(self, buffer: Any) -> dict[str, Any]:
        known = {name: buffer._ring.tensor(name)[:].numpy() for name in velora_ring.FIELDS}
        return known | {"numbers": np.array([buffer.capacity, buffer.position, buffer.size])}


class Active(_Saving):
    """The buffer of active_rlhf."""

    def filled(self, seed: int, count: int) -> Any:
        boxes = [gymnasium.spaces.Box(-1, 1, (width,)) for width in (2, 1)]
        envs = SimpleNamespace(single_observation_space=boxes[0], single_action_space=boxes[1])
        buffer = active_rlhf.ReplayBuffer(envs, 16 + seed % 7, fragment_length=3, device="cpu")
        self.add(buffer, seed, count)
        return buffer

    def add(self, buffer: Any, seed: int, count: int) -> None:
        draw = torch.Generator().manual_seed(seed)
        rows = [torch.randn(count, width, generator=draw) for width in (2, 1, 1)]
        buffer.add(*rows, torch.rand(count, 1, generator=draw) < 0.2, split=["train", "val"][seed % 2])

    def load(self, folder: str, **options: Any) -> Any:
        return active_rlhf.ReplayBuffer.load(self.path(folder), device="cpu", **options)

    def tensors(self, buffer: Any) -> dict[str, Any]:
        known = {name: buffer._ring.tensor(name)[:].numpy() for name in active_ring.NAMES}
        infos = [repr(active_ring._info(known)) for known in buffer.trajectories]
        return known | {
            "numbers": np.array([buffer.capacity, buffer.pos, buffer.size, buffer.global_step]),
            "infos": np.array(infos),
        }


class _Again(_Saving):
    """A second `save` of a buffer that has grown, which writes only what is new."""

    again = False

    def do(self, folder: str) -> None:
        with tiny():
            buffer = self.filled(self.seed, 6)
            buffer.save(self.path(folder))
            self.add(buffer, self.seed + 1, 5)
            self.change(buffer)
            buffer.save(self.path(folder))

    def change(self, buffer: Any) -> None:
        """Change something beside the rows."""

    def outcomes(self) -> dict[str, str]:
        import tempfile

        found = super().outcomes()
        with tempfile.TemporaryDirectory() as folder, tiny():
            self.filled(self.seed, 6).save(self.path(folder))
            return found | {"middle": self.read(folder)}


class VeloraAgain(_Again, Velora):
    """Incremental saving of velora's."""


class ActiveAgain(_Again, Active):
    """Incremental saving of active_rlhf's."""


class VeloraInPlace(Velora):
    """A buffer that was loaded from its store for writing, of which a row is set: the store is written anew,
    in place."""

    again = False

    def do(self, folder: str) -> None:
        if not os.path.lexists(self.path(folder)):
            raise NotFoundError(self.path(folder))
        with tiny():
            buffer = self.load(folder, mode="r+")
            buffer.states[torch.tensor([1, 4])] = torch.full((2, SIZES["state_dim"]), float(self.seed))
            buffer.save(self.path(folder))
            buffer.close()


class _Export:
    """A store is converted to files of other software."""

    again = True

    def prepare(self: Any, folder: str) -> None:
        with tiny():
            source = self.filled(self.seed, 14)
            source.save(os.path.join(folder, "source.zarr"))
            if self.over:
                self.filled(self.seed + 500, 9).save(self.path(folder))

    def do(self: Any, folder: str) -> None:
        with tiny():
            target = self.path(folder) if self.file else os.path.join(folder, FILES[0])
            convert(os.path.join(folder, "source.zarr"), target, overwrite=True)


class ExportVelora(_Export, Velora):
    """To a pair of velora's files."""


class ExportPickle(_Export, Active):
    """To a pickle of active_rlhf's."""


KINDS: dict[str, type[_Saving]] = {
    "velora": Velora,
    "velora-again": VeloraAgain,
    "velora-in-place": VeloraInPlace,
    "active": Active,
    "active-again": ActiveAgain,
    "export-velora": ExportVelora,
    "export-pickle": ExportPickle,
}


def scenario(name: str, seed: int) -> _Saving:
    """One of them, by its name."""
    generator = np.random.default_rng(seed)
    stem, _, last = name.rpartition("-")
    kind = name if name in KINDS else stem
    suffix = {"export-velora": "", "export-pickle": ".pkl"}.get(name, SUFFIXES.get(last, ".zarr"))
    if name == "velora-again" or name == "velora-in-place":
        suffix = str(generator.choice([".zarr", ".h5"]))
    over = bool(generator.random() < 0.75) or kind == "velora-in-place"
    return KINDS[kind](
        name, int(generator.integers(1 << 20)), file="buffer" + suffix if suffix else "", over=over
    )
