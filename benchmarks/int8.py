"""Quantized models of a project that has run: how far their logits are off fp32, and how fast their files run.

Each int8 model is made with weights in 8 bits and in 7 (`reduce_range`), and its logits on validation images are
compared with its parent's: as onnxruntime runs the file (integer kernels), and operator by operator as it is written.
`mean` is mean |difference| / mean |logit|; `largest`, over images, the largest difference relative to the image's
largest logit. Latency is of one image on one thread; parents and quantized files alternate, and medians are compared.

    python benchmarks/int8.py [--images N] [--repeats N]     in the project's folder, after `dvc repro`
"""

import argparse
import statistics
import time
from typing import Any

import netpress  # noqa: F401 (before torch: it says how threads wait)

# isort: split
import numpy as np
import torch

from netpress.base.model_files import ONNX
from netpress.base.project import find_root
from netpress.core import artifacts
from netpress.core.context import Context, open_context
from netpress.core.export import OnnxModule
from netpress.params import reader
from netpress.params.schema import parse
from netpress.quantize.run import Trained, calibration_images

#: Runs between two looks at the clock, and before the first.
INNER = 50


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=1000, help="validation images whose logits are compared")
    parser.add_argument("--repeats", type=int, default=40, help="timings of each file")
    args = parser.parse_args()
    root = find_root()
    items = reader.load(root / "params.yaml").quantize
    benches = {name: open_context(root, "quantize", name) for name, item in items.items() if not item.epochs}
    torch.set_num_threads(1)
    print("logits against fp32      weights   as it runs          as it is written    one against   accuracy")
    print(
        "                                   mean     largest    mean     largest    the other     runs    written  fp32"
    )
    for name, item in items.items():
        if item.method == "int8_static":
            for reduce_range in (False, True):
                show_errors(benches[name], name, reduce_range, args.images)
    print("\nlatency of one image     parent     quantized  times")
    for name, bench in benches.items():
        parent, quantized = latency(files_of(bench), bench, args.repeats)
        print(f"  {name:22} {parent:7.3f} ms {quantized:8.3f} ms {quantized / parent:6.2f}")


def parent_file(bench: Context) -> bytes:
    """The ONNX file of the parent's shipped seed."""
    parent = bench.parent(bench.config.seeds[0])
    return artifacts.read_file(parent.folder, parent.spec, ONNX)


def made(bench: Context, **changes: Any) -> bytes:
    """The quantized file of the shipped seed, its options changed; of post-training methods only."""
    method, seed = bench.method(), bench.config.seeds[0]
    options = parse(method.module.Options, bench.item.method_options | changes, "method_options")
    model = Trained(
        bench.parent(seed).network,
        parent_file(bench),
        lambda count: calibration_images(bench.train, count, seed),
        lambda _: None,
        lambda _: b"",
    )
    data: bytes = method.module.quantize(model, options)
    return data


def files_of(bench: Context) -> list[bytes]:
    """The files of the parent and of the quantized model."""
    return [parent_file(bench), made(bench)]


def show_errors(bench: Context, name: str, reduce_range: bool, count: int) -> None:
    """Print one line of the first table."""
    val = bench.val
    images, labels = val.normalize(val.images[:count]), val.labels[:count]
    data = made(bench, reduce_range=reduce_range)
    modules = OnnxModule(parent_file(bench), 1), OnnxModule(data, 1), OnnxModule(data, 1, fused=False)
    fp32, runs, written = (module(images) for module in modules)
    cells = [f"{mean_off(logits, fp32):8.2%} {largest_off(logits, fp32):8.2%}  " for logits in (runs, written)]
    right = [f"{float((logits.argmax(1) == labels).float().mean()):8.2%}" for logits in (runs, written, fp32)]
    bits = 7 if reduce_range else 8
    print(f"  {name:22} {bits} bits {''.join(cells)} {mean_off(runs, written):10.3%} {''.join(right)}", flush=True)


def mean_off(logits: torch.Tensor, others: torch.Tensor) -> float:
    """Mean difference relative to the mean logit."""
    return float((logits - others).abs().mean() / others.abs().mean())


def largest_off(logits: torch.Tensor, others: torch.Tensor) -> float:
    """Largest difference of any image relative to that image's largest logit."""
    return float(((logits - others).abs().amax(1) / others.abs().amax(1)).max())


def latency(files: list[bytes], bench: Context, repeats: int) -> list[float]:
    """Median milliseconds of one image through each file, on one thread; the files take turns."""
    parent = bench.parents["from"][bench.config.seeds[0]]
    image = np.random.default_rng(0).normal(size=(1, parent.in_channels, parent.height, parent.width))
    feeds = {"images": image.astype(np.float32)}
    sessions = [OnnxModule(data, 1).session for data in files]
    times: list[list[float]] = [[] for _ in sessions]
    for round_ in range(repeats + 1):
        for session, seconds in zip(sessions, times, strict=True):
            start = time.perf_counter()
            for _ in range(INNER):
                session.run(None, feeds)
            if round_:  # the first warms up
                seconds.append((time.perf_counter() - start) / INNER)
    return [1000 * statistics.median(seconds) for seconds in times]


if __name__ == "__main__":
    main()
