"""One stage by several processes of this machine, one a device, which torchrun starts: each runs the stage's script.

The first works in the project, and it alone writes there. Each other one works in a folder of its own that looks like
the project, and that is gone afterwards: links to what a stage reads, its own models, metrics and `.netpress`, and a
copy of what a killed run left to go on from. So the code of a stage need not know how many do it.

The processes end with the one that started them, however it ends; when one of them ends before the others, all end.
"""

import logging
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

from netpress.base.model_id import ModelId
from netpress.process.stop import LEASH, end_at_once

#: Environment variable of the processes: the folder for what the others than the first write.
PLACE = "NETPRESS_RANKS"
#: What is kept between runs, and found by every process as it was when they began.
KEPT = ("runs/{model_id}", "soft_targets")
#: Seconds in which the first process ends for what ends the others too.
PATIENCE = 3.0
#: Lines of a process that are shown when it has ended without an error of its own.
LAST = 12


def number() -> int | None:
    """Return which of the processes this one is, from 0; None where torchrun did not start it for a stage."""
    return int(os.environ["RANK"]) if PLACE in os.environ else None


def run(root: Path, devices: int, place: Path) -> int:
    """Run this process's stage again in the project at `root` by so many processes; return the exit code.

    `place` is the folder for what the others than the first write; it is emptied first, and gone in the end.
    """
    shutil.rmtree(place, ignore_errors=True)
    script = root / "stages" / f"{Path(sys.argv[0]).stem}.py"  # the name may be relative to a folder left meanwhile
    try:
        with subprocess.Popen(
            [sys.executable, "-m", "netpress.process.torchrun", str(devices), str(script), *sys.argv[1:]],
            env=os.environ | {PLACE: str(place), LEASH: "1"},
            stdin=subprocess.PIPE,  # which breaks when this process ends, however: then all of them end
        ) as launcher:
            code = launcher.wait()
    finally:
        shutil.rmtree(place, ignore_errors=True)
    if code < 0:
        print(f"error: torchrun was ended by {signal.Signals(-code).name}; run again to go on", file=sys.stderr)
        return 1
    return code


def looking_like(root: Path, model_id: ModelId) -> Path:
    """Make the folder in which this process, which is not the first, makes `model_id`; return it."""
    folder = Path(os.environ[PLACE]) / f"{number()}"
    own = {".netpress", ".git", "metrics", "models"}
    (folder / "models" / model_id.section).mkdir(parents=True)
    (folder / "metrics").mkdir()
    links = [path for path in root.iterdir() if path.name not in own]
    links += [path for path in (root / "models").glob("*") if path.name != model_id.section]
    links += [path for path in (root / "models" / model_id.section).glob("[!.]*") if path.name != model_id.variant]
    for path in links:
        (folder / path.relative_to(root)).symlink_to(path)
    for kept in KEPT:
        part = Path(".netpress") / kept.format(model_id=model_id)
        if (root / part).is_dir():
            shutil.copytree(root / part, folder / part)
    return folder


def main(devices: str, *command: str) -> int:
    """Have torchrun start `command`, a stage's script and its arguments, so often; returns the exit code."""
    end_at_once(silent=True)
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, Std
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    logging.getLogger("torch.distributed").setLevel(logging.CRITICAL)
    place, count = Path(os.environ[PLACE]), int(devices)
    settings = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=count,
        rdzv_backend="c10d",
        rdzv_endpoint="127.0.0.1:0",
        run_id="stage",
        local_addr="127.0.0.1",
        max_restarts=0,  # a restart would go on from the last checkpoint as well, but unasked
        shutdown_timeout=5,
        logs_specs=DefaultLogsSpecs(str(place / "logs"), redirects=dict.fromkeys(range(1, count), Std.ALL)),
    )
    try:
        elastic_launch(settings, sys.executable)(*command)
    except ChildFailedError as error:
        which, failure = error.get_first_failure()
        print(_fault(place, which, count, failure.exitcode), end="", file=sys.stderr)
        return 1
    return 0


def _fault(place: Path, which: int, count: int, code: int) -> str:
    """Say why process `which` (from 0) ended with `code`; nothing if it has done so itself, as the first one can."""
    if code < 0:
        name = signal.Signals(-code).name
        return (
            f"error: process {which + 1} of {count} was ended by {name}, and so the others; run again to go on from "
            "the last checkpoint. SIGKILL may mean that memory is lacking (doctor says how much there is)\n"
        )
    if not which:
        return ""
    said = [line for log in place.glob(f"logs/**/{which}/stderr.log") for line in log.read_text().splitlines()]
    first = next((k for k, line in enumerate(said) if line.startswith("error:")), None)
    told = said[-LAST:] if first is None else [said[first].removeprefix("error: "), *said[first + 1 :]]
    return "\n".join(
        [f"error: process {which + 1} of {count}: {told[0] if told else f'exit code {code}'}", *told[1:], ""]
    )


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
