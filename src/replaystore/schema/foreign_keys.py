"""What a document has beside what is known: other software's keys, which have a dot or a colon in them, are
kept where they stand by whoever makes another document of it; those of a newer minor version, by whoever
changes it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

__all__ = ["and_kept", "beside", "is_foreign"]

SECTIONS = ("ring", "environment", "layout")


def is_foreign(key: str) -> bool:
    """Whether a key is other software's."""
    return "." in key or ":" in key


def beside(document: Any, keys: Callable[[str], bool]) -> dict[str, Any]:
    """What a document has by keys like these that its sections were not made for, where it stands in its
    JSON."""

    def of(section: Any) -> dict[str, Any]:
        more = {} if section is None else section.model_extra or {}
        return {key: value for key, value in more.items() if keys(key)}

    found = of(document) | {name: of(getattr(document, name)) for name in SECTIONS}
    found["layout"]["overrides"] = {name: of(known) for name, known in document.layout.overrides.items()}
    fields = [{"name": field.name, **of(field)} for field in document.schema_.fields_]
    return {**found, "schema": {**of(document.schema_), "fields": fields}}


def and_kept(known: Mapping[str, Any], content: dict[str, Any]) -> dict[str, Any]:
    """The JSON of a document, with what another one has `beside` where it has the same sections, fields and
    overrides."""
    found = {**known, **content}
    for name in SECTIONS:
        if isinstance(found[name], dict):
            found[name] = {**known[name], **found[name]}
    overrides, before = content["layout"].get("overrides", {}), known["layout"]["overrides"]
    if isinstance(overrides, dict):
        overrides = {name: {**before.get(name, {}), **setting} for name, setting in overrides.items()}
    found["layout"] = {**found["layout"], "overrides": overrides}
    fields = {field["name"]: field for field in known["schema"]["fields"]}
    given = found["schema"]
    if isinstance(given, dict) and isinstance(given.get("fields"), list):
        described = [{**fields.get(field.get("name"), {}), **field} for field in given["fields"]]
        found["schema"] = {**known["schema"], **given, "fields": described}
    return found
