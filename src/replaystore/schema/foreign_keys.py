"""What other software keeps in a document, by keys with a dot or a colon in them: it is kept where it stands,
whoever makes another document of that one. Documents are JSON here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["and_foreign", "is_foreign"]

SECTIONS = ("ring", "environment", "layout")


def is_foreign(key: str) -> bool:
    """Whether a key is other software's."""
    return "." in key or ":" in key


def and_foreign(known: Mapping[str, Any], content: dict[str, Any]) -> dict[str, Any]:
    """A document, with what another one has of other software where it has the same sections, fields and
    overrides."""
    found = {**_foreign(known), **content}
    for name in SECTIONS:
        if isinstance(known.get(name), dict) and isinstance(found.get(name), dict):
            found[name] = {**_foreign(known[name]), **found[name]}
    fields = {field["name"]: _foreign(field) for field in known["schema"]["fields"]}
    given = found["schema"]
    if isinstance(given, dict) and isinstance(given.get("fields"), list):
        described = [{**fields.get(field.get("name"), {}), **field} for field in given["fields"]]
        found["schema"] = {**_foreign(known["schema"]), **given, "fields": described}
    overrides = found["layout"].get("overrides")
    if isinstance(overrides, dict):
        before = {name: _foreign(override) for name, override in known["layout"]["overrides"].items()}
        overrides = {name: {**before.get(name, {}), **given} for name, given in overrides.items()}
        found["layout"] = {**found["layout"], "overrides": overrides}
    return found


def _foreign(section: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in section.items() if is_foreign(key)}
