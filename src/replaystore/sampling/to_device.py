"""Batches on a device, as PyTorch tensors. PyTorch is imported when somebody asks for them."""

from __future__ import annotations

from typing import Any

from replaystore.errors import ArgumentError
from replaystore.extras import require
from replaystore.schema.ragged import Ragged

__all__ = ["Transfer"]


class Transfer:
    """Brings a batch to a device as PyTorch tensors; to a GPU through pinned memory, without waiting for
    it."""

    def __init__(self, device: Any) -> None:
        torch = require("torch", "device=, which gives tensors of PyTorch,", "torch")
        try:
            self._device = torch.device(device)
        except (RuntimeError, TypeError) as error:
            raise ArgumentError(
                f"device {device!r} is none of PyTorch's: {str(error).splitlines()[0]}"
            ) from None
        if self._device.type == "cuda" and not torch.cuda.is_available():
            raise ArgumentError(f"device {device!r}: PyTorch finds no GPU here; use device='cpu'")
        try:
            # a second GPU, or a kind that this PyTorch was not built for.
            torch.empty(1, device=self._device).cpu()
        except (RuntimeError, AssertionError, ImportError, NotImplementedError) as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise ArgumentError(
                f"device {device!r} cannot be used here ({reason:.200}): use device='cpu', or "
                "one that there is"
            ) from None
        self._torch = torch

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        tensors: dict[str, Any] = {
            name: values.to("cpu") if isinstance(values, Ragged) else self._torch.from_numpy(values)
            for name, values in batch.items()
        }
        if self._device.type == "cpu":
            return tensors
        if self._device.type == "cuda":
            return {
                name: tensor.pin_memory().to(self._device, non_blocking=True)
                for name, tensor in tensors.items()
            }
        return {name: tensor.to(self._device) for name, tensor in tensors.items()}
