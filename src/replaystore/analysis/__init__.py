"""Looking at what a buffer holds: fragments in epochs, pictures, and a variational autoencoder.

Nothing here reads a buffer into memory: rows are read in blocks, and what a picture needs of all of them is
summed up as they go by. All of it needs torch, and pictures need matplotlib.
"""

from __future__ import annotations

from replaystore.extras import require

require("torch", "replaystore.analysis", "training")
