"""The one JSON document that is stored with every store: what the arrays mean, and where they come from.

It is strict JSON (no NaN or Infinity, no key twice, bounded in size and depth), of a published JSON Schema
(`json_schema`, and the file document.schema.json beside this one). The version is the format's: a document of
a newer minor version is read, and what is not known in it is kept where it stands and written back; one of a
newer major version is refused. Keys with a dot or a colon in them are other software's, in any version and
any section: they are kept in the same way.

Only this module imports pydantic, which takes longer to import than the rest of the package together.
"""

from __future__ import annotations

import datetime
import importlib.metadata
import platform
import uuid
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, Final, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, ValidationError

from replaystore.errors import CorruptError, FormatError, FormatVersionError, SchemaError, UnsupportedError
from replaystore.schema.fields import Schema
from replaystore.schema.foreign_keys import and_kept, beside, is_foreign
from replaystore.schema.needs import check_known, hidden, shown
from replaystore.schema.roles import ROLES
from replaystore.schema.spaces import DTYPES, LEAF_SPACES
from replaystore.schema.strict_json import check_size, decoded, encoded_size, strict

__all__ = [
    "FORMAT",
    "FORMAT_VERSION",
    "MAX_USER_BYTES",
    "Document",
    "json_schema",
    "new",
    "parse",
    "provenance",
    "to_plain",
]

FORMAT: Final = "replaystore"
FORMAT_VERSION: Final = "1.0"
MAX_USER_BYTES: Final = 1 << 20
"""How much a user may keep in a document, encoded; larger things belong in files beside the store."""

_MAJOR, _MINOR = map(int, FORMAT_VERSION.split("."))
_URN = "urn:replaystore:document:1"

_Count = Annotated[int, Field(ge=0, lt=1 << 63)]
_Positive = Annotated[int, Field(ge=1, lt=1 << 63)]
_Object = dict[str, Any]  # free-form; that it is strict JSON is checked before the models see it


# --- the sections


class _Section(BaseModel):
    """A part of the document with fixed keys."""

    model_config = ConfigDict(
        strict=True,
        extra="forbid",
        allow_inf_nan=False,
        frozen=True,
        json_schema_extra={
            "patternProperties": {"[.:]": {"description": "of other software; kept as it is"}}
        },
    )
    unless: ClassVar[frozenset[str]] = frozenset()
    """Keys that are left out of the JSON, unless they are not as usual."""


class FieldSection(_Section):
    """A field of the schema; see replaystore.schema.Field."""

    unless: ClassVar[frozenset[str]] = frozenset({"text", "needs"})
    name: str
    dtype: str = Field(json_schema_extra={"enum": [*DTYPES]})
    shape: list[_Positive | None] = Field(description="of a value; null first: it has any length")
    role: str = Field(json_schema_extra={"enum": [*ROLES]})
    space: _Object | None = Field(
        None,
        json_schema_extra={"required": ["type"], "properties": {"type": {"enum": [*LEAF_SPACES]}}},
        description="the Gymnasium space",
    )
    mutable: bool = Field(False, description="whether values are set later; see changes/ in FORMAT.md")
    text: bool = Field(False, description="whether values are texts in UTF-8")
    needs: list[str] = Field(
        [], description="what a reader has to know to show the field; one that does not leaves it out"
    )


class SchemaSection(_Section):
    """What one step holds."""

    unless: ClassVar[frozenset[str]] = frozenset({"graphs"})
    fields_: list[FieldSection] = Field(alias="fields", min_length=1)
    tuples: list[str] = Field([], description="paths of nested values that are tuples")
    graphs: list[str] = Field([], description="paths of nested values that are graphs")


class Ring(_Section):
    """A window of at most `capacity` steps."""

    capacity: _Positive
    position: _Count | None = Field(
        None, description=("the row of a physical ring that is written next, if the source was one")
    )


class Environment(_Section):
    """Where the steps were taken."""

    id: str | None = None
    spec: _Object | None = Field(
        None, description=("Gymnasium's EnvSpec as JSON; its entry point is never imported by reading it")
    )
    spec_error: str | None = Field(None, description="why the spec is not here")
    num_envs: _Positive | None = None
    autoreset: str | None = Field(None, description="Gymnasium's AutoresetMode of a vector environment")


class Override(_Section):
    """How one field is stored where that differs from its layout."""

    codec: str | None = Field(None, pattern=r"^(raw|[a-z][a-z0-9]*:-?[0-9]{1,2})$")
    chunk_rows: _Positive | None = None


class Layout(_Section):
    """How the fields are stored."""

    name: Literal["live", "archive"] = "live"
    durability: Literal["commit", "none"] = "commit"
    overrides: dict[str, Override] = Field({}, description="by field name")


class Provenance(_Section):
    """What made the store, when, with which versions, from what."""

    created: str = Field(
        pattern=r"^\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}(\.\d+)?Z$", description="ISO 8601, UTC"
    )
    created_by: dict[str, str] = Field(description="name of the software: its version")
    source: _Object | None = Field(
        None, description=("location, format, checksums, … of what it was converted from")
    )


class Document(_Section):
    """The document. Make one with `new` or `parse`; values inside it are not to be changed."""

    unless: ClassVar[frozenset[str]] = frozenset({"needs"})
    format: Literal["replaystore"] = FORMAT
    format_version: str = Field(pattern=rf"^{_MAJOR}\.(0|[1-9][0-9]*)$")
    id: str = Field(
        pattern=r"^[0-9a-f]{32}$", description="the store's own, which no other has but copies of its files"
    )
    needs: list[str] = Field([], description="what a writer has to know; one that does not only reads")
    schema_: SchemaSection = Field(alias="schema")
    ring: Ring | None = None
    environment: Environment | None = None
    layout: Layout
    provenance: Provenance
    user: _Object = Field({}, description=f"anything of the user's, up to {MAX_USER_BYTES} bytes")
    extensions: _Object = Field({}, description="of other software; kept as they are")

    _steps: Schema = PrivateAttr()

    def model_post_init(self, context: Any) -> None:
        """Check what a JSON Schema cannot say. ValueError, which pydantic reports with the place."""
        try:
            self._steps = Schema.from_json(shown(to_plain(self.schema_), self.hidden))
        except FormatError as error:
            raise ValueError(str(error)) from error
        if unknown := self.layout.overrides.keys() - {field.name for field in self.schema_.fields_}:
            raise ValueError(f"layout.overrides names {min(unknown)!r}, which is not a field")
        if self.ring and self.ring.position is not None and self.ring.position >= self.ring.capacity:
            raise ValueError(
                f"ring.position {self.ring.position} lies outside the capacity {self.ring.capacity}"
            )

    @property
    def steps(self) -> Schema:
        """The schema, without the fields that are hidden."""
        return self._steps

    @property
    def hidden(self) -> dict[str, str]:
        """The fields that this version cannot show, and the first thing that each of them needs."""
        return hidden({field.name: field.needs for field in self.schema_.fields_})

    def check_writable(self, where: str) -> None:
        """UnsupportedError: whoever writes to the store has to know something that this version does not."""
        check_known(self.needs, self.hidden, where)

    def to_json(self) -> dict[str, Any]:
        """Strict JSON, what was not known when it was parsed included."""
        encoded: dict[str, Any] = to_plain(self)
        return encoded

    def replace(self, **sections: Any) -> Document:
        """A document with other sections, given as in `new`; SchemaError if one is not valid."""
        return _checked(and_kept(beside(self, lambda _: True), {**self.to_json(), **_given(sections)}))


def new(
    schema: Schema,
    *,
    layout: Mapping[str, Any] | None = None,
    ring: Mapping[str, Any] | None = None,
    environment: Mapping[str, Any] | None = None,
    provenance: Mapping[str, Any] | None = None,
    user: Mapping[str, Any] | None = None,
    extensions: Mapping[str, Any] | None = None,
    like: Document | None = None,
) -> Document:
    """A document of the newest version, of a store of its own. SchemaError names the key that is not valid;
    provenance None: made here and now. `like`: it keeps what that one has of other software, by names with a
    dot or a colon."""
    sections = {"schema": schema, "ring": ring, "environment": environment, "provenance": provenance}
    sections |= {"layout": layout or {}, "user": user or {}, "extensions": extensions or {}}
    content = {"format": FORMAT, "format_version": FORMAT_VERSION, "id": uuid.uuid4().hex, **_given(sections)}
    return _checked(content if like is None else and_kept(beside(like, is_foreign), content))


def _given(sections: Mapping[str, Any]) -> dict[str, Any]:
    made = dict(sections)
    if isinstance(made.get("schema"), Schema):
        made["schema"] = made["schema"].to_json()
    if "provenance" in made and made["provenance"] is None:
        made["provenance"] = provenance()
    return made


def provenance(source: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The section for something made now, with the versions that made it; `source` is free-form strict
    JSON."""
    try:
        version = importlib.metadata.version("replaystore")
    except importlib.metadata.PackageNotFoundError:
        version = "not installed"  # run from its source folder
    made_by = {"replaystore": version, "numpy": np.__version__, "python": platform.python_version()}
    now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return {"created": now, "created_by": made_by, "source": None if source is None else dict(source)}


# --- reading and checking


def parse(data: Mapping[str, Any] | bytes | str, where: str) -> Document:
    """The document in parsed or encoded JSON; `where` names the store in messages.

    FormatError: not a document of replaystore; FormatVersionError: of a newer major version; CorruptError:
    one with something wrong in it.
    """
    try:
        content = strict(data if isinstance(data, Mapping) else decoded(data))
        if isinstance(data, Mapping):
            check_size(encoded_size(content))
    except ValueError as error:
        raise CorruptError(f"{where}: the document is damaged: {error}; restore it from a copy") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise FormatError(
            f"{where}: this is not a replaystore document (its key 'format' is not "
            f"{FORMAT!r}): check the path"
        )
    try:
        return _validated(content, newer=_is_newer(content.get("format_version"), where))
    except UnsupportedError as error:
        raise FormatVersionError(f"{where}: {error}") from error
    except ValueError as error:
        what = f"{where}: the document is damaged: {_one_line(error)}; restore it from a copy"
        raise CorruptError(what) from error


def _is_newer(version: object, where: str) -> bool:
    """Whether the minor version is newer than ours; its keys are then not all known."""
    parts = version.split(".") if isinstance(version, str) and version.isascii() else []
    if len(parts) != 2 or not all(
        part.isdigit() and len(part) < 10 and str(int(part)) == part for part in parts
    ):
        raise CorruptError(
            f"{where}: the document's format_version is {version!r:.40}, not a version such "
            f"as '{FORMAT_VERSION}'"
        )
    major, minor = map(int, parts)
    if major > _MAJOR:
        raise FormatVersionError(
            f"{where} has format version {version}, this replaystore reads up to "
            f"{_MAJOR}.x: upgrade replaystore"
        )
    if major < _MAJOR:
        raise FormatVersionError(
            f"{where} has format version {version}, which never was released: check what wrote it"
        )
    return minor > _MINOR


def _validated(content: dict[str, Any], *, newer: bool) -> Document:
    document = Document.model_validate(content, extra="allow")
    surprise = None if newer else next(_surprises(document), None)
    if surprise is not None:
        raise ValueError(
            f"key {surprise!r} is not known (other software's have a dot or a colon in their names)"
        )
    return document


def _surprises(value: Any, place: str = "") -> Iterator[str]:
    """Where a document has keys that are neither ours nor other software's."""
    if isinstance(value, BaseModel):
        for key in value.model_extra or ():
            if not is_foreign(key):
                yield place + key
        for name, field in type(value).model_fields.items():
            yield from _surprises(getattr(value, name), f"{place}{field.alias or name}.")
    elif isinstance(value, list) and value and isinstance(value[0], BaseModel):
        for number, item in enumerate(value):
            yield from _surprises(item, f"{place[:-1]}[{number}].")
    elif isinstance(value, dict):
        for key, item in value.items():
            if isinstance(item, BaseModel):
                yield from _surprises(item, f"{place}{key}.")


def _checked(content: dict[str, Any]) -> Document:
    """The document of values that a caller gave."""
    try:
        sound = strict(content)
        check_size(encoded_size(sound))
        if (size := encoded_size(sound["user"])) > MAX_USER_BYTES:
            raise ValueError(
                f"'user' takes {size} bytes, over the limit of {MAX_USER_BYTES}: keep large "
                "things in files beside the store"
            )
        return _validated(sound, newer=_is_newer(sound["format_version"], "the document"))
    except ValueError as error:
        raise SchemaError(f"the metadata cannot be stored: {_one_line(error)}") from error


def _one_line(error: ValueError) -> str:
    if not isinstance(error, ValidationError):
        return " ".join(str(error).split())
    first, more = error.errors(include_url=False)[0], error.error_count() - 1
    place = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in first["loc"]).lstrip(".")
    message = first["msg"].removeprefix("Value error, ")
    came = "" if first["type"] in ("missing", "value_error") else f", came {first['input']!r:.60}"
    text = f"key {place!r}: {message}{came}" if place else message
    return " ".join(f"{text}{f' (and {more} more)' if more else ''}".split())


def to_plain(value: Any, *, whole: bool = True) -> Any:
    """Models to dicts; if `whole`, with what they were not made for (keys of other software, and of a newer
    minor version), which pydantic's own dump leaves out."""
    if isinstance(value, _Section):
        known = {
            field.alias or name: getattr(value, name)
            for name, field in type(value).model_fields.items()
            if name not in value.unless or getattr(value, name)
        }
        more = (value.model_extra or {}) if whole else {}
        return {key: to_plain(item, whole=whole) for key, item in (known | more).items()}
    if isinstance(value, dict):
        return {key: to_plain(item, whole=whole) for key, item in value.items()}
    return [to_plain(item, whole=whole) for item in value] if isinstance(value, list) else value


# --- the JSON Schema


def json_schema() -> dict[str, Any]:
    """The JSON Schema (2020-12) of the document, for other software; readers of it should ignore keys of
    newer minor versions."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": _URN,
        **_on_one_line(Document.model_json_schema()),
    }


def _on_one_line(value: Any) -> Any:
    """The same with descriptions, which are docstrings, on one line each."""
    if isinstance(value, dict):
        return {
            key: " ".join(item.split())
            if key == "description" and isinstance(item, str)
            else _on_one_line(item)
            for key, item in value.items()
        }
    return [_on_one_line(item) for item in value] if isinstance(value, list) else value
