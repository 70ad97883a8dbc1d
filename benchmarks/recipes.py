"""Recipes side by side: the accuracy that networks reach, in which time and with how many operations.

Trains networks of `train` and `lowrank` of params.yaml from scratch on the prepared data, by their own recipe
(`baseline`) and by variations of it, each for shares of its epochs and over seeds. A variation is a list of keys of the
recipe, such as `resize_from=0.5,augment.flip=alternating`. One run is one process of one thread; -j of them run side by
side. Every run that ends adds a line of JSON to the file of results, and is not done again while what it follows from
stays as it is: recipe, network, data, code. So the command can be ended at any time, and given again.

    python benchmarks/recipes.py NETWORK ... [--vary VARIATION ...] [--seeds 0 1 2] [--shares 1 0.7 0.5] [-j 2]
                                 in the project's folder, after `dvc repro prepare`
    python benchmarks/recipes.py train/student_alone --list     what would run, and its operations
    python benchmarks/recipes.py train/student_alone --table    the table of what is done

Operations are those of convolutions and linear layers in training, 6 a multiply-add (forward and twice that backward),
without validation; seconds an epoch are with it, and with what else the machine did.
"""

import argparse
import contextlib
import functools
import io
import json
import multiprocessing
import statistics
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, replace
from pathlib import Path

import netpress  # noqa: F401 (before torch, here and in the processes: it says how threads wait)

# isort: split
import torch
from recipe_runs import BASELINE, Job, Line, Plan, jobs_of, operations, read_lines

from netpress.base.errors import NetpressError, TrainingError
from netpress.base.project import PREPARED, find_root
from netpress.core.dataset import Manifest, load_manifest
from netpress.core.engine import Schedule, fit
from netpress.core.runtime import set_up
from netpress.core.seeds import fresh_network
from netpress.core.splits import DeviceSplit, device_split
from netpress.params import reader
from netpress.params.items import Design
from netpress.params.recipes import Recipe, Runtime

VARIATIONS = [
    "resize_from=0.5",
    "resize_from=0.6",
    "augment.flip=alternating",
    "bias_lr=8",
    "bias_lr=64",
    "label_smoothing=0.1",
    "average=0.99",
    "resize_from=0.6,augment.flip=alternating,bias_lr=8",
]


@functools.cache
def splits(root: Path, images: int, runtime: Runtime) -> tuple[Manifest, DeviceSplit, DeviceSplit]:
    """Return the manifest and the training and validation splits, at most `images` of each, once a process."""
    device, manifest = set_up(runtime), load_manifest(root / PREPARED)
    found = []
    for name in ("train", "val"):
        split = device_split(root, name, manifest, device, runtime)
        if images:
            chosen = torch.randperm(len(split), generator=torch.Generator().manual_seed(0))[:images].to(device)
            split = replace(split, images=split.images[chosen], labels=split.labels[chosen])
        found.append(split)
    return manifest, found[0], found[1]


def train(root: Path, job: Job) -> Line:
    """Train one network, in a process of its own; return its line, without an accuracy if the training diverged."""
    runtime, recipe = Runtime(**job.runtime), Recipe(**job.recipe)
    manifest, train_split, val = splits(root, job.images, runtime)
    item = Design(arch=job.arch, options=job.options, recipe=BASELINE, epochs=job.epochs)
    network = fresh_network(item, manifest, job.seed).to(train_split.images.device)
    start = time.perf_counter()
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            history = fit(network, train_split, val, Schedule(recipe, job.epochs, job.seed), runtime, job.network)
        found = {"val_acc": history[-1]["val_acc"], "val_acc_by_epoch": [row["val_acc"] for row in history]}
    except TrainingError as error:  # which says something of the recipe
        found = {"val_acc": None, "diverged": str(error)}
    return (
        asdict(job)
        | found
        | {
            "seconds": time.perf_counter() - start,
            "operations": operations(root, job),
            "processor": torch.backends.cpu.get_cpu_capability(),
        }
    )


def run(root: Path, waiting: list[Job], path: Path, processes: int) -> None:
    """Run what is not done, and add a line as each ends."""
    work = [operations(root, job) or 0 for job in waiting]
    whole, done, start = sum(work), 0, time.monotonic()
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, context) as pool, path.open("a", encoding="utf-8") as stream:
        futures = [pool.submit(train, root, job) for job in waiting]
        try:
            for number, future in enumerate(as_completed(futures), 1):
                line = future.result()
                stream.write(json.dumps(line) + "\n")
                stream.flush()
                done += line["operations"]
                left = (time.monotonic() - start) / done * (whole - done) / 60
                reached = "diverged" if line["val_acc"] is None else f"val {line['val_acc']:.2%}"
                print(
                    f"{number}/{len(waiting)}  {line['network']}  {line['variation']}  {line['epochs']} epochs  "
                    f"seed {line['seed']}  {reached}  {line['seconds']:.0f} s  "
                    f"about {left:.0f} min left",
                    flush=True,
                )
        except BaseException:  # one failed, or Ctrl-C: those that wait are not begun
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def table(jobs: list[Job], lines: list[Line]) -> str:
    """Return a Markdown table: accuracy as mean and deviation over seeds, time and operations.

    Gains are mean differences to the baseline of the same seed, of as many epochs and of all epochs.
    """
    found = {(j.network, j.variation, j.share, j.seed): line for j in jobs if (line := j.done_in(lines))}
    accuracy = {key: 100 * line["val_acc"] for key, line in found.items() if line["val_acc"] is not None}
    text = "| network | recipe | epochs | seeds | accuracy, % | gain | over all epochs | s an epoch | TFLOP |\n"
    text += "|---|---|---|---|---|---|---|---|---|\n"
    for network, variation, share in dict.fromkeys(key[:3] for key in sorted(found, key=order)):
        mine = [line for key, line in found.items() if key[:3] == (network, variation, share)]
        reached = {key[3]: value for key, value in accuracy.items() if key[:3] == (network, variation, share)}
        words = mean_of(list(reached.values())) if reached else ""
        if lost := len(mine) - len(reached):
            words = f"{words} ({lost} diverged)".strip()
        gains = [
            [reached[seed] - base for seed in reached if (base := accuracy.get((network, BASELINE, other, seed)))]
            for other in (share, max(job.share for job in jobs))
        ]
        same, whole = (f"{statistics.fmean(gap):+.2f}" if gap else "" for gap in gains)
        pace = statistics.median(line["seconds"] / line["epochs"] for line in mine)
        text += (
            f"| {network} | {variation} | {mine[0]['epochs']} | {len(mine)} | {words} | {same} | {whole} "
            f"| {pace:.1f} | {mine[0]['operations'] / 1e12:.3g} |\n"
        )
    return text


def mean_of(values: list[float]) -> str:
    """Write the mean and, of several values, the standard deviation."""
    spread = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.2f}{spread}"


def order(key: tuple[str, str, float, int]) -> tuple[str, bool, str, float]:
    """Sort by network, the baseline first, the most epochs first."""
    network, variation, share, _ = key
    return network, variation != BASELINE, variation, -share


def main() -> None:
    """Run what is asked for and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="+", metavar="NETWORK", help="ids, such as train/student_alone")
    parser.add_argument("--vary", nargs="*", default=VARIATIONS, metavar="VARIATION", help=f"default: {VARIATIONS}")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--shares", type=float, nargs="+", default=[1.0, 0.7, 0.5], help="of the epochs")
    parser.add_argument("--epochs", type=int, default=0, help="instead of those of params.yaml")
    parser.add_argument("--images", type=int, default=0, help="of each split, for trying; 0: all")
    parser.add_argument("--results", type=Path, default=Path("recipes.jsonl"), help="default: recipes.jsonl")
    parser.add_argument("-j", "--jobs", type=int, default=1, help="processes side by side, of one thread each")
    parser.add_argument("--list", action="store_true", help="show the runs that are left and end")
    parser.add_argument("--table", action="store_true", help="show what is done and end")
    args = parser.parse_args()
    try:
        root = find_root()
        plan = Plan(args.networks, args.vary, args.shares, args.seeds, args.epochs, args.images)
        jobs = jobs_of(root, reader.load(root / "params.yaml"), plan)
        lines = read_lines(args.results)
        waiting = [job for job in jobs if not job.done_in(lines)]
        for job in (refused := [job for job in waiting if operations(root, job) is None]):
            print(f"left out: {job.network} does not take the images of {job.variation}, {job.epochs} epochs")
        waiting = [job for job in waiting if job not in refused]
        if args.list:
            for job in waiting:
                work = (operations(root, job) or 0) / 1e12
                print(f"{job.network}  {job.variation}  {job.epochs} epochs  seed {job.seed}  {work:.3g} TFLOP")
            return
        if not args.table:
            run(root, waiting, args.results, args.jobs)
    except NetpressError as error:
        raise SystemExit(f"error: {error}") from None
    print(table(jobs, read_lines(args.results)), end="")


if __name__ == "__main__":
    main()
