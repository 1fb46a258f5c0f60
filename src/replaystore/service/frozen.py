"""Routes of the frozen Zarr tree: a commit as plain Zarr v3, which zarr-python, xarray, tensorstore and
zarrita read by its address, whatever the store is and whoever writes to it meanwhile.

Invariants:
1. Under the address of a commit are the bytes of that commit, for ever, or 410. How rows are cut into chunks
   is part of that: views/zarr_tree.py may not change it for stores that there are.
2. The document at the root holds the user's metadata, which change without a commit: it alone is asked for
   again, and its tag is of its bytes.
3. Names and `@latest` lead to the address of a commit from the root of a tree alone: whoever asked below them
   would get keys of several commits.
"""

from __future__ import annotations

import re
from urllib.parse import quote

from google_crc32c import value

from replaystore.service.answers import FOR_EVER, LOOK_AGAIN, Answer, matches, part_of
from replaystore.service.refused import RefusedError
from replaystore.service.routes import Asked, Gives, Route
from replaystore.views.zarr_tree import METADATA, ZarrTree

__all__ = ["ROUTES"]

SMALL = 64 << 10
"""Bytes that are read without asking for room."""
BELOW = ("rows", "trajectories")
"""What is asked once of a commit, so that a name may stand for it."""


async def read_key(asked: Asked) -> Answer:
    """A key of the tree, or a range of it."""
    pin, key, service = asked.pin, asked.path["key"], asked.service
    document = key == METADATA
    tag, kept = pin.tag, LOOK_AGAIN if document else FOR_EVER
    if not document and matches(asked.headers, tag):
        return Answer(status=304, headers={"ETag": tag, "Cache-Control": kept})

    def look(tree: ZarrTree) -> tuple[int | None, memoryview | None]:
        size = tree.size(key)
        at_once = (
            size is not None and (size <= SMALL or tree.at_hand(key)) and not (asked.head and not document)
        )
        return size, tree.value(key) if at_once else None

    known = service.readers.known(pin)
    if known is not None and known.at_hand(key):
        size, found = service.readers.at(pin, look)
    else:
        size, found = await service.in_thread(lambda: service.readers.at(pin, look))
    if size is None:
        raise RefusedError(
            404,
            f"{key!r:.200} is no key of commit {pin.commit}",
            {"Cache-Control": FOR_EVER},
            kind="NotFoundError",
        )
    if asked.head and not document:
        headers = {"ETag": tag, "Cache-Control": kept, "Accept-Ranges": "bytes"}
        return Answer(type=_type(key), headers=headers, length=size)
    if found is None:
        await asked.hold(size)
        found = await service.in_thread(lambda: service.readers.at(pin, lambda tree: tree.value(key)))
    assert found is not None, "it has a size"
    if document:
        tag = f'"{pin}-{value(bytes(found)):08x}"'
        if matches(asked.headers, tag):
            return Answer(status=304, headers={"ETag": tag, "Cache-Control": kept})
    headers = {"ETag": tag, "Cache-Control": kept, "Accept-Ranges": "bytes"}
    part = part_of(asked.headers, len(found), tag)
    if part is None:
        return Answer(found, type=_type(key), headers=headers)
    headers["Content-Range"] = f"bytes {part[0]}-{part[1] - 1}/{len(found)}"
    return Answer(found[part[0] : part[1]], 206, _type(key), headers)


def _type(key: str) -> str:
    return "application/json" if key.endswith(METADATA) else "application/octet-stream"


def lead_to_commit(asked: Asked) -> Answer:
    """From a name to the commit that has it now."""
    store, rest = asked.store, asked.path["rest"]
    if re.fullmatch("[0-9a-f]{32}[.][0-9]+", asked.path["name"]):  # an address, of what no commit has
        raise RefusedError(404, "there is no such address: GET /openapi.json", kind="NotFoundError")
    tree = rest.strip("/") == "zarr"
    if not tree and rest not in BELOW:
        raise RefusedError(
            409,
            f"@{asked.path['name']} is another commit at another time, and keys of several do not fit: "
            f"ask for @{asked.path['name']}/zarr, and go on where that leads",
            kind="ConflictError",
        )
    pin = asked.service.readers.named(store, asked.path["name"])
    where = f"/v1/stores/{quote(store)}/@{pin}/{'zarr/' if tree else rest}"
    return Answer(status=307, headers={"Location": where + asked.question})


ROUTES = (
    Route(
        "GET",
        "/v1/stores/{store}/@{id}.{commit}/zarr/{key}",
        "read",
        read_key,
        "A key of the commit as a Zarr v3 hierarchy of decoded arrays; ranges of bytes are answered.",
        gives={
            200: Gives(
                "The bytes of the key: JSON of metadata, or those of a chunk.",
                model={"type": "object"},
                also="application/octet-stream",
            ),
            206: Gives("The range that was asked for.", model={}, also="application/octet-stream"),
            304: Gives("The client has them."),
        },
    ),
    Route(
        "GET",
        "/v1/stores/{store}/@{name}/{rest}",
        "read",
        lead_to_commit,
        "Leads from the name of a commit, its number or `latest` to its address, for `zarr`, `rows` and "
        "`trajectories`.",
        gives={307: Gives("The address is in `Location`.")},
    ),
)
