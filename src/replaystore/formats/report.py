"""What became of a buffer on its way into a file, or out of one: for each thing in it a `Fate`.

Things are the fields of the schema, by name (`fields`: those of the source, and those that the target has
beside them), and what a buffer holds beside them (`rest`): "final_observation", "terminated" and "truncated"
(where they are no fields), "seed", "split", "env", "open", "order", "steps", "environment", "metadata",
"ring", and the columns of trajectories by their names. What is not named was kept.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

from replaystore.errors import UnsupportedError

__all__ = [
    "KEPT",
    "Fate",
    "Proof",
    "Report",
    "after",
    "as_provenance",
    "changed",
    "composed",
    "derived",
    "lost",
    "made_up",
    "merged",
    "refuse_losses",
    "rest_after",
    "sentences",
    "unseen",
]


@dataclass(frozen=True)
class Fate:
    """What became of one thing."""

    kind: Literal["kept", "derived", "changed", "made up", "lost"]
    """kept: every bit of it; derived: not there itself, but follows exactly from what is; changed: there, and
    not the same; made up: the target has what the source has not; lost: not there."""
    how: str = ""
    """How it was changed or derived, what was made up, why it was lost; "" where that goes without saying."""
    max_error: float | None = None
    """Of numbers that were changed, the largest difference, where it was measured."""

    @property
    def exact(self) -> bool:
        """Whether nothing was lost, nor made up."""
        return self.kind in ("kept", "derived")


KEPT = Fate("kept")


def derived(how: str) -> Fate:
    """It is not there itself, but follows exactly from what is."""
    return Fate("derived", how)


def changed(how: str, max_error: float | None = None) -> Fate:
    """It is there, and not the same."""
    return Fate("changed", how, max_error)


def made_up(what: str) -> Fate:
    """The target has it, and the source has not."""
    return Fate("made up", what)


def lost(why: str = "") -> Fate:
    """It is not there."""
    return Fate("lost", why)


def unseen(hidden: Mapping[str, str]) -> dict[str, Fate]:
    """What becomes of fields that this version cannot show, each with a word that it does not know."""
    return {
        name: lost(f"it needs {word!r:.80}, which this replaystore does not know")
        for name, word in hidden.items()
    }


@dataclass(frozen=True)
class Proof:
    """What was compared after a conversion, by the digests of both sides (`replaystore.digest`); things are
    named as in a report. What is not the same is an error."""

    fields: list[str] = field(default_factory=list)
    """Those that are the same, bit for bit."""
    rest: list[str] = field(default_factory=list)
    """What else is the same."""
    within: Mapping[str, float] = field(default_factory=dict)
    """Fields that were changed, by at most this."""
    not_proved: Mapping[str, str] = field(default_factory=dict)
    """What could not be compared, and why."""
    content: str = ""
    """The digest of the target's content, where that was compared as a whole."""
    seconds: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """All of it."""
        return {part.name: getattr(self, part.name) for part in fields(self)}


@dataclass(frozen=True)
class Report:
    """What became of a buffer. A format that writes one gives the first five; `convert` fills in the rest."""

    steps: int | None
    """How many the target has; None: of a dry run, that is only known when the file is read."""
    trajectories: int | None
    fields: Mapping[str, Fate] = field(default_factory=dict)
    rest: Mapping[str, Fate] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)
    """What else whoever reads it should know."""
    source: str = ""
    target: str = ""
    bytes_read: int = 0
    """Of rows, as they are stored in the source."""
    bytes_written: int = 0
    """The size of the target."""
    seconds: float = 0.0
    copied: list[str] = field(default_factory=list)
    """Fields whose bytes were copied as they were."""
    recoded: list[str] = field(default_factory=list)
    """Fields that were decoded, or encoded, or both."""
    dry_run: bool = False
    """Whether nothing was made: it is what a conversion would do."""
    proof: Proof | None = None
    """That it is so; None: that was not wanted."""

    @property
    def exact(self) -> bool:
        """Whether nothing was changed, lost or made up."""
        return all(fate.exact for fate in (*self.fields.values(), *self.rest.values()))

    @property
    def notes(self) -> list[str]:
        """What is not as it was in the source, as sentences."""
        return sentences(self.fields, self.rest) + self.remarks

    def to_json(self) -> dict[str, Any]:
        """All of it, and the notes."""
        plain = {part.name: getattr(self, part.name) for part in fields(self)}
        for part in ("fields", "rest"):
            plain[part] = {name: _to_json(fate) for name, fate in plain[part].items()}
        plain["proof"] = None if self.proof is None else self.proof.to_json()
        return {**plain, "notes": self.notes}


def as_provenance(
    fields: Mapping[str, Fate], rest: Mapping[str, Fate], remarks: Sequence[str]
) -> dict[str, Any]:
    """What a store says for ever of how it was made: {"report": what is not as it was in the source}, or
    nothing, if all of it is."""
    told: dict[str, Any] = {
        part: {name: _to_json(fate) for name, fate in things.items() if fate.kind != "kept"}
        for part, things in (("fields", fields), ("rest", rest))
    }
    told["remarks"] = list(remarks)
    for fate in (*told["fields"].values(), *told["rest"].values()):
        if "max_error" in fate and not math.isfinite(fate["max_error"]):  # JSON has no such number
            fate["max_error"] = str(fate["max_error"])
    found = {part: known for part, known in told.items() if known}
    return {"report": found} if found else {}


def _to_json(fate: Fate) -> dict[str, Any]:
    told = {"kind": fate.kind, "how": fate.how or None, "max_error": fate.max_error}
    return {key: value for key, value in told.items() if value is not None}


def sentences(fields: Mapping[str, Fate], rest: Mapping[str, Fate]) -> list[str]:
    """What is not as it was, one sentence for all things that the same has become of."""
    found: dict[tuple[bool, Fate], list[str]] = {}
    for beside, things in ((False, fields), (True, rest)):
        for name, fate in things.items():
            if fate.kind != "kept":
                found.setdefault((beside, fate), []).append(name)
    return [_sentence(", ".join(names), fate, beside=beside) for (beside, fate), names in found.items()]


def _sentence(names: str, fate: Fate, *, beside: bool) -> str:
    why = f" ({fate.how})" if fate.how else ""
    if fate.kind == "lost":
        return f"left out{why}: {names}" if beside else f"fields left out{why}: {names}"
    if fate.kind == "made up":
        return f"{names}: made up, {fate.how}"
    error = "" if fate.max_error is None else f", by at most {fate.max_error:.3g}"
    if fate.max_error == 0:
        error = ", which changed no value"
    return f"{names}: {fate.how}{error}"


def refuse_losses(fields: Mapping[str, Fate], rest: Mapping[str, Fate], where: str, *, strict: bool) -> None:
    """UnsupportedError that lists what would be changed, lost or made up, if that is not wanted."""
    inexact = [{name: fate for name, fate in things.items() if not fate.exact} for things in (fields, rest)]
    if strict and any(inexact):
        raise UnsupportedError(
            f"{where} would not be exact ({'; '.join(sentences(*inexact))}): leave out strict to write it "
            "nevertheless"
        )


# --- of several conversions


def merged(*several: Mapping[str, Fate]) -> dict[str, Fate]:
    """What became of things of several buffers, side by side: the worst of it."""
    order = ("kept", "derived", "changed", "made up", "lost")
    found: dict[str, Fate] = {}
    for things in several:
        for name, fate in things.items():
            if name not in found or order.index(fate.kind) > order.index(found[name].kind):
                found[name] = fate
    return found


def after(first: Mapping[str, Fate], second: Mapping[str, Fate]) -> dict[str, Fate]:
    """What became of fields that went through two conversions, one behind the other."""
    return {name: _then(first.get(name, KEPT), second.get(name, KEPT)) for name in {**first, **second}}


def rest_after(first: Mapping[str, Fate], second: Mapping[str, Fate]) -> dict[str, Fate]:
    """As `after`, of what is beside the fields."""
    moved = first.get("steps", KEPT).kind in ("changed", "made up")
    if moved and first.get("trajectories", KEPT).exact:  # whatever becomes of those of no trajectory
        first = {**first, "trajectories": changed("other steps are in them")}
    return after(first, second)


def composed(first: Report, second: Report) -> Report:
    """What became of a buffer in two conversions, one behind the other."""
    fields, rest = after(first.fields, second.fields), rest_after(first.rest, second.rest)
    proof = second.proof
    if first.proof is not None and proof is not None:
        proof = _proved(first, proof, fields, rest)
    return replace(
        second,
        fields=fields,
        rest=rest,
        remarks=first.remarks + second.remarks,
        source=first.source,
        seconds=round(first.seconds + second.seconds, 3),
        proof=proof,
    )


def _proved(first: Report, proof: Proof, fields: Mapping[str, Fate], rest: Mapping[str, Fate]) -> Proof:
    """What the proof of a second conversion says of the source of the first: what that had not kept is not
    the same, though it was kept then."""
    assert first.proof is not None
    within, not_proved = dict[str, float](), {**first.proof.not_proved, **proof.not_proved}
    for name in (*proof.fields, *proof.within):
        before = first.fields.get(name, KEPT)
        if before.max_error is not None and before.kind == "changed":
            within[name] = before.max_error + proof.within.get(name, 0.0)
        elif before.exact and name in proof.within:
            within[name] = proof.within[name]
        elif not before.exact:
            not_proved[name] = f"{before.kind}: {before.how}" if before.how else before.kind
    for name in proof.rest:
        if not (before := first.rest.get(name, KEPT)).exact:
            not_proved[name] = f"{before.kind}: {before.how}" if before.how else before.kind
    return replace(
        proof,
        fields=[name for name in proof.fields if fields.get(name, KEPT).exact],
        rest=[name for name in proof.rest if rest.get(name, KEPT).exact],
        within=within,
        not_proved=not_proved,
        content=proof.content if first.exact else "",
        seconds=round(first.proof.seconds + proof.seconds, 3),
    )


def _then(first: Fate, second: Fate) -> Fate:
    if second.exact:
        return first if not first.exact or first.kind == "derived" else second
    if first.exact or second.kind in ("lost", "made up"):
        return second
    if first.kind == second.kind == "changed":
        how = "; ".join(dict.fromkeys(filter(None, (first.how, second.how))))
        if first.max_error is None or second.max_error is None:
            return changed(how)
        return changed(how, first.max_error + second.max_error)
    return made_up(second.how)
