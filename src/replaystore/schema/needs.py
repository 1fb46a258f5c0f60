"""What one has to know of a document, in words, of which an older version may not know some. A reader leaves
out a field that needs such a word, and shows the others as they are: so newer minor versions can have new
kinds of fields. Who does not know all that a store and its fields need does not write to it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from replaystore.errors import UnsupportedError
from replaystore.schema.roles import FLAGS

__all__ = ["check_known", "hidden", "shown"]

KNOWN: frozenset[str] = frozenset()
"""The words that this version knows."""


def hidden(needs: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """Of what each field needs: those that this version cannot show, and the first thing that it does not
    know."""
    unknown = {name: [word for word in words if word not in KNOWN] for name, words in needs.items()}
    return {name: words[0] for name, words in unknown.items() if words}


def check_known(needs: Sequence[str], unseen: Mapping[str, str], where: str) -> None:
    """UnsupportedError: a store needs something that is not known, or has hidden fields."""
    unknown = [("it", word, "") for word in needs if word not in KNOWN]
    unknown += [(f"field {name!r}", word, ", without this field") for name, word in unseen.items()]
    for who, word, less in unknown:
        raise UnsupportedError(
            f"{where}: {who} needs {word!r:.80}, which this replaystore does not know: upgrade it to write, "
            f"or open the store for reading{less}"
        )


def shown(schema: dict[str, Any], unseen: Mapping[str, str]) -> dict[str, Any]:
    """The JSON of a schema without hidden fields; a path that loses one of them is neither a tuple nor a
    graph. UnsupportedError: nothing is left; ValueError: what every reader has to know is hidden."""
    if not unseen:
        return schema
    for field in schema["fields"]:
        if field["name"] in unseen and field["role"] in ("reward", *FLAGS):
            raise ValueError(f"field {field['name']!r} is {field['role']}, of which nothing may be needed")
    fields = [field for field in schema["fields"] if field["name"] not in unseen]
    if not fields:
        raise UnsupportedError(
            f"every field needs what this replaystore does not know, as {min(unseen.values())!r}: upgrade it"
        )
    paths = {
        key: [path for path in schema.get(key, ()) if not any(n.startswith(path + "/") for n in unseen)]
        for key in ("tuples", "graphs")
    }
    return {**schema, **paths, "fields": fields}
