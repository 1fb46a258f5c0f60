"""What can be plugged in: storage (where bytes lie), containers (how arrays lie in them), and formats (other
people's files: formats/__init__.py says how to write one). Everybody who needs one asks here, and nobody else
knows their names.

1. An `Entry` says what it takes to recognise a thing, and where its code is; the code is imported on use.
2. Our own entries stand in a table (own.py). Those of other packages are entry points of the groups
   `replaystore.storage`, `replaystore.containers` and `replaystore.formats`, each naming an `Entry` in a
   module that is quick to import. They are read when one is first needed: no earlier than something is asked
   for that the table does not know.
3. Ours come first: a plug-in cannot take a name, nor a suffix or scheme, away from them. One that is broken
   is an error for who asks for it by name, is named in the message about a file that nobody knows, and is in
   nobody's way otherwise.
4. `using` puts another object in the place of a registered one, in all threads: the door for tests that make
   disks fail.
"""

from __future__ import annotations

import difflib
import functools
import io
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import Any

from replaystore.errors import ArgumentError, MissingDependencyError, PluginError
from replaystore.registry.entry import Entry, Kind
from replaystore.registry.own import OWN, PLAIN

__all__ = [
    "FIRST_BYTES",
    "PLAIN",
    "Entry",
    "Kind",
    "broken",
    "by_beginning",
    "by_content",
    "by_scheme",
    "by_suffix",
    "entry",
    "find",
    "load",
    "registered",
    "unknown",
    "using",
]

_SHOWN = {"storage": "storage", "containers": "container", "formats": "format"}
FIRST_BYTES = 4096
"""So much of a file is read to recognise it."""
_own = OWN
_instead: dict[tuple[Kind, str], Any] = {}


# --- what there is


def registered(kind: Kind) -> dict[str, Entry]:
    """All of a kind, by name: ours first, then those of other packages."""
    return {known.name: known for known in _all(kind)}


def broken(kind: Kind) -> dict[str, str]:
    """The plug-ins of a kind that cannot be used, by name, and why."""
    return dict(_plugins(kind, tuple(sys.path))[1])


def entry(kind: Kind, name: str) -> Entry:
    """The one of this name. ArgumentError: there is none, and the message lists those there are; PluginError:
    it is broken."""
    for known in _all(kind):
        if known.name == name:
            return known
    if (problem := broken(kind).get(name)) is not None:
        raise PluginError(problem)
    raise unknown(kind, name)


def unknown(kind: Kind, name: str, known: Sequence[str] | None = None) -> ArgumentError:
    """The error of a name that nothing has; the message lists those there are, or of them those that can be
    meant."""
    known = list(registered(kind)) if known is None else known
    near = difflib.get_close_matches(name.lower(), known, n=1)
    meant = f" (did you mean {near[0]!r}?)" if near else ""
    return ArgumentError(
        f"there is no {_SHOWN[kind]} {name!r:.80}{meant}; there are {', '.join(known) or 'none'}"
        f"{_and_broken(kind)}"
    )


def load(kind: Kind, name: str) -> Any:
    """The thing itself, imported on first use. MissingDependencyError: it needs a package that is not
    installed; PluginError: it cannot be imported; the errors of `entry`."""
    if (kind, name) in _instead:
        return _instead[kind, name]
    return _imported(kind, entry(kind, name))


@contextmanager
def using(kind: Kind, name: str, instead: Any) -> Iterator[None]:
    """What is asked for this name meanwhile gets `instead`, in all threads. For tests."""
    key, missing = (kind, name), object()
    before = _instead.get(key, missing)
    _instead[key] = instead
    try:
        yield
    finally:
        if before is missing:
            del _instead[key]
        else:
            _instead[key] = before


# --- what something is


def find(kind: Kind, path: str, *, named: str | None = None) -> list[Entry]:
    """What lies at a path may be these, the likeliest first: the one that the user named and no other;
    otherwise those that its content fits, then those that its suffix fits."""
    if named is not None:
        return [entry(kind, named)]
    found = [*by_content(kind, path), *by_suffix(kind, path)]
    return list(dict.fromkeys(found))


def by_scheme(text: str) -> Entry | None:
    """The storage whose scheme a text begins with ("memory:a")."""
    scheme, colon, _ = text.partition(":")
    if not colon:
        return None
    return next(
        (
            known
            for known in _all("storage")
            if scheme in known.schemes or (known.urls and scheme.lower() in known.schemes)
        ),
        None,
    )


def by_suffix(kind: Kind, path: str, *more: Kind) -> Iterator[Entry]:
    """Those of a kind, then of `more` kinds, that a name fits: ours first, the longest suffix first."""
    name = path.rstrip("/" + os.sep).lower()
    for some in _by_origin(kind, *more):
        fitting = [
            (len(suffix), known)
            for known in some
            for suffix in known.suffixes
            if name.endswith(suffix.lower())
        ]
        yield from dict.fromkeys(known for _, known in sorted(fitting, key=lambda found: -found[0]))


def by_content(kind: Kind, path: str) -> Iterator[Entry]:
    """Those that the first bytes of a file, or what a folder holds, fit; ours first. Nothing is there: none.
    OSError: it cannot be read."""
    if os.path.isdir(path):
        for some in _by_origin(kind):
            yield from (
                known
                for known in some
                if any(os.path.lexists(os.path.join(path, name)) for name in known.members)
            )
        return
    if not os.path.isfile(path):  # a pipe or device, which reading would disturb
        return
    with open(path, "rb") as file:
        begin, size = file.read(FIRST_BYTES), os.fstat(file.fileno()).st_size
        for some in _by_origin(kind):
            for known in some:
                if known.magic and (
                    begin.startswith(known.magic) or (known.magic_later and _later(file, size, known.magic))
                ):
                    yield known


def by_beginning(kind: Kind, begin: bytes) -> Iterator[Entry]:
    """Those that the first `FIRST_BYTES` of a file fit, or fewer; ours first."""
    file = io.BytesIO(begin)
    for known in _all(kind):
        if known.magic and (
            begin.startswith(known.magic) or (known.magic_later and _later(file, len(begin), known.magic))
        ):
            yield known


def _later(file: Any, size: int, magic: tuple[bytes, ...]) -> bool:
    """Whether a file of this size has one of them at 512, 1024, 2048, …"""
    place, longest = 512, max(map(len, magic))
    while place < size:
        file.seek(place)
        if file.read(longest).startswith(magic):
            return True
        place *= 2
    return False


# --- the table and the plug-ins


def _by_origin(*kinds: Kind) -> Iterator[tuple[Entry, ...]]:
    """Ours, and then the plug-ins, which are not read before somebody gets so far: it takes milliseconds."""
    for kind in kinds:
        yield _own[kind]
    for kind in kinds:
        yield _plugins(kind, tuple(sys.path))[0]


def _all(kind: Kind) -> Iterator[Entry]:
    for some in _by_origin(kind):
        yield from some


@functools.lru_cache(maxsize=16)
def _plugins(kind: Kind, _path: tuple[str, ...]) -> tuple[tuple[Entry, ...], dict[str, str]]:
    """The entries that other packages on `sys.path` bring, and why others cannot be used."""
    from importlib.metadata import entry_points

    names = {known.name for known in _own[kind]}
    found: list[Entry] = []
    problems: dict[str, str] = {}
    for point in sorted(entry_points(group=f"replaystore.{kind}"), key=lambda point: point.name):
        package = point.dist.name if point.dist is not None else point.module
        try:
            known = point.load()
        except Exception as error:  # noqa: BLE001  # another package's code: whatever it is, it is told
            problems.setdefault(point.name, _problem(kind, point.name, package, _reason(error)))
            continue
        if not isinstance(known, Entry) or known.name != point.name:
            reason = f"{point.value} is no replaystore.registry.Entry of the name {point.name!r}"
            problems.setdefault(point.name, _problem(kind, point.name, package, reason))
        elif known.name in names:
            problems.setdefault(
                f"{known.name} of {package}", _problem(kind, point.name, package, "its name is taken")
            )
        else:
            names.add(known.name)
            found.append(Entry(**{**vars(known), "package": package}))
    return tuple(found), problems


def _imported(kind: Kind, known: Entry) -> Any:
    module, _, name = known.target.partition(":")
    try:
        loaded = import_module(module)
        return getattr(loaded, name) if name else loaded
    except ImportError as error:
        if known.extra:
            remedy = f"pip install '{known.package}[{known.extra}]'"
            raise MissingDependencyError(
                f"the {_SHOWN[kind]} {known.name!r} needs {error.name or 'a package'}, which is not installed"
                f" ({error}): {remedy}"
            ) from error
        if known.package == "replaystore":
            raise
        raise PluginError(_problem(kind, known.name, known.package, _reason(error))) from error
    except Exception as error:
        if known.package == "replaystore":
            raise
        raise PluginError(_problem(kind, known.name, known.package, _reason(error))) from error


def _problem(kind: Kind, name: str, package: str, reason: str) -> str:
    return (
        f"the {_SHOWN[kind]} {name!r} of the package {package} cannot be used: {reason}; "
        f"upgrade {package}, or uninstall it"
    )


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def _and_broken(kind: Kind) -> str:
    """For the end of a message that lists what there is."""
    return "".join(f"; {problem}" for problem in broken(kind).values())
