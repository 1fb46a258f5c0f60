"""The most anonymous memory that a process has at any time, as the process itself looks at it."""

from __future__ import annotations

import threading
import time
from pathlib import Path

__all__ = ["Peak"]


class Peak(threading.Thread):
    """Looks at the anonymous memory of this process every two milliseconds."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.base = self.peak = self.now()
        self.start()

    @staticmethod
    def now() -> int:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("RssAnon"):
                return int(line.split()[1]) * 1024
        raise SystemExit("bench: /proc/self/status does not tell RssAnon")

    def run(self) -> None:
        while True:
            self.peak = max(self.peak, self.now())
            time.sleep(0.002)
