"""A plugin of pytest: Hypothesis says that an example fails, and does not take minutes to make it small."""

from __future__ import annotations

from hypothesis import Phase, settings

settings.register_profile("unshrunk", phases=(Phase.explicit, Phase.generate), database=None)
settings.load_profile("unshrunk")
