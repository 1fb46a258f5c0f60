"""Converts one thing, and prints as JSON what it took: memory_worker.py SOURCE TARGET --to|--from FORMAT."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from measuring.peak import Peak

import replaystore as rs
from replaystore.formats import named


def main(source: str, target: str, side: str, name: str) -> None:
    named(name)  # memory that the imports take is not the conversion's
    peak = Peak()
    begin = time.perf_counter()
    given = {"target_format": name} if side == "--to" else {"source_format": name}
    report = rs.convert(source, target, **given)
    seconds = time.perf_counter() - begin
    answer = {"peak": peak.peak - peak.base, "base": peak.base, "seconds": seconds}
    print(json.dumps({**answer, "bytes": max(report.bytes_read, report.bytes_written)}))


if __name__ == "__main__":
    main(*sys.argv[1:])
