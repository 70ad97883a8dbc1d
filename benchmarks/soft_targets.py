"""An epoch of a student whose teacher sees plain images: asked at every step, or once for all its students.

`in the loop` asks the teacher at every step; `first student` computes the soft targets and keeps them before it trains,
`later student` takes them from the store. One after the other in each round, medians over the rounds; the first round
warms up. Beside the seconds stand those of the processor, over all threads, which other work on the machine hardly
moves (with OMP_WAIT_POLICY=PASSIVE, so that no thread spins). Speed does not depend on the pictures, which are noise,
nor on what the teacher has learned.

    python benchmarks/soft_targets.py [--images N] [--rounds N] [--quick]
"""

import argparse
import contextlib
import io
import statistics
import tempfile
import time
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from netpress.core.artifacts import tensors_as_bytes, tensors_from_bytes
from netpress.core.context import Method
from netpress.core.engine import Schedule, fit
from netpress.core.networks import build_model
from netpress.core.resume import kept
from netpress.core.splits import DeviceSplit
from netpress.distill.losses import kd
from netpress.distill.teaching.soft_targets import logits_of
from netpress.distill.teaching.taught import Taught
from netpress.params import reader
from netpress.params.recipes import Recipe, Runtime
from netpress.process.environment import cpu_name

PROFILE = Path(__file__).parent.parent / "profiles/default.yaml"
METHOD = Method("kd", kd, kd.Options(temperature=4.0, weight=0.7, standardize=False))
TEACHERS: list[dict[str, float | str]] = [{"width": 0.25, "stem": "pooled"}, {"width": 1.0, "stem": "pooled"}]
WAYS = ("in the loop", "first student", "later student")


def main() -> None:
    """Print, for each teacher, the seconds of an epoch each way, and how many times faster that is than in the loop."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=2560, help="of one epoch (default: 2560)")
    parser.add_argument("--rounds", type=int, default=5, help="times each way is run (default: 5)")
    parser.add_argument("--quick", action="store_true", help="512 images and 3 rounds")
    args = parser.parse_args()
    images, rounds = (512, 3) if args.quick else (args.images, args.rounds)
    profile = reader.load(PROFILE)
    runtime, recipe = profile.runtime, profile.recipes["plain"]
    torch.set_num_threads(runtime.threads)
    train, val = made_up(images, runtime), made_up(16, runtime)  # validation too short to count
    print(f"{images} images of 28x28, batch {recipe.batch_size}, {runtime.threads} threads, {cpu_name()}")
    for options in TEACHERS:
        teacher = build_model("resnet18", 10, 1, **options)
        times: dict[str, list[tuple[float, float]]] = {way: [] for way in WAYS}
        for number in range(rounds + 1):
            with tempfile.TemporaryDirectory() as folder:
                for way in WAYS:
                    spent = epoch(way, teacher, Path(folder) / "targets.safetensors", (train, val), recipe, runtime)
                    if number:
                        times[way].append(spent)
        print(f"\nmobile_student of width 0.5, taught by resnet18 {options}")
        print("                      seconds           of the processor")
        medians = {way: [statistics.median(column) for column in zip(*times[way], strict=True)] for way in WAYS}
        base, base_cpu = medians[WAYS[0]]
        for way, (wall, cpu) in medians.items():
            print(f"  {way:14}{wall:10.2f} s{base / wall:8.2f}x{cpu:10.2f} s{base_cpu / cpu:8.2f}x", flush=True)


def made_up(count: int, runtime: Runtime) -> DeviceSplit:
    """Noise in the shape of Fashion-MNIST."""
    images = torch.randint(0, 256, (count, 28, 28, 1), dtype=torch.uint8)
    return DeviceSplit(images, torch.arange(count) % 10, 10, (0.3,), (0.35,), runtime.channels_last)


def epoch(
    way: str, teacher: nn.Module, store: Path, splits: tuple[DeviceSplit, DeviceSplit], recipe: Recipe, runtime: Runtime
) -> tuple[float, float]:
    """Train a new student for an epoch; returns the seconds, and those of the processor, with what the targets took."""
    (train, val), student = splits, build_model("mobile_student", 10, 1, width=0.5)
    start, start_cpu = time.perf_counter(), time.process_time()
    with contextlib.redirect_stderr(io.StringIO()):
        asked: nn.Module | Tensor = teacher if way == WAYS[0] else looked_up(teacher, store, train, runtime)
        taught = Taught(student, [asked], METHOD, "plain", runtime, train)
        fit(student, train, val, Schedule(recipe, 1, 0), runtime, "benchmark", taught)
    return time.perf_counter() - start, time.process_time() - start_cpu


def looked_up(teacher: nn.Module, store: Path, train: DeviceSplit, runtime: Runtime) -> Tensor:
    """Return the teacher's logits from the store, where they are put if they are not there."""
    make = partial(computed, teacher, train, runtime)
    return tensors_from_bytes(kept(store, "benchmark", "soft targets", make), store)["logits"]


def computed(teacher: nn.Module, train: DeviceSplit, runtime: Runtime) -> bytes:
    """Ask the teacher about every image."""
    return tensors_as_bytes({"logits": logits_of(teacher, train, runtime)})


if __name__ == "__main__":
    main()
