"""Knowledge distillation: one or two trained teachers take part in the student's objective.

A method is a file of `losses/` with `Options`, `EXAMPLE` and

    loss(student: Seen, teacher: Seen, targets, options, adapter) -> scalar

where `targets` (B, classes) sum to 1. A method that looks inside the networks also has `taps(options) -> Taps`, the
layers whose outputs it wants, and may have `adapter(student: Shapes, teacher: Shapes, options) -> module`, trained with
the student and then dropped. With two teachers the loss is the mean over them.

Where teachers see the plain image and no layer of theirs is looked at, their logits are computed once: `soft_targets`.
"""

from collections.abc import Iterable, Sequence
from contextlib import closing
from typing import Any

import torch
from torch import Tensor, nn

from netpress.core.batches import Batch, DeviceSplit, plain_is_fixed
from netpress.core.context import Context, Method
from netpress.core.measure import answers, autocast, count_params
from netpress.core.networks import renormalize
from netpress.core.resume import Workspace
from netpress.core.seeds import fresh_network, run_seeds, save_design
from netpress.core.taps import Seen, Shapes, Tapped, Taps
from netpress.distill.soft_targets import soft_targets
from netpress.params.plugins import in_words
from netpress.params.reader import refuse_larger_student
from netpress.params.recipes import Augment, Runtime


def distill_student(context: Context) -> None:
    """Train every seed of the student with its teachers of that seed, save the models and write the metrics."""

    def make(seed: int, work: Workspace) -> dict[str, Any]:
        item = context.item
        method, runtime = context.method(), context.config.runtime
        specs = {role: of_seed[seed] for role, of_seed in context.parents.items()}
        fixed = are_fixed(method, item.teacher_view, context.recipe.augment)
        known = [soft_targets(context, seed, role) for role in specs] if fixed else []
        networks = [] if fixed else [in_the_loop(context, seed, role) for role in specs]
        # After the teachers: what is drawn from here on follows from the seed, whether or not one had to be built.
        student = fresh_network(item, context.manifest, seed).to(context.device)
        refuse_larger_student(item, count_params(student), specs["teacher"].params)
        teachers: list[nn.Module | Tensor] = [*networks, *(targets.logits for targets in known)]
        taught = Taught(student, teachers, method, item.teacher_view, runtime, context.train)
        with closing(taught):
            history = context.fit(work, "fit", student, seed, taught)
        named = known[0].answers if fixed else answers(networks[0], context.val)
        return save_design(context, work, seed, student, history, specs, named)

    run_seeds(context, make)


def taps_of(method: Method) -> Taps:
    """Return the layers whose outputs the method wants to see."""
    defines = {name for name in ("taps", "adapter") if hasattr(method.module, name)}
    if defines == {"adapter"}:
        raise method.unfit("defines adapter without taps; define taps(options), which names the layers to adapt")
    taps: Taps = method.call("taps", method.options, gives=(Taps,)) if defines else Taps()
    return taps


def are_fixed(method: Method, view: str, augment: Augment) -> bool:
    """Say whether all that the method reads of a teacher are logits of images which every epoch shows alike."""
    return view == "plain" and plain_is_fixed(augment) and not taps_of(method).teacher


def in_the_loop(context: Context, seed: int, role: str) -> nn.Module:
    """Return the teacher as a network on the device, which takes images normalized as the student's are."""
    teacher, data = context.parent(seed, role), context.manifest
    renormalize(teacher.network, (data.mean, data.std), (teacher.spec.mean, teacher.spec.std))
    return teacher.network.to(context.device)


class Asked:
    """A teacher in the training loop: it sees the student's own augmented view, or the image as it is."""

    def __init__(self, network: nn.Module, taps: Iterable[str], view: str, runtime: Runtime) -> None:
        layout = torch.channels_last if runtime.channels_last else torch.contiguous_format
        self._network, self._view, self._runtime = network.eval().to(memory_format=layout), view, runtime
        self._tapped = Tapped(self._network, taps, "teacher")
        self.shapes, self.close = self._tapped.shapes, self._tapped.close

    def seen(self, batch: Batch) -> Seen:
        """Return what the teacher says of a batch."""
        images = batch.images if self._view == "same" else batch.plain()
        with torch.no_grad(), autocast(self._runtime, self._network, images.device):
            logits = self._network(images)
        return self._tapped.seen(logits)


class LookedUp:
    """A teacher whose logits (N, classes) of the training images are known."""

    def __init__(self, logits: Tensor) -> None:
        self._logits = logits

    def shapes(self, images: Tensor) -> Shapes:
        """No layer is looked at."""
        return {}

    def seen(self, batch: Batch) -> Seen:
        """Return what the teacher says of a batch."""
        return Seen(self._logits[batch.index], {})

    def close(self) -> None:
        """There is no network to leave."""


class Taught:
    """The objective of a student: the method's loss, as the mean over its teachers.

    The teachers see the student's own augmented view, or the image as it is. Beyer et al., A good teacher is patient
    and consistent, https://arxiv.org/abs/2106.05237. Each is a network, or its logits (N, classes) of the training
    images; see `are_fixed`.
    """

    def __init__(
        self,
        student: nn.Module,
        teachers: Sequence[nn.Module | Tensor],
        method: Method,
        view: str,
        runtime: Runtime,
        train: DeviceSplit,
    ) -> None:
        self._method, taps = method, taps_of(method)
        self._student = Tapped(student, taps.student, "student")
        self._teachers = [
            LookedUp(teacher) if isinstance(teacher, Tensor) else Asked(teacher, taps.teacher, view, runtime)
            for teacher in teachers
        ]
        self.modules = nn.ModuleDict()
        if hasattr(method.module, "adapter"):
            example = train.normalize(train.images[:2])
            shapes = self._student.shapes(example)
            for k, teacher in enumerate(self._teachers):
                given = shapes, teacher.shapes(example), method.options
                self.modules[f"{k}"] = method.call("adapter", *given, gives=(nn.Module,))

    def start_epoch(self, epoch: int, epochs: int) -> None:
        """Every epoch is like the others."""

    def __call__(self, batch: Batch, logits: Tensor) -> Tensor:
        student, losses = self._student.seen(logits), []
        for k, teacher in enumerate(self._teachers):
            adapter = self.modules[f"{k}"] if len(self.modules) else None
            given = student, teacher.seen(batch), batch.targets, self._method.options, adapter
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
        for seen in (self._student, *self._teachers):
            seen.close()
