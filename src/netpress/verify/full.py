"""The whole verification: a clean clone, the stages in it, their verdicts, and what differs around them."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from netpress.base.errors import ArtifactError
from netpress.execute.eta import Eta, known_images, training_work
from netpress.process.progress import clock
from netpress.verify import dvc_lock as locks
from netpress.verify.clone import Clone, clean_clone
from netpress.verify.outcome import StageOutcome, Verdict, first_diverged, worst
from netpress.verify.plan import chosen, drawn, named
from netpress.verify.rerun import rerun
from netpress.verify.surroundings import Surroundings, compare, result_of, where_made


@dataclass(frozen=True)
class Result:
    """What a verification found.

    Attributes:
        commit: that was verified; "" for a project without Git.
        targets: stages that were asked for; all others are their ancestors.
        margin: largest difference of two accuracies that counts as none, a fraction.
        outcomes: of every stage that was to run, in the order of the graph.
        surroundings: how the environment of the first stage that diverged differs, or of all if none did.
        left_out: changed files of the working tree that were not looked at.
    """

    commit: str
    targets: tuple[str, ...]
    margin: float
    outcomes: tuple[StageOutcome, ...]
    surroundings: Surroundings
    left_out: tuple[str, ...]

    @property
    def verdict(self) -> Verdict:
        """The worst of all stages."""
        return worst([outcome.verdict for outcome in self.outcomes])

    @property
    def first(self) -> StageOutcome | None:
        """The first stage that diverged."""
        return first_diverged(self.outcomes)


def verify(root: Path, names: Sequence[str], sample: int | None, margin: float, keep: bool) -> Result:
    """Run stages of the committed dvc.lock again, in a clean clone of the project in `root`.

    Args:
        root: the project.
        names: stages to run, with all they follow from; none for all.
        sample: run this many stages instead, drawn by the commit.
        margin: largest difference of two accuracies that counts as none, a fraction.
        keep: whether the clone stays.

    Raises:
        UsageError: a name is no stage of dvc.lock.
        NetpressError: nothing is committed that could be verified.
    """
    with clean_clone(root, keep) as clone:
        committed = locks.read_lock(clone.folder / locks.NAME)
        if not committed:
            raise ArtifactError(f"{locks.NAME} holds no stage; run 'dvc repro' and commit it")
        order = locks.in_order(committed)
        targets = named(committed, names) if names else drawn(committed, sample, clone.seed) if sample else set(order)
        stages = chosen(committed, targets, order)
        _announce(clone, stages, targets)
        results = [result for stage in stages if (result := result_of(stage))]
        before = where_made(clone.folder, results)
        with _Progress(Eta(training_work(clone.folder, stages, known_images(clone.folder))), len(stages)) as progress:
            outcomes = rerun(clone.folder, committed, stages, margin, progress.report)
        after = where_made(clone.folder, results)
    first = first_diverged(outcomes)
    of_interest = [result_of(first.stage)] if first and result_of(first.stage) else results
    around = compare({r: before[r] for r in of_interest if r in before}, after)
    left_out, ordered = clone.left_out, tuple(stage for stage in order if stage in targets)
    return Result(clone.commit, ordered, margin, tuple(outcomes), around, left_out)


def _announce(clone: Clone, stages: Sequence[str], targets: set[str]) -> None:
    if clone.left_out:
        _say(f"not committed, so not looked at: {', '.join(clone.left_out[:6])}" + " ..." * (len(clone.left_out) > 6))
    what = f"commit {clone.commit[:12]}" if clone.commit else "a copy of the project (no Git here)"
    drawn_ones = [stage for stage in stages if stage in targets]
    shown = "all stages" if len(drawn_ones) > 8 else ", ".join(drawn_ones)
    _say(f"{what}: {len(stages)} stages to run, for {shown}")


class _Progress:
    """One line a stage with its verdict, seconds and the time left; a bar below them on a terminal."""

    def __init__(self, eta: Eta, stages: int) -> None:
        self._eta, self._stages, self._done = eta, stages, 0
        self._bar = tqdm(total=stages, unit="stage", disable=not sys.stderr.isatty(), leave=False)
        _say(f"about {clock(eta.seconds())} minutes")

    def __enter__(self) -> "_Progress":
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def report(self, outcome: StageOutcome) -> None:
        """Take an outcome as soon as it is known."""
        self._done += 1
        if outcome.seconds is None:
            self._eta.drop(outcome.stage)
        else:
            self._eta.observe(outcome.stage, outcome.seconds)
        seconds = "not run" if outcome.seconds is None else f"{outcome.seconds:.0f} s"
        left = clock(self._eta.seconds())
        with self._bar.external_write_mode(file=sys.stderr):
            _say(f"{self._done:>3}/{self._stages}  {outcome.stage}  {outcome.verdict.words}  {seconds}  ETA {left}")
        self._bar.set_postfix_str(f"ETA {left}", refresh=False)
        self._bar.update()


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
