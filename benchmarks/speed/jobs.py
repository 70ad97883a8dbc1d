"""What one worker does in a round, beside the loops: the limit of the machine, data, inference, checkpoints.

A job is made by a function of (case, threads, loaders), and called with a number of steps; it returns how much it did,
a number, or what it found, a list of numbers.
"""

import tempfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

from speed.cases import BATCH, RECIPE, Case
from speed.loops import built, made_up, netpress_loop, ordinary_loop, torchdistill_loop

Job = Callable[[int], float | list[float]]


def flops(case: Case) -> float:
    """Return the floating-point operations of one image's training step: forward, backward, and the teacher's forward.

    Convolutions and matrix products count, a multiply-add as two.
    """
    from torch.utils.flop_counter import FlopCounterMode

    images, network = torch.zeros(2, case.channels, case.size, case.size), built(case.network, case).train()
    teacher = built(case.teacher, case).eval() if case.teacher else None
    with FlopCounterMode(display=False) as counter:
        network(images).sum().backward()
        if teacher is not None:
            with torch.no_grad():
                teacher(images)
    return counter.get_total_flops() / len(images)


def product_job(shape: list[int], threads: int, _: int) -> Job:
    """Multiply float32 matrices, (rows, inner) by (inner, columns); the operations are counted."""
    torch.set_num_threads(threads)
    rows, inner, columns = shape
    left, right, out = torch.rand(rows, inner), torch.rand(inner, columns), torch.empty(rows, columns)

    def multiply(steps: int) -> float:
        for _ in range(steps):
            torch.mm(left, right, out=out)
        return 2.0 * rows * inner * columns * steps

    return multiply


def prepare_job(place: dict[str, Any], threads: int, _: int) -> Job:
    """Prepare an archive of Food-11's layout, `place["path"]`, at `place["size"]` pixels; the images are counted."""
    from netpress.ingest.prepare import prepare
    from netpress.params.items import Data

    path = Path(place["path"])
    data = Data(
        source="food11",
        root=path.name,
        resolution=place["size"],
        val_share=0.2,
        test_share=0.0,
        split_seed=0,
        on_overlap="drop_from_train",
        on_bad_image="error",
    )

    def prepared(steps: int) -> float:
        count = 0
        for _ in range(steps):
            with tempfile.TemporaryDirectory() as folder:
                manifest = prepare(path.parent, data, Path(folder) / "out")
            count += sum(map(sum, manifest.counts.values())) + manifest.dropped
        return count

    return prepared


def pictures_job(place: dict[str, Any], threads: int, _: int) -> Job:
    """Read the same archive with PIL: decode, resize where the size differs, one array; nothing is checked."""
    size = place["size"], place["size"]

    def read(steps: int) -> float:
        count = 0
        for _ in range(steps):
            with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(place["path"]) as archive:
                pixels = []
                for name in archive.namelist():
                    if name.lower().endswith((".jpg", ".jpeg", ".png")):
                        with archive.open(name) as stream:
                            picture = Image.open(stream).convert("RGB")
                        pixels.append(np.asarray(picture if picture.size == size else picture.resize(size)))
                np.save(Path(folder) / "images.npy", np.stack(pixels))
            count += len(pixels)
        return count

    return read


def fp32_job(case: Case, threads: int, _: int) -> Job:
    """Run the network's ONNX file on one image at a time."""
    return _session_job(exported(case), case, threads)


def int8_job(case: Case, threads: int, _: int) -> Job:
    """Run the network's ONNX file, quantized to int8 with static scales, on one image at a time."""
    from netpress.params.schema import parse
    from netpress.quantize.methods import int8_static
    from netpress.quantize.run import Trained, calibration_images

    def refuse(*_: object) -> Any:
        raise NotImplementedError("this benchmark trains nothing")

    split = made_up(case, 1)
    onnx = exported(case)
    trained = Trained(nn.Identity(), onnx, lambda count: calibration_images(split, count, 0), refuse, refuse)
    options = parse(int8_static.Options, int8_static.EXAMPLE, "int8_static")
    return _session_job(int8_static.quantize(trained, options), case, threads)


def exported(case: Case) -> bytes:
    """Return the ONNX file of a network that is not trained."""
    from netpress.core.export import export_onnx

    torch.manual_seed(0)
    return export_onnx(built(case.network, case).eval(), case.channels, case.size, case.size)


def _session_job(data: bytes, case: Case, threads: int) -> Job:
    from netpress.core.export import OnnxModule

    module = OnnxModule(data, threads)
    image = made_up(case, 1).normalize(made_up(case, 1).images[:1]).numpy()
    feeds = {module.input_name: np.ascontiguousarray(image)}

    def infer(steps: int) -> float:
        for _ in range(steps):
            module.session.run(None, feeds)
        return steps

    return infer


def checkpoint_job(run: dict[str, Any], threads: int, _: int) -> Job:
    """Train with checkpoints, `run["images"]` an epoch, one epoch a step.

    Returns the seconds spent on checkpoints, and how many were written.
    """
    from netpress.core.checkpoint import Checkpoint, History
    from netpress.core.engine import Schedule, fit
    from netpress.core.runtime import set_up
    from netpress.core.splits import DeviceSplit
    from netpress.params.recipes import Runtime

    spent, written = 0.0, 0

    class Timed(Checkpoint):
        """Notes what each checkpoint takes."""

        def save_if_due(self, network: nn.Module, optimizer: torch.optim.Optimizer, history: History) -> None:
            nonlocal spent, written
            before, last = time.perf_counter(), self._last
            super().save_if_due(network, optimizer, history)
            spent += time.perf_counter() - before
            written += self._last != last

    case = Case.read(run["case"])
    runtime = Runtime(
        device="cpu",
        threads=threads,
        precision="fp32",
        channels_last=True,
        compile=False,
        devices=1,
        batch_norm="synchronized",
    )
    set_up(runtime)
    whole = made_up(case, -(-run["images"] // BATCH))
    train, few = (
        DeviceSplit(whole.images[:n], whole.labels[:n], whole.num_classes, whole.mean, whole.std, True)
        for n in (run["images"], 16)
    )

    def trained(epochs: int) -> list[float]:
        nonlocal spent, written
        spent, written = 0.0, 0
        network = built(case.network, case)
        with tempfile.TemporaryDirectory() as folder:
            checkpoint = Timed(Path(folder) / "fit")
            fit(network, train, few, Schedule(RECIPE, epochs, 0), runtime, "bench", checkpoint=checkpoint)
        return [spent, written]

    return trained


def of_case(job: Callable[[Case, int, int], Job]) -> Callable[[Any, int, int], Job]:
    """Return the job for a case that came through a pipe."""
    return lambda raw, threads, loaders: job(Case.read(raw), threads, loaders)


JOBS: dict[str, Callable[[Any, int, int], Job]] = {
    "netpress": of_case(netpress_loop),
    "ordinary": of_case(ordinary_loop),
    "torchdistill": of_case(torchdistill_loop),
    "product": product_job,
    "prepare": prepare_job,
    "pictures": pictures_job,
    "fp32": of_case(fp32_job),
    "int8": of_case(int8_job),
    "checkpoint": checkpoint_job,
}
