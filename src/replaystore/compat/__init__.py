"""Drop-in replacements for the replay buffers of other projects: one module for each, named after it.

    replaystore.compat.active_rlhf    for active_rlhf.data.buffers
    replaystore.compat.velora         for velora.buffer

Torch is imported with them: without it, nothing here can be.
"""

from __future__ import annotations

from replaystore.extras import require

require("torch", "a drop-in buffer (replaystore.compat)", "torch")
