"""What the batches of a sampler are to hold. Whatever they depend on is here, or is the seed or the
commit."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np

from replaystore.errors import ArgumentError
from replaystore.sampling.gather import SLAB_BYTES

__all__ = ["Recipe", "check_order"]


@dataclass(frozen=True)
class Recipe:
    """What a batch is to hold; `Buffer.sampler` says what each setting means."""

    batch_size: int
    names: tuple[str, ...]
    next_observation: bool = True
    fragment_length: int | None = None
    frame_stack: int | None = None
    n_step: int = 1
    gamma: float = 0.99
    order: Literal["uniform", "trajectory", "epoch", "weights", "prioritized"] = "uniform"
    beta: float = 0.0
    per_trajectory: bool = False
    """Weights are for trajectories."""
    where: str | None = None
    split: str | None = None
    slab_bytes: int = SLAB_BYTES
    alpha: float | None = None
    """The exponent of priorities; None: what is given are weights."""
    trajectory: bool = False
    """Batches say which trajectory each item is of."""
    live: bool = False
    """What no commit has yet is drawn from too."""
    pad: Literal["start", "end"] | None = None
    burn_in: int = 0
    relabel: Literal["future"] | None = None
    goals: float = 4
    """Steps that are relabelled for each that is not."""

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if isinstance(value, np.generic):  # whose sums overflow, and which JSON does not know
                object.__setattr__(self, name, value.item())
        object.__setattr__(self, "names", tuple(map(str, self.names)))

    @property
    def padded(self) -> bool:
        """Whether fragments may show more steps than there are, and have a mask."""
        return self.pad is not None or self.burn_in > 0

    @property
    def before(self) -> int:
        """How many steps before its own a fragment has."""
        return (self.fragment_length or 1) - 1 if self.pad == "start" else self.burn_in

    @property
    def after(self) -> int:
        """How many steps a fragment has from its own on."""
        return 1 if self.pad == "start" else self.fragment_length or 1

    @property
    def history(self) -> int:
        """How many steps before its own an item shows at all."""
        return self.before + (self.frame_stack or 1) - 1

    @property
    def weighted(self) -> bool:
        """Whether steps or trajectories have weights."""
        return self.order in ("weights", "prioritized")

    @cached_property
    def transitions(self) -> bool:
        """Whether an item shows its own step, and what is observed after it, alone."""
        return not self.fragment_length and self.n_step == 1 and not self.frame_stack and not self.relabel

    def to_json(self) -> dict[str, Any]:
        """Strict JSON, of Python's own numbers and lists alone, so that `torch.load` takes it too."""
        return asdict(self) | {"names": list(self.names)}

    def check(self) -> None:
        """ArgumentError: settings that make no sense, alone or together."""
        for name, least in (("batch_size", 1), ("fragment_length", 1), ("frame_stack", 1), ("n_step", 1)):
            value = getattr(self, name)
            if value is not None and (
                isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least
            ):
                raise ArgumentError(f"{name} must be at least {least}, and an integer, not {value!r}")
        self._check_fragments()
        self._check_goals()
        for name in ("gamma", "beta", *(("alpha",) if self.order == "prioritized" else ())):
            if not isinstance(getattr(self, name), int | float | np.integer | np.floating):
                raise ArgumentError(f"{name} must be a number, not {getattr(self, name)!r:.80}")
        if not 0 <= self.gamma <= 1:
            raise ArgumentError(f"gamma must lie between 0 and 1, not {self.gamma!r}")
        if not 0 <= self.beta < np.inf:
            raise ArgumentError(f"beta must be a number that is not negative, not {self.beta!r}")
        if self.alpha is not None and not 0 <= self.alpha < np.inf:
            raise ArgumentError(f"alpha must be a number that is not negative, not {self.alpha!r}")
        if self.beta and not self.weighted:
            raise ArgumentError(
                f"beta={self.beta!r} is the exponent of importance weights, and nothing has a weight here: "
                'say order="prioritized", or leave out beta'
            )

    def _check_goals(self) -> None:
        if self.relabel not in (None, "future"):
            raise ArgumentError(f'relabel is "future" or None, not {self.relabel!r:.80}')
        if self.relabel is None:
            return
        goals: object = self.goals
        if isinstance(goals, bool) or not isinstance(goals, int | float) or not 0 < goals < np.inf:
            raise ArgumentError(f"goals is how many steps are relabelled for each that is not: not {goals!r}")
        if self.fragment_length is not None or self.frame_stack is not None or self.n_step > 1:
            raise ArgumentError(
                "goals are relabelled in single transitions, whose rewards are computed anew: leave out "
                "fragment_length, frame_stack and n_step, or relabel"
            )
        if not self.next_observation:
            raise ArgumentError(
                "rewards are computed of the goal that a step achieves: relabel needs next_observation=True"
            )

    def _check_fragments(self) -> None:
        pad, burn_in = self.pad, self.burn_in
        if self.fragment_length is not None and self.n_step > 1:
            raise ArgumentError(
                "fragments hold the reward of each step, which n-step returns can be made of: leave out "
                "n_step, or fragment_length"
            )
        if not _is_steps(burn_in):
            raise ArgumentError(f"burn_in must be a number of steps, not {burn_in!r:.80}")
        if pad not in (None, "start", "end"):
            raise ArgumentError(f'pad is "end", "start" or None, not {pad!r:.80}')
        if self.padded and self.fragment_length is None:
            what = "pad" if pad is not None else "burn_in"
            raise ArgumentError(f"{what} is for fragments: give fragment_length, or leave out {what}")
        if pad == "start" and burn_in:
            raise ArgumentError(
                'with pad="start" a fragment has the steps before its last one already: give '
                f"fragment_length={self.fragment_length or 0} + {burn_in}, and leave out burn_in"
            )


def check_order(order: object, weights: object, per: object) -> None:
    """ArgumentError: an order that there is not, or one that goes with weights."""
    orders = ("uniform", "trajectory", "epoch", "prioritized")
    if not isinstance(order, str):
        raise ArgumentError(
            f"order is one of {', '.join(map(repr, orders))}, not {type(order).__name__} {order!r:.40}: "
            'weights are given as weights=..., with per="trajectory" if they are those of trajectories'
        )
    if order not in orders:
        raise ArgumentError(f"order is one of {', '.join(map(repr, orders))}, not {order!r}")
    if per not in ("step", "trajectory"):
        raise ArgumentError(f'per is "step" or "trajectory", not {per!r}')
    if weights is not None and order != "uniform":
        raise ArgumentError(f"weights are an order of their own: leave out order={order!r}")
    if weights is None and per != "step":
        raise ArgumentError(
            f"per={per!r} says what the weights are of, and there are none: give weights, or "
            'order="trajectory"'
        )


def _is_steps(value: object) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool) and bool(value >= 0)
