"""What is measured beside training: commands, data, inference and checkpoints, each beside something ordinary."""

import dataclasses
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from netpress.base.errors import NetpressError
from netpress.process.commands import changed_stages, environ
from speed.cases import SMALL_RESNET, SMALL_STUDENT, Case, Network
from speed.series import Series, markdown
from speed.training import Effort, teams
from speed.workers import Work, Worker, interleaved

#: Pixels of the prepared photos.
PIXELS = 64
#: What it is called, network, images and epochs of the runs whose checkpoints are timed.
CHECKPOINTED = (
    ("resnet18 at width 0.25", SMALL_RESNET, 8000, 8),
    ("mobile_student, short epochs", SMALL_STUDENT, 500, 100),
    ("large_cnn, 14 M parameters", Network("large_cnn", {"width": 0.5}), 128, 100),
)


@dataclass(frozen=True)
class Row:
    """One thing beside another: seconds of both, or, where `rate` is a word, how many of these a second."""

    ours: str
    other: str
    found: Series
    beside: Series
    rate: str = ""

    def cells(self) -> list[str]:
        """Return what a line of the table says; the ratio says how many times as much ours is."""
        form, unit = (",.0f", f" {self.rate}/s") if self.rate else (".3f", " s")
        cells = [series.cell(form, unit) for series in (self.found, self.beside)]
        return [self.ours, cells[0], self.other, cells[1], self.found.over(self.beside).cell(".2f")]


def seconds_of(root: Path, command: Sequence[str]) -> float:
    """Time this interpreter on `command`, in the project at `root`.

    Raises:
        NetpressError: it fails; quotes its last line.
    """
    start = time.perf_counter()
    done = subprocess.run([sys.executable, *command], cwd=root, env=environ(root), capture_output=True, text=True)
    spent = time.perf_counter() - start
    if done.returncode:
        lines = (done.stderr or done.stdout).strip().splitlines() or ["it says nothing"]
        raise NetpressError(f"'python {' '.join(command)}' ended with {done.returncode}: {lines[-1]}")
    return spent


#: What is called, and what it is compared with.
STARTS = (
    (["-m", "netpress", "--version"], ["-c", "pass"]),
    (["-m", "netpress", "doctor", "--quiet"], ["-c", "import torch"]),
)
NOTHING = (["-m", "dvc", "repro"], ["-c", "import dvc.cli, dvc.repo, dvc.commands.repro"])


def starts(root: Path, effort: Effort) -> tuple[list[Row], list[str]]:
    """Time the start of commands, and `dvc repro` where nothing is to be done; return rows, and what was left out."""
    rows, left_out = [], []
    pairs = list(STARTS)
    stale = changed_stages(root)
    if stale:
        left_out.append(f"`dvc repro` with nothing to do: {len(stale)} stages of {root.name} are not up to date")
    else:
        pairs.append(NOTHING)
    for pair in pairs:
        names = [f"`python {' '.join(command)}`" for command in pair]
        measures = {name: partial(seconds_of, root, command) for name, command in zip(names, pair, strict=True)}
        try:
            for measure in measures.values():
                measure()  # files come from the disk
            found = interleaved(measures, effort.rounds)
        except NetpressError as error:
            left_out.append(f"{names[0]}: {error}")
            continue
        rows.append(Row(names[0], names[1], found[names[0]], found[names[1]]))
    return rows, left_out


def preparation(archive: Path, effort: Effort, size: int = PIXELS) -> Row:
    """Time `prepare` on an archive of Food-11's layout and a loop with PIL that only decodes, a whole pass a round."""
    place = {"path": str(archive.resolve()), "size": size}
    works = {kind: [Work(kind, 1)] for kind in ("prepare", "pictures")}
    with teams(works) as crews:
        for crew in crews.values():
            crew.take(place)
        found = interleaved({name: crew.round for name, crew in crews.items()}, effort.rounds)
    return Row("`prepare`", "a PIL loop that only decodes", found["prepare"], found["pictures"], "images")


def inference(case: Case, effort: Effort) -> Row:
    """Time int8 beside fp32, one image at a time on one thread of onnxruntime."""
    with teams({kind: [Work(kind, 1)] for kind in ("int8", "fp32")}) as crews:
        for crew in crews.values():
            crew.take(dataclasses.asdict(case))
            crew.pace(effort.seconds / 4, 100_000)
        found = interleaved({name: crew.round for name, crew in crews.items()}, 4 * effort.rounds)
    return Row(f"{case.title}, int8", "fp32", found["int8"], found["fp32"], "images")


def beside_training(root: Path, archive: Path | None, effort: Effort) -> str:
    """Return the table of commands, data and inference, and what was left out of it."""
    print("commands, data, int8", file=sys.stderr, flush=True)
    rows, left_out = starts(root, effort)
    if archive is None:
        left_out.append("`prepare` beside a PIL loop: for want of --pictures")
    elif not archive.is_file():
        left_out.append(f"`prepare` beside a PIL loop: {archive} is not there")
    else:
        rows.append(preparation(archive, effort))
    rows += [inference(Case(network, 28, 1), effort) for network in (SMALL_RESNET, SMALL_STUDENT)]
    table = markdown(["what", "measured", "beside", "measured", "ratio"], [row.cells() for row in rows])
    return f"## Beside training\n\n{table}" + "".join(f"\nLeft out: {text}.\n" for text in left_out)


def checkpoints(effort: Effort) -> str:
    """Return the table of what checkpoints cost: where a network is small, epochs are short, and a network is large."""
    rows = []
    with Worker(Work("checkpoint", effort.threads)) as worker:
        for title, network, images, epochs in CHECKPOINTED:
            print(f"checkpoints: {title}", file=sys.stderr, flush=True)
            worker.take({"case": dataclasses.asdict(Case(network, 28, 1)), "images": images})
            answer = worker.do(epochs)
            (spent, written), whole = answer["done"], answer["seconds"]
            cells = [f"{written}", f"{whole:.1f} s", f"{spent:.3f} s", f"{spent / whole:.2%}"]
            rows.append([title, f"{images:,}", f"{epochs}", *cells])
    head = ["run", "images", "epochs", "checkpoints", "the run", "spent on them", "share"]
    return f"## Checkpoints\n\nOne run each.\n\n{markdown(head, rows)}"
