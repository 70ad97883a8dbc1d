"""An epoch of resnet18 by one process of one thread, by one of two, and by two of one thread that share each batch.

Medians over the epochs but the first, which warms up. Beside the seconds stand those of the processor, over all
threads of all processes, which other work on the machine hardly moves (with OMP_WAIT_POLICY=PASSIVE, so that no thread
spins). Pictures are noise, on which speed does not depend.

    python benchmarks/ranks.py [--size PIXELS] [--images N] [--epochs N]
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch
from torch import distributed

from netpress.core.engine import CrossEntropy, Schedule, fit
from netpress.core.networks import build_model
from netpress.core.ranks import here
from netpress.core.splits import DeviceSplit
from netpress.params import reader
from netpress.process.environment import cpu_name

#: Processes, and threads of each.
WAYS = ((1, 1), (1, 2), (2, 1))
BATCH = 128


class Timed(CrossEntropy):
    """Cross-entropy that notes when each epoch begins: seconds, and those of the processor."""

    def __init__(self) -> None:
        super().__init__()
        self.begun: list[tuple[float, float]] = []

    def start_epoch(self, epoch: int, epochs: int) -> None:
        """Note the time."""
        self.begun.append((time.perf_counter(), time.process_time()))


def main() -> None:
    """Print the seconds of an epoch each way, and how many times faster that is than one process of one thread."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=64, help="side of the images (default: 64)")
    parser.add_argument("--images", type=int, default=512, help="of one epoch (default: 512)")
    parser.add_argument("--epochs", type=int, default=4, help="one more than are measured (default: 4)")
    parser.add_argument("--threads", type=int, help=argparse.SUPPRESS)  # of one of the processes
    args = parser.parse_args()
    given = [f"--{key}={value}" for key, value in vars(args).items() if key != "threads"]
    if args.threads:
        train(args.size, args.images, args.epochs, args.threads)
        return
    print(f"{args.images} images of {args.size}x{args.size}, batch {BATCH}, resnet18, {cpu_name()}")
    first = 0.0
    for processes, threads in WAYS:
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
        command = [*torchrun, __file__, *given, f"--threads={threads}"]
        env = os.environ | {"OMP_NUM_THREADS": str(threads), "GLOO_SOCKET_IFNAME": "lo"}
        done = subprocess.run(command, env=env, stdout=subprocess.PIPE, text=True, check=True)
        seconds, processor = json.loads(done.stdout)
        first = first or seconds
        way = f"{processes} process{'es' if processes > 1 else ''} of {threads} thread{'s' if threads > 1 else ''}"
        print(
            f"{way:25} {seconds:6.2f} s  {processor:6.2f} s of the processor  {first / seconds:5.2f} times", flush=True
        )


def train(size: int, images: int, epochs: int, threads: int) -> None:
    """Train in one of the processes; the first prints the medians in JSON."""
    torch.set_num_threads(threads)
    distributed.init_process_group("gloo")
    profile = reader.load(Path(__file__).parent.parent / "profiles/default.yaml")
    recipe = profile.recipes["plain"].model_copy(update={"batch_size": BATCH})
    generator = torch.Generator().manual_seed(0)
    noise = torch.randint(0, 256, (images, size, size, 3), generator=generator, dtype=torch.uint8)
    split = DeviceSplit(noise, torch.arange(images) % 10, 10, (0.5,) * 3, (0.25,) * 3, profile.runtime.channels_last)
    few = DeviceSplit(noise[:16], split.labels[:16], 10, split.mean, split.std, split.channels_last)
    torch.manual_seed(0)
    timed = Timed()
    fit(build_model("resnet18", 10, 3), split, few, Schedule(recipe, epochs + 1, 0), profile.runtime, "bench", timed)
    spans = [(b - a, d - c) for (a, c), (b, d) in zip(timed.begun[1:], timed.begun[2:], strict=False)]
    seconds, processor = (statistics.median(column) for column in zip(*spans, strict=True))
    total = sum(here().gathered(processor))
    if here().number == 0:
        print(json.dumps([seconds, total]))
    distributed.destroy_process_group()


if __name__ == "__main__":
    main()
