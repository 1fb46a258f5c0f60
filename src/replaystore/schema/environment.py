"""What a store says of the environment that its steps were taken in."""

from __future__ import annotations

import json
from typing import Any

from replaystore.schema.strict_json import strict

__all__ = ["environment_of"]


def environment_of(env: Any) -> dict[str, Any] | None:
    """The environment section for a Gymnasium environment or vector environment; None for anything else.

    A spec that cannot be written as JSON does not stop the recording: `spec` is then None and `spec_error`
    says why.
    """
    if not hasattr(env, "observation_space") or not hasattr(env, "action_space"):
        return None
    vector = hasattr(env, "single_observation_space")
    section: dict[str, Any] = {
        "id": None,
        "spec": None,
        "spec_error": None,
        "num_envs": int(env.num_envs) if vector else 1,
        "autoreset": None,
    }
    try:
        spec = env.spec
        # Put together by hand, and not by make_vec.
        if spec is None and vector and getattr(env, "envs", None):
            spec = env.envs[0].spec
        if spec is not None:
            section["id"] = str(spec.id)
            text = spec.to_json()
            # a limit of infinity becomes the string.
            section["spec"] = strict(json.loads(text, parse_constant=str))
            for added in ("num_envs", "vectorization_mode") if vector else ():
                # make_vec's own, which the environment does not know.
                section["spec"].get("kwargs", {}).pop(added, None)
    except Exception as error:  # noqa: BLE001  # specs hold whatever users pass to make(), so anything can go wrong; the section says what did
        section["spec_error"] = " ".join(f"{type(error).__name__}: {error}".split())[:500]
    mode = (getattr(env, "metadata", None) or {}).get("autoreset_mode") if vector else None
    section["autoreset"] = None if mode is None else str(getattr(mode, "value", mode))
    return section
