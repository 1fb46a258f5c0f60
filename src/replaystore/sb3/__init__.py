"""Replay buffers for Stable-Baselines3 whose steps lie in a store.

    from replaystore.sb3 import ReplayBuffer

    model = SAC(
        "MlpPolicy",
        env,
        replay_buffer_class=ReplayBuffer,
        replay_buffer_kwargs={"location": "runs/a.zarr"},
    )

`DictReplayBuffer` is for environments whose observations are a Dict. Needs the extra `[sb3]`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from replaystore.extras import require

if TYPE_CHECKING:
    from replaystore.sb3.buffers import DictReplayBuffer, ReplayBuffer

__all__ = ["DictReplayBuffer", "ReplayBuffer"]

if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        if name not in __all__:
            raise AttributeError(
                f"module 'replaystore.sb3' has no attribute {name!r}; its public names are "
                f"{', '.join(__all__)}"
            )
        require("stable_baselines3", "replaystore.sb3", "sb3")
        from replaystore.sb3 import buffers

        return getattr(buffers, name)
