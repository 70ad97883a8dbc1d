"""A network taught by trained ones: a distillation loss as the objective of a training.

`run` trains students so from scratch; fine-tuning of any family has the unchanged parent as the teacher, see `tuning`.
Where teachers see the plain image and no layer of theirs is looked at, their logits are computed once: `soft_targets`.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager

import torch
from torch import Tensor, nn

from netpress.base.errors import ParamsError
from netpress.core.batches import Batch, plain_is_fixed
from netpress.core.context import Context, Method
from netpress.core.engine import Objective
from netpress.core.measure import autocast
from netpress.core.networks import renormalize
from netpress.core.splits import DeviceSplit
from netpress.core.taps import Seen, Shapes, Tapped, Taps
from netpress.distill.teaching.confidence import confidence_weights
from netpress.distill.teaching.soft_targets import soft_targets
from netpress.params.plugins import in_words
from netpress.params.recipes import Augment, Runtime


@contextmanager
def tuning(context: Context, seed: int, network: nn.Module) -> Iterator[Objective | None]:
    """Give the objective of fine-tuning `network`: the item's `loss`, taught by the parent as it was.

    None where the loss asks no teacher: cross-entropy with the labels. The teacher's answers to the plain images are
    computed once where they are all that the loss reads; else it sees the student's own views.
    """
    method = context.method("loss")
    if not asks_teacher(method):
        yield None
        return
    role, runtime = context.item.roles[0], context.config.runtime
    try:
        fixed = are_fixed(method, "plain", context.recipe.augment)
        teacher = soft_targets(context, seed, role).logits if fixed else in_the_loop(context, seed, role)
        torch.manual_seed(seed)  # an adapter is drawn from the seed, whatever was done before
        view = "plain" if fixed else "same"
        with closing(Taught(network.to(context.device), [teacher], method, view, runtime, context.train)) as taught:
            yield taught
    except ParamsError as error:  # losses speak of the keys that they have in the section `distill`
        raise error.renamed("method", "loss") from None


def asks_teacher(method: Method) -> bool:
    """Return whether the loss reads anything of a teacher."""
    return bool(getattr(method.module, "ASKS_TEACHER", True))


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
    """The objective of a student: the method's loss, as the mean over its teachers, or weighed for each image.

    The teachers see the student's own augmented view, or the image as it is. Beyer et al., A good teacher is patient
    and consistent, https://arxiv.org/abs/2106.05237. Each is a network, or its logits (N, classes) of the training
    images; see `are_fixed`. With `weights` of `confidence` the method's `losses` count as `confidence_weights` says.
    """

    def __init__(
        self,
        student: nn.Module,
        teachers: Sequence[nn.Module | Tensor],
        method: Method,
        view: str,
        runtime: Runtime,
        train: DeviceSplit,
        weights: str = "equal",
    ) -> None:
        self._method, self._weighs, taps = method, weights == "confidence", taps_of(method)
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
        student, losses, answers = self._student.seen(logits), [], []
        for k, teacher in enumerate(self._teachers):
            adapter = self.modules[f"{k}"] if len(self.modules) else None
            seen = teacher.seen(batch)
            answers.append(seen.logits)
            given = student, seen, batch.targets, self._method.options, adapter
            losses.append(self._method.call("losses" if self._weighs else "loss", *given, gives=(Tensor,)))
            self._require_fit(losses[-1], logits)
        if self._weighs:
            return (confidence_weights(answers, batch.targets) * torch.stack(losses)).sum(0).mean()
        return torch.stack(losses).mean()

    def _require_fit(self, loss: Tensor, logits: Tensor) -> None:
        """Raise unless the loss is of its shape, and follows the student's logits where they can be trained."""
        if self._weighs and loss.shape != logits.shape[:1]:
            text = f"return a number for each of the {len(logits)} images"
            raise self._method.unfit(f"losses returned {in_words(loss)}; {text}")
        if loss.ndim and not self._weighs:
            raise self._method.unfit(f"loss returned {in_words(loss)}; return one number, such as its mean()")
        if logits.requires_grad and not loss.requires_grad:
            text = "compute it from student.logits or student.features in torch, without item(), detach() or no_grad()"
            raise self._method.unfit(f"loss returned a tensor without gradient; {text}")

    def close(self) -> None:
        """Leave the networks as they were."""
        for seen in (self._student, *self._teachers):
            seen.close()
