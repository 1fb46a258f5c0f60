"""Campaigns: each tries one promise of the store as often as it is asked to, and says how often that failed.

A campaign is a module here with

    PROMISE: str
        what is promised, in a few words
    def run(folder: str, *, count: int, seed: int) -> Tally
        try it so many times, in an empty folder of its own
    def control(folder: str, *, seed: int) -> Tally
        the same with the promise broken on purpose (a sync left out, a lock not taken, a checksum not
        compared): it must fail, or the campaign is blind

The same seed tries the same. `CAMPAIGNS` lists the modules by name; the tests run a share of each,
`./scripts/campaign` any number.
"""

from __future__ import annotations

from dataclasses import dataclass, field

__all__ = ["CAMPAIGNS", "Tally"]

CAMPAIGNS: dict[str, str] = {
    "kills": "replaystore.testing.campaigns.kills",
    "random_kills": "replaystore.testing.campaigns.random_kills",
    "errno": "replaystore.testing.campaigns.errno",
    "power_model": "replaystore.testing.campaigns.power_model",
    "power_real": "replaystore.testing.campaigns.power_real",
    "concurrency": "replaystore.testing.campaigns.concurrency",
    "interrupts": "replaystore.testing.campaigns.interrupts",
    "corruptions": "replaystore.testing.campaigns.corruptions",
    "fuzz": "replaystore.testing.campaigns.fuzz",
    "forgeries": "replaystore.testing.campaigns.forgeries",
    "servers": "replaystore.testing.campaigns.servers",
    "matrix": "replaystore.testing.campaigns.matrix",
    "digests": "replaystore.testing.campaigns.digests",
    "foreign": "replaystore.testing.campaigns.foreign",
}
"""By name, the module of a campaign."""


@dataclass
class Tally:
    """How often something was tried, and what went wrong."""

    tried: int = 0
    failures: list[str] = field(default_factory=list)
    """One line for each try that failed: what was done, and what was seen."""
    counts: dict[str, int] = field(default_factory=dict)
    """Of the tries, how many were of each kind, if there are several (of a container, a mode, an errno)."""
    skipped: str = ""
    """Why nothing could be tried on this machine; empty if it could."""

    def count(self, kind: str, times: int = 1) -> None:
        """Note so many tries of a kind."""
        self.tried += times
        self.counts[kind] = self.counts.get(kind, 0) + times

    def add(self, other: Tally) -> None:
        """Count what another run tried, too."""
        self.tried += other.tried
        self.failures += other.failures
        self.skipped = self.skipped or other.skipped
        for kind, times in other.counts.items():
            self.counts[kind] = self.counts.get(kind, 0) + times
