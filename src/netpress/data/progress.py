"""Progress of reading images: a bar with ETA on a terminal, else a line every ten seconds."""

import sys
import time

from tqdm import tqdm

from netpress.base.progress import clock

#: Seconds between two lines.
QUIET = 10.0


class ImageProgress:
    """Counts images that were read; `total` is how many there are."""

    def __init__(self, label: str, total: int) -> None:
        self._label, self._total, self._done = label, total, 0
        self._terminal = sys.stderr.isatty()
        self._bar = tqdm(total=total, desc=label, unit="img", disable=not self._terminal)
        self._start = self._last = time.monotonic()

    def add(self, count: int) -> None:
        """Count `count` images more."""
        self._bar.update(count)
        self._done += count
        now = time.monotonic()
        if self._terminal or now - self._last < QUIET:
            return
        self._last = now
        left = (now - self._start) / max(1, self._done) * max(0, self._total - self._done)
        text = f"{self._label}  {self._done:,}/{self._total:,} images  ETA {clock(left)}"
        print(text, file=sys.stderr, flush=True)

    def close(self) -> None:
        """Leave the terminal's line."""
        self._bar.close()
