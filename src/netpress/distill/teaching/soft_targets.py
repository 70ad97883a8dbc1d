"""What a teacher says of the images as they are: computed once, kept, and shared by all its students.

Where the teacher sees the image without augmentation, its logits follow from its weights and the images alone. Students
of every seed, method and temperature look them up by the image's place. Whether they were kept or are computed now,
they are the same bits, and the teacher takes no part in the training itself.
"""

import json
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from netpress.base import files
from netpress.core import artifacts
from netpress.core.context import Context
from netpress.core.measure import answers, autocast
from netpress.core.resume import kept
from netpress.core.splits import DeviceSplit
from netpress.params.recipes import Runtime

STORE = Path(".netpress/soft_targets")
#: The code, below src/netpress, from which the logits follow; the architecture's enters through the teacher's files.
CODE = ("base/", "core/", "distill/teaching/soft_targets.py")


@dataclass(frozen=True)
class SoftTargets:
    """A teacher's logits (N, classes) float32 of the training images, and its `answers` to the validation images.

    Both in the splits' order and on the device; for answers see `measure.answers`.
    """

    logits: Tensor
    answers: Tensor


def soft_targets(context: Context, seed: int, role: str) -> SoftTargets:
    """Return what the teacher of `seed` in one of the item's roles says, from the store if it was computed before.

    Raises:
        ArtifactError: the teacher has to be read, and is damaged or was made again since the stage began.
    """
    spec = context.parents[role][seed]
    path = context.root / STORE / spec.model_id / f"seed_{spec.seed}.safetensors"
    label = f"soft targets of {spec.model_id} seed {spec.seed}"
    data = kept(path, fingerprint(context, seed, role), label, partial(_compute, context, seed, role, label))
    tensors = artifacts.tensors_from_bytes(data, path)
    return SoftTargets(tensors["logits"].to(context.device), tensors["answers"].to(context.device))


def fingerprint(context: Context, seed: int, role: str) -> str:
    """Return a hash of all that the soft targets follow from: of the student nothing."""
    code = {name: sha for name, sha in context.code.items() if name.removeprefix("src/netpress/").startswith(CODE)}
    facts = {
        "teacher": context.parents[role][seed].model_dump(),
        "data": context.manifest.data_sha256,
        "environment": context.environment,
        "code": code,
    }
    return files.sha256_bytes(json.dumps(facts, sort_keys=True, allow_nan=False).encode())


@torch.no_grad()
def logits_of(network: nn.Module, split: DeviceSplit, runtime: Runtime) -> Tensor:
    """Return the logits (N, classes) float32 of images as they are, in eval mode and in the precision of training."""
    network.eval().to(memory_format=torch.channels_last if runtime.channels_last else torch.contiguous_format)
    with autocast(runtime, network, split.images.device):
        return torch.cat([network(images).float() for images, _ in split.in_order()])


def _compute(context: Context, seed: int, role: str, label: str) -> bytes:
    """Ask the teacher, normalizing as it was trained; returns a safetensors file."""
    teacher = context.parent(seed, role)
    network, mean, std = teacher.network.to(context.device), tuple(teacher.spec.mean), tuple(teacher.spec.std)
    train, val = (replace(split, mean=mean, std=std) for split in (context.train, context.val))
    logits = logits_of(network, train, context.config.runtime)
    print(f"{label}: computed once, kept in {STORE.as_posix()}", flush=True)
    return artifacts.tensors_as_bytes({"logits": logits, "answers": answers(network, val)})
