"""Settings of all tests."""

from __future__ import annotations

from hypothesis import settings

# No deadline: how long an example takes says more about a busy machine than about the code.
settings.register_profile("replaystore", deadline=None)
settings.register_profile("thorough", deadline=None, max_examples=5000)  # pytest --hypothesis-profile=thorough
settings.load_profile("replaystore")
