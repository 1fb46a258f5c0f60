"""Wrappers that keep all that passes through them."""

from __future__ import annotations

from typing import Any

import gymnasium


class Spy(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Keeps what was returned last."""

    def reset(self, **options: Any) -> Any:
        self.returned: Any = self.env.reset(**options)
        return self.returned

    def step(self, action: Any) -> Any:
        self.returned = self.env.step(action)
        self.action = action
        return self.returned


class VectorSpy(gymnasium.vector.VectorWrapper[Any, Any, Any, Any, Any]):
    """Keeps what was returned last."""

    def reset(self, **options: Any) -> Any:
        self.returned: Any = self.env.reset(**options)
        self.options = options
        return self.returned

    def step(self, actions: Any) -> Any:
        self.returned = self.env.step(actions)
        self.action = actions
        return self.returned
