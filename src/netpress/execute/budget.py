"""How large a run fits into so many minutes: resolution and epochs, by the work of all trainings and the speed here."""

import json
import time
from collections.abc import Iterator
from functools import cache
from typing import Any

import torch

from netpress.core.batches import enough_epochs, sized
from netpress.core.kernels import small_maps
from netpress.core.measure import count_macs
from netpress.core.networks import build_model
from netpress.execute.eta import IMAGE_MACS, MACS_A_SECOND, NETWORK_MACS, STAGE_SECONDS
from netpress.params.items import Design
from netpress.params.whole import Params

#: Sides of images, in pixels, that are proposed; the largest that the pictures have and the time allows.
RESOLUTIONS = (32, 48, 64, 96, 128, 160, 224)
#: Shares of the profile's epochs that are tried, where the time allows more or asks for fewer.
MORE, FEWER = (3.0, 2.0, 1.5, 1.0), (0.75, 0.5, 0.34)
#: Passes over the network that a training step takes, in forward passes, as a teacher's does; and a curve's rounds
#: beside its parent, on average.
STEP, CURVE = 3.0, 0.6


def choices(side: int, resolution: int | None = None) -> Iterator[tuple[int, float]]:
    """Yield resolutions and shares of the epochs, the best first: size is given up first, then epochs.

    Args:
        side: the shorter side of most pictures, in pixels.
        resolution: the only one to propose.
    """
    fitting = [one for one in RESOLUTIONS if one <= side] or [RESOLUTIONS[0]]
    sides = [resolution] if resolution else sorted(fitting, reverse=True)
    yield from ((one, share) for one in sides for share in MORE)
    yield from ((sides[-1], share) for share in FEWER)


def apply(content: Any, data: dict[str, Any], resolution: int, share: float) -> None:
    """Change the content of a params.yaml in place: the keys `data` of its section, the resolution, and all epochs."""
    content["data"].update(data | {"resolution": resolution})
    for section in ("train", "distill", "lowrank", "factorize"):
        for item in content[section].values():
            item["epochs"] = max(1, round(share * item["epochs"]))
    content["prune"]["epochs"] = round(max(share, 1.0) * content["prune"]["epochs"])  # a round has one at least
    for recipe in ("quick", "finetune"):
        content["recipes"][recipe]["min_steps"] = round(share * content["recipes"][recipe]["min_steps"])


def seconds(params: Params, classes: int, images: int, speed: float, cores: int) -> float:
    """Return about how long a run takes.

    Args:
        params: what it makes.
        classes, images: of training.
        speed: multiply-adds of a forward pass that one thread trains a second, as `macs_a_second` finds it.
        cores: that the jobs may use.
    """
    total, longest, macs = 0.0, 0.0, {}
    size = params.data.resolution
    for name, item in params.items().items():
        if isinstance(item, Design):
            macs[name] = _macs(item.arch, json.dumps(item.options), classes, size)
            each = macs[name] + macs.get(getattr(item, "teacher", ""), 0.0) / STEP
        else:
            each = CURVE * macs.get(item.parent.base, 0.0)
        epochs = enough_epochs(sized(params.recipes[item.recipe], images), item.epochs, images)
        trainings = 1 + 2 * len(getattr(item, "control_rounds", ()))
        own = trainings * (epochs * images * (each + IMAGE_MACS) / speed + NETWORK_MACS / MACS_A_SECOND)
        longest, total = max(longest, own), total + own + STAGE_SECONDS
        macs.setdefault(name, each)
    return len(params.seeds) * max(longest, total * params.runtime.threads / cores)


@cache
def _macs(arch: str, options: str, classes: int, size: int) -> float:
    """Return the multiply-adds of one image; `options` in JSON."""
    return float(count_macs(build_model(arch, classes, 3, **json.loads(options)), 3, size, size))


def macs_a_second(least: float = 1.0) -> float:
    """Return how many multiply-adds of a forward pass one thread trains a second, measured for `least` seconds."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        network = build_model("resnet18", 10, 3, width=0.25, stem="pooled").to(memory_format=torch.channels_last)
        macs = count_macs(network, 3, 48, 48)
        images = torch.zeros(32, 3, 48, 48).to(memory_format=torch.channels_last)
        network.train()
        with small_maps(network):
            network(images).sum().backward()  # warms up
            start, steps = time.perf_counter(), 0
            while not steps or time.perf_counter() - start < least:
                network(images).sum().backward()
                steps += 1
        return steps * len(images) * macs / (time.perf_counter() - start)
    finally:
        torch.set_num_threads(threads)
