"""Progress of long work: a bar with ETA on a terminal, else lines: one an epoch, or one every ten seconds."""

import sys
import time
from types import TracebackType
from typing import Any, Self

from tqdm import tqdm

#: Seconds between two lines.
QUIET = 10.0


def clock(seconds: float) -> str:
    """61 -> '1:01'."""
    return f"{int(seconds // 60)}:{int(seconds % 60):02d}"


class EpochProgress:
    """Shows the epochs of one training run with images a second, ETA and validation accuracy."""

    def __init__(self, label: str, epochs: int, steps: int, images: int, before: int = 0) -> None:
        """`before` epochs of `epochs` were done by an earlier process, from which this one goes on."""
        self._label, self._epochs, self._images, self._before = label, epochs, images, before
        self._terminal = sys.stderr.isatty()
        if before:
            print(f"{label}: goes on after epoch {before} of {epochs}", file=sys.stderr, flush=True)
        self._bar = tqdm(
            total=epochs * steps,
            initial=before * steps,
            desc=label,
            unit="batch",
            disable=not self._terminal,
            leave=True,
        )
        self._start = time.monotonic()
        self._done = before

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._bar.close()

    def step(self) -> None:
        """One batch is done."""
        self._bar.update()

    def epoch_done(self, row: dict[str, Any]) -> None:
        """Show the row of history of the epoch that has ended."""
        self._done += 1
        seconds = (time.monotonic() - self._start) / (self._done - self._before)
        rate = self._images / seconds
        if self._terminal:
            self._bar.set_postfix_str(f"val {row['val_acc']:.2%}, {rate:,.0f} img/s")
            return
        left = seconds * (self._epochs - self._done)
        print(
            f"{self._label}  epoch {self._done}/{self._epochs}  loss {row['train_loss']:.3f}  "
            f"val {row['val_acc']:.2%}  {rate:,.0f} img/s  ETA {clock(left)}",
            file=sys.stderr,
            flush=True,
        )


class ImageProgress:
    """Counts images that were read, or other things; `total` is how many there are."""

    def __init__(self, label: str, total: int, unit: str = "images") -> None:
        self._label, self._total, self._done, self._unit = label, total, 0, unit
        self._terminal = sys.stderr.isatty()
        self._bar = tqdm(total=total, desc=label, unit=f" {unit}", disable=not self._terminal)
        self._start = self._last = time.monotonic()

    def add(self, count: int) -> None:
        """Count so many more."""
        self._bar.update(count)
        self._done += count
        now = time.monotonic()
        if self._terminal or now - self._last < QUIET:
            return
        self._last = now
        left = (now - self._start) / max(1, self._done) * max(0, self._total - self._done)
        text = f"{self._label}  {self._done:,}/{self._total:,} {self._unit}  ETA {clock(left)}"
        print(text, file=sys.stderr, flush=True)

    def reached(self, done: int, total: int) -> None:
        """Say that `done` of `total` are done, where the total is known only now."""
        self._total = self._bar.total = total
        self.add(done - self._done)

    def close(self) -> None:
        """Leave the terminal's line."""
        self._bar.close()
