"""Jobs that run side by side: on a terminal a line for each and a total, elsewhere a line where one begins or ends."""

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from netpress.execute.eta import Eta
from netpress.execute.local import End, Outcome, fault
from netpress.execute.processes import log_of
from netpress.process.progress import clock

#: Bytes at the end of a log in which its last line is looked for.
TAIL = 2000
#: How ends look, where colours are wanted.
STYLES = {End.DONE: "green", End.FAILED: "bold red", End.NOT_RUN: "yellow", End.UP_TO_DATE: "dim"}


def to_do(jobs: int, slots: int) -> str:
    """Say how many jobs there are, and how many at once."""
    return f"{jobs} job{'s' if jobs > 1 else ''} to do, at most {slots} at once"


class Board:
    """Counts the jobs of the project at `root`, `total` in all and `slots` at once, and says what they are at."""

    def __init__(self, root: Path, eta: Eta, total: int, slots: int, console: Console) -> None:
        self._root, self._eta, self._total, self._slots, self._console = root, eta, total, slots, console
        self._done = 0
        self._live = console.is_terminal and not console.is_dumb_terminal
        self._start = time.monotonic()
        self._running: dict[str, list[float]] = {}  # since when each of a job's processes runs
        self.say(Text(to_do(total, slots)))

    def started(self, stage: str, processes: int) -> None:
        """A process of a job begins, which has so many then."""
        self._running.setdefault(stage, []).append(time.monotonic())
        if not self._live:
            self.say(Text(f"{stage}: begins" if processes == 1 else f"{stage}: {processes} seeds at once"))

    def ended(self, outcome: Outcome) -> None:
        """A job has ended or will not run; why one failed is told at once."""
        self._done += 1
        self._running.pop(outcome.stage, None)
        if outcome.end is End.DONE:
            self._eta.observe(outcome.stage, outcome.worked)
        else:
            self._eta.drop(outcome.stage)
        after = {End.DONE: f" in {clock(outcome.seconds)}", End.FAILED: f" after {clock(outcome.seconds)}"}
        text = Text(f"{outcome.stage}: ").append(outcome.end.value, STYLES[outcome.end])
        text.append(after.get(outcome.end, ""))
        if outcome.end is End.FAILED:
            lines = log_of(self._root, outcome.stage).read_text(encoding="utf-8", errors="replace").splitlines()
            text.append("".join(f"\n    {line}" for line in fault(lines)))
        elif not self._live:
            text.append(f"  ({self.total()})")
        self.say(text)

    def say(self, text: Text) -> None:
        """Print lines that stay."""
        self._console.print(text, soft_wrap=True)

    def total(self) -> str:
        """Say how far the run is."""
        now = time.monotonic()
        text = f"{self._done} of {self._total} jobs, {clock(now - self._start)}"
        if self._done == self._total:
            return text
        worked = {stage: sum(now - one for one in began) for stage, began in dict(self._running).items()}
        left = self._eta.seconds(worked, self._slots)
        return f"{text}, about {clock(left)} left"

    def __rich__(self) -> Table:
        table = Table.grid(padding=(0, 2), expand=True)
        table.add_column(no_wrap=True, overflow="ellipsis", max_width=max(16, self._console.width // 3))
        table.add_column(justify="right", no_wrap=True)
        table.add_column(no_wrap=True, overflow="ellipsis", ratio=1)
        for stage, began in dict(self._running).items():
            said = last_line(log_of(self._root, stage)).removeprefix(stage.replace("@", "/")).strip()
            name = f"{stage} x{len(began)}" if len(began) > 1 else stage
            table.add_row(Text(name), Text(clock(time.monotonic() - began[0])), Text(said, "dim"))
        outer = Table.grid(expand=True)
        if table.row_count:
            outer.add_row(table)
        outer.add_row(Text(self.total(), "bold", no_wrap=True, overflow="ellipsis"))
        return outer


def last_line(path: Path) -> str:
    """Return the last line with text in it of a file that somebody else writes; "" if there is none."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - TAIL), os.SEEK_SET)
            lines = file.read().decode("utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    return next((line.strip() for line in reversed(lines) if line.strip()), "")


@contextmanager
def board(root: Path, eta: Eta, total: int, slots: int) -> Iterator[Board]:
    """Show what happens to `total` jobs for as long as the context lasts."""
    console = Console(file=sys.stderr, highlight=False, emoji=False, markup=False)
    shown = Board(root, eta, total, slots, console)
    with Live(shown, console=console, refresh_per_second=4, transient=True, redirect_stdout=False):
        yield shown
    if console.is_terminal:
        shown.say(Text(shown.total()))
