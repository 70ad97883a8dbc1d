"""Knowledge distillation: one or two trained teachers take part in the student's objective.

A method is a file of `losses/` with `Options`, `EXAMPLE` and

    loss(student: Seen, teacher: Seen, targets, options, adapter) -> scalar

where `targets` (B, classes) sum to 1. A method that looks inside the networks also has `taps(options) -> Taps`, the
layers whose outputs it wants, and may have `adapter(student: Shapes, teacher: Shapes, options) -> module`, trained with
the student and then dropped. With two teachers the loss is the mean over them.
"""

from collections.abc import Sequence
from contextlib import closing
from typing import Any

import torch
from torch import Tensor, nn

from netpress.core.batches import Batch, DeviceSplit
from netpress.core.context import Context, Method
from netpress.core.measure import autocast, count_params
from netpress.core.networks import renormalize
from netpress.core.resume import Workspace
from netpress.core.seeds import fresh_network, run_seeds, save_design
from netpress.core.taps import Tapped, Taps
from netpress.params.plugins import in_words
from netpress.params.reader import refuse_larger_student
from netpress.params.recipes import Runtime


def distill_student(context: Context) -> None:
    """Train every seed of the student with its teachers of that seed, save the models and write the metrics."""

    def make(seed: int, work: Workspace) -> dict[str, Any]:
        item = context.item
        teachers = {role: context.parent(seed, role) for role in context.parents}
        student = fresh_network(item, context.manifest, seed).to(context.device)
        refuse_larger_student(item, count_params(student), teachers["teacher"].spec.params)
        networks = [teacher.network.to(context.device) for teacher in teachers.values()]
        for teacher in teachers.values():
            own = teacher.spec.mean, teacher.spec.std
            renormalize(teacher.network, (context.manifest.mean, context.manifest.std), own)
        taught = Taught(student, networks, context.method(), item.teacher_view, context.config.runtime, context.train)
        with closing(taught):
            history = context.fit(work, "fit", student, seed, taught)
        return save_design(context, work, seed, student, history, teachers)

    run_seeds(context, make)


class Taught:
    """The objective of a student: the method's loss, as the mean over its teachers.

    The teachers see the student's own augmented view, or the image as it is. Beyer et al., A good teacher is patient
    and consistent, https://arxiv.org/abs/2106.05237.
    """

    def __init__(
        self,
        student: nn.Module,
        teachers: Sequence[nn.Module],
        method: Method,
        view: str,
        runtime: Runtime,
        train: DeviceSplit,
    ) -> None:
        layout = torch.channels_last if runtime.channels_last else torch.contiguous_format
        self._method, self._view, self._runtime = method, view, runtime
        self._teachers = [teacher.eval().to(memory_format=layout) for teacher in teachers]
        defines = {name for name in ("taps", "adapter") if hasattr(method.module, name)}
        if defines == {"adapter"}:
            raise method.unfit("defines adapter without taps; define taps(options), which names the layers to adapt")
        taps = method.call("taps", method.options, gives=(Taps,)) if defines else Taps()
        self._student = Tapped(student, taps.student, "student")
        self._tapped = [Tapped(teacher, taps.teacher, "teacher") for teacher in self._teachers]
        self.modules = nn.ModuleDict()
        if "adapter" in defines:
            example = train.normalize(train.images[:2])
            shapes = self._student.shapes(example)
            for k, tapped in enumerate(self._tapped):
                given = shapes, tapped.shapes(example), method.options
                self.modules[f"{k}"] = method.call("adapter", *given, gives=(nn.Module,))

    def start_epoch(self, epoch: int, epochs: int) -> None:
        """Every epoch is like the others."""

    def __call__(self, batch: Batch, logits: Tensor) -> Tensor:
        images = batch.images if self._view == "same" else batch.plain()
        student, losses = self._student.seen(logits), []
        for k, (teacher, tapped) in enumerate(zip(self._teachers, self._tapped, strict=True)):
            with torch.no_grad(), autocast(self._runtime, teacher, images.device):
                teacher_logits = teacher(images)
            adapter = self.modules[f"{k}"] if len(self.modules) else None
            seen = tapped.seen(teacher_logits)
            given = student, seen, batch.targets, self._method.options, adapter
            losses.append(self._method.call("loss", *given, gives=(Tensor,)))
            self._require_scalar(losses[-1], logits)
        return torch.stack(losses).mean()

    def _require_scalar(self, loss: Tensor, logits: Tensor) -> None:
        """Raise unless the loss is one number, and follows the student's logits where they can be trained."""
        if loss.ndim:
            raise self._method.unfit(f"loss returned {in_words(loss)}; return one number, such as its mean()")
        if logits.requires_grad and not loss.requires_grad:
            text = "compute it from student.logits or student.features in torch, without item(), detach() or no_grad()"
            raise self._method.unfit(f"loss returned a tensor without gradient; {text}")

    def close(self) -> None:
        """Leave the networks as they were."""
        for tapped in (self._student, *self._tapped):
            tapped.close()
