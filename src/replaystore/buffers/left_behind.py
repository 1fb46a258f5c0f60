"""What a killed process left beside a store: names that its maker uses, and a store that was being replaced
gets its name back.

Under the name is at every moment the old store or the new one. A file replaces a file at once; two folders
change places at once, and the old one is removed under the new one's first name. Where the system cannot do
that, the old one gets the name `<name>.replaystore-old` first; whoever finds it there, beside the new one,
and nothing under the name, gives it its name back. The rest is removed by the next one that makes a store of
this name (replacing.py), and by nobody else.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

from replaystore.containers.located import exists, lock_place
from replaystore.errors import ConflictError, NotFoundError, ReplayStoreError, StorageError
from replaystore.location import Location
from replaystore.refusals import refusal
from replaystore.storage.places import places_of

__all__ = ["DAMAGED", "OLD", "PACKED", "PARTIAL", "REPAIR", "interrupted", "put_back", "refused", "settle"]

PARTIAL, OLD = ".replaystore-partial", ".replaystore-old"
REPAIR, DAMAGED = ".replaystore-repair", ".damaged"
PACKED = ".folder"
"""Added to the name of a zip file that is made: the folder that is packed into it."""
PATIENCE = 5.0
"""Seconds that are waited for a process that is just between two renames."""


@contextlib.contextmanager
def refused(what: str, advice: str = "") -> Iterator[None]:
    """An error of the system is one of ours that begins with `what`, and ends with the advice."""
    try:
        yield
    except ReplayStoreError:
        raise
    except OSError as error:
        raise StorageError(f"{what}: {refusal(error, what)}{advice and '; '}{advice}", error.errno) from error


def settle(place: Location) -> None:
    """Give a store its name back that was being replaced when a process was killed."""
    left = interrupted(place)
    end = time.monotonic() + PATIENCE
    while left is not None and not exists(place) and time.monotonic() < end:
        try:
            lock = lock_place(place)
        except ConflictError:  # somebody is just replacing it
            time.sleep(0.01)
            continue
        except StorageError as error:
            raise NotFoundError(
                f"{place} does not exist, because a process was killed while it replaced it: what was there "
                f"is {left}, and cannot get "
                f"its name back ({error}); rename it"
            ) from None
        try:
            with refused(f"{left} cannot get its name back"):
                put_back(place)
        finally:
            lock.release()


def interrupted(place: Location) -> str | None:
    """The name of the store that was there, if it was being replaced."""
    places = places_of(place)
    if places.only_read:
        return None
    for new, old in ((PARTIAL, OLD), (REPAIR, DAMAGED)):
        if places.exists(place.path + new) and places.exists(place.path + old):
            return place.path + old
    return None


def put_back(place: Location) -> None:
    left = interrupted(place)
    if left is not None and not exists(place):
        places_of(place).move(left, place.path)
