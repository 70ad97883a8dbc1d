"""Run the pipeline, stages that do not wait for one another side by side.

    python -m netpress run                            everything, as many jobs at once as there are cores
    python -m netpress run -j 1 quantize@student_int8    one model and what it follows from
    python -m netpress run --on ray --address auto    on the nodes of a Ray cluster, which share this folder
    python -m netpress run --dry-run                  what would run, and how long it would take

Does what `dvc repro` does, sooner: each job has the threads that runtime.threads gives it, and as many run at once as
the cores allow; cores without a job make further seeds of those that run. What is up to date is left alone, what was
stopped goes on, and dvc.lock is the one that `dvc repro` writes. A job that fails stops those that need it and no
others. .netpress/logs holds what each job printed.
Exit codes: 0 everything is up to date, 1 jobs failed, 130 stopped by Ctrl-C.
"""

import argparse
import os
import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from netpress.base.errors import NetpressError
from netpress.base.project import find_root
from netpress.base.words import some
from netpress.cli._arguments import whole_number
from netpress.cli._unpulled import to_pull
from netpress.process.lock import held
from netpress.process.warm import WARM, Warm

if TYPE_CHECKING:
    from netpress.execute.eta import Eta
    from netpress.graph.jobs import Job
    from netpress.params.recipes import Runtime
    from netpress.params.whole import Params
    from netpress.report.collect import Study

#: Jobs named in a message.
NAMED = 8
#: The address of a Ray that is started for the run, on this machine alone.
OWN_RAY = "local"
#: What is said where no job is to run.
NOTHING = "everything is up to date"
#: The stage that makes the tables.
AGGREGATE = "aggregate"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "-j",
        "--jobs",
        type=whole_number,
        metavar="N",
        help="at most so many jobs at once (default: cores / runtime.threads, with a GPU 1)",
    )
    parser.add_argument("--on", choices=["ray"], help="where stages work: ray, on a Ray cluster; default: this machine")
    parser.add_argument(
        "--address",
        metavar="ADDRESS",
        help="with --on ray: HOST:PORT of the cluster's head, or auto for the one that this machine belongs to "
        "(default: a Ray of its own on this machine)",
    )
    parser.add_argument("--dry-run", action="store_true", help="say what would run and about how long, and run nothing")
    parser.set_defaults(usage=parser.error)
    parser.add_argument(
        "stages",
        nargs="*",
        metavar="STAGE",
        help="a stage (train@net), a section (train) or a model id (train/net), with what it needs; default: all",
    )


def run(args: argparse.Namespace) -> None:
    """Run the stages of the project around the current folder that are not up to date.

    Raises:
        NetpressError: jobs failed.
    """
    if args.address and not args.on:
        args.usage("--address needs --on ray")
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    root, address = find_root(), (args.address or OWN_RAY) if args.on else None
    if args.dry_run:
        _tell(root, args.stages, args.jobs, address)
        return
    with held(root / ".netpress/locks/run", "run"):
        _run(root, args.stages, args.jobs, address)


def _run(root: Path, names: Sequence[str], at_once: int | None, address: str | None) -> None:
    from netpress.execute.board import board
    from netpress.execute.eta import keep_speed, known_images
    from netpress.execute.local import End, execute
    from netpress.execute.lock_file import LockFile, forget
    from netpress.report.found import found
    from netpress.report.page.build import PAGE

    params, graph, jobs, changed = _stale(root, names)
    if not jobs:
        forget(root)
        if not names and not (root / PAGE).is_file():
            _write_page(root, _study(root, params))
        print(NOTHING)
        return
    eta = _eta(root, jobs, known_images(root, params.data))
    ended: dict[End, list[str]] = {end: [] for end in End}
    with (
        _served(root, params.runtime, address) as free,
        board(root, eta, len(jobs), at_once or free) as view,
        closing(execute(jobs, changed, root, LockFile(root, graph), at_once or free, eta.of, view.started)) as outcomes,
    ):
        for outcome in outcomes:
            ended[outcome.end].append(outcome.stage)
            view.ended(outcome)
    keep_speed(root, eta)
    if failed := ended[End.FAILED]:
        rest = f"; not run, since they need it: {some(ended[End.NOT_RUN], NAMED)}" if ended[End.NOT_RUN] else ""
        raise NetpressError(f"failed: {some(failed, NAMED)}{rest}; what they printed is in .netpress/logs")
    if AGGREGATE in jobs:
        study = _study(root, params)
        if AGGREGATE in ended[End.UP_TO_DATE]:
            _write_page(root, study)
        print(f"\n{found(study)}")


def _study(root: Path, params: "Params") -> "Study":
    """Return what `aggregate` makes its tables of."""
    from netpress.report.collect import collect

    return collect(root, params.items(), params.final, params.claims, params.experiments)


def _write_page(root: Path, study: "Study") -> None:
    """Write the page, which is no output of `aggregate`, where that has had nothing to do."""
    from netpress.report.page.build import write_page
    from netpress.report.write import make_report

    write_page(root, study, make_report(root, study))


def _tell(root: Path, names: Sequence[str], at_once: int | None, address: str | None) -> None:
    """Print the jobs that would run, in the order of the graph, and about how long they and the whole would take."""
    from netpress.execute.board import to_do
    from netpress.execute.eta import known_images
    from netpress.execute.slots import slots
    from netpress.graph.jobs import direct_needs
    from netpress.process.progress import clock

    params, _, jobs, _ = _stale(root, names)
    if not jobs:
        print(NOTHING)
        return
    with _served(root, params.runtime, address) if address else nullcontext(slots(params.runtime)) as free:
        count = at_once or free
    images = known_images(root, params.data)
    eta, width = _eta(root, jobs, images), max(map(len, jobs))
    guess = "" if images else " (a guess: nothing has been trained on these data yet)"
    print(f"{to_do(len(jobs), count)}, about {clock(eta.seconds(slots=count))}{guess}:")
    for stage in jobs:
        needs = some(sorted(direct_needs(jobs, stage)))
        print(f"  {stage:{width}}  {clock(eta.of(stage)):>7}  {needs and f'after {needs}'}".rstrip())


def _stale(root: Path, names: Sequence[str]) -> "tuple[Params, dict[str, Job], dict[str, Job], dict[str, Any]]":
    """Return what params.yaml says, all its jobs, those of `names` (all if none) that are to run, and what changed."""
    from netpress.graph.jobs import chosen, jobs_of, stale
    from netpress.params.reader import load
    from netpress.process.commands import changed_stages

    params = load(root / "params.yaml")  # what its sections say of one another is for the stage `check`
    graph, changed = jobs_of(params), changed_stages(root)
    jobs = stale(chosen(graph, names) if names else graph, changed)
    if line := to_pull(root, {stage: changed[stage] for stage in jobs if stage in changed}):
        print(f"note: {line}")
    return params, graph, jobs, changed


def _eta(root: Path, jobs: "Mapping[str, Job]", images: int) -> "Eta":
    from netpress.execute.eta import Eta, known_speed, training_work

    seeds = {stage: job.seeds for stage, job in jobs.items()}
    return Eta(training_work(root, jobs, images), seeds, known_speed(root))


@contextmanager
def _served(root: Path, runtime: "Runtime", address: str | None) -> Iterator[int]:
    """Have the process there that does the stages' work, or the Ray at `address`; yields how many it takes at once."""
    from netpress.execute.slots import slots

    if address:
        from netpress.execute.ray import OnRay

        with OnRay(root, address, runtime) as ray:
            yield ray.slots
    elif runtime.device == "cpu" and WARM not in os.environ:  # where a process serves already, that will do
        with Warm():
            yield slots(runtime)
    else:  # a GPU does not survive a fork
        yield slots(runtime)


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt
