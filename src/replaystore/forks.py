"""Locks in a forked child. It has a copy of one thread only, so that a lock that another one held would be
taken for ever."""

from __future__ import annotations

import os
import threading
import weakref

__all__ = ["renew_in_children"]

_owners: weakref.WeakKeyDictionary[object, tuple[str, ...]] = weakref.WeakKeyDictionary()


def renew_in_children(owner: object, *attributes: str) -> None:
    """Have new locks in these attributes of an object, RLocks, in each forked child in which nobody could
    release the old ones."""
    _owners[owner] = attributes


def _after_fork() -> None:
    for owner, attributes in list(_owners.items()):
        for attribute in attributes:
            lock = getattr(owner, attribute)
            if lock.acquire(blocking=False):  # free, or held by the thread that forked
                lock.release()
            else:
                setattr(owner, attribute, threading.RLock())


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
