"""Run the pipeline, stages that do not wait for one another side by side.

    python -m netpress run                            everything, as many jobs at once as there are cores
    python -m netpress run -j 1 quantize@student_int8    one model and what it follows from
    python -m netpress run --on ray --address auto    on the nodes of a Ray cluster, which share this folder

Does what `dvc repro` does, sooner: each job has the threads that runtime.threads gives it, and as many run at once as
the cores allow; cores without a job make further seeds of those that run. What is up to date is left alone, what was
stopped goes on, and dvc.lock is the one that `dvc repro` writes. A job that fails stops those that need it and no
others. .netpress/logs holds what each job printed.
Exit codes: 0 everything is up to date, 1 jobs failed, 130 stopped by Ctrl-C.
"""

import argparse
import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from netpress.base.errors import NetpressError
from netpress.base.project import find_root
from netpress.base.words import some
from netpress.cli._arguments import whole_number
from netpress.cli._unpulled import to_pull
from netpress.process.lock import held
from netpress.process.warm import WARM, Warm

if TYPE_CHECKING:
    from netpress.params.recipes import Runtime

#: Jobs named in a message.
NAMED = 8
#: The address of a Ray that is started for the run, on this machine alone.
OWN_RAY = "local"
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
    root = find_root()
    with held(root / ".netpress/locks/run", "run"):
        _run(root, args.stages, args.jobs, (args.address or OWN_RAY) if args.on else None)


def _run(root: Path, names: Sequence[str], at_once: int | None, address: str | None) -> None:
    from netpress.execute.board import board
    from netpress.execute.eta import Eta, training_work
    from netpress.execute.local import End, execute
    from netpress.execute.lock_file import LockFile, forget
    from netpress.graph.jobs import chosen, jobs_of, stale
    from netpress.params.reader import load
    from netpress.process.commands import changed_stages
    from netpress.report.collect import collect
    from netpress.report.found import found

    params = load(root / "params.yaml")  # what its sections say of one another is for the stage `check`
    graph = jobs_of(params)
    jobs = chosen(graph, names) if names else graph
    changed = changed_stages(root)
    jobs = stale(jobs, changed)
    if not jobs:
        forget(root)
        print("everything is up to date")
        return
    if line := to_pull(root, {stage: changed[stage] for stage in jobs if stage in changed}):
        print(f"note: {line}")
    eta = Eta(training_work(root, jobs), {stage: job.seeds for stage, job in jobs.items()})
    ended: dict[End, list[str]] = {end: [] for end in End}
    with (
        _served(root, params.runtime, address) as free,
        board(root, eta, len(jobs), at_once or free) as view,
        closing(execute(jobs, changed, root, LockFile(root, graph), at_once or free, eta.of, view.started)) as outcomes,
    ):
        for outcome in outcomes:
            ended[outcome.end].append(outcome.stage)
            view.ended(outcome)
    if failed := ended[End.FAILED]:
        rest = f"; not run, since they need it: {some(ended[End.NOT_RUN], NAMED)}" if ended[End.NOT_RUN] else ""
        raise NetpressError(f"failed: {some(failed, NAMED)}{rest}; what they printed is in .netpress/logs")
    if AGGREGATE in jobs:
        study = collect(root, params.items(), params.final, params.claims)
        print(f"\n{found(study)}")


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
