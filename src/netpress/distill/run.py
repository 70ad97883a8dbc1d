"""Knowledge distillation: a trained teacher takes part in the student's objective.

A method is a file with `Options` and `loss(student_logits, teacher_logits, targets, options)`, where
the logits are (B, classes), `targets` (B, classes) sum to 1, and the loss is a scalar.
"""

from typing import Any

import torch
from torch import Tensor, nn

from netpress.core.batches import Batch
from netpress.core.context import Bench
from netpress.core.engine import Objective
from netpress.core.measure import autocast, count_params
from netpress.core.resume import Workspace
from netpress.core.seeds import fit_and_save, fresh_network, run_seeds
from netpress.params import plugins
from netpress.params.items import Distill, Runtime
from netpress.params.reader import refuse_larger_student
from netpress.params.schema import parse


def distill_student(bench: Bench) -> None:
    """Train every seed of the student with its teacher of that seed, save the models and write the metrics."""
    splits = bench.split("train"), bench.split("val")

    def make(seed: int, work: Workspace) -> dict[str, Any]:
        teacher = bench.parent(seed)
        student = fresh_network(bench.item, bench.manifest, seed)
        refuse_larger_student(bench.item, count_params(student), teacher.spec.params)
        objective = taught_by(teacher.network.to(bench.device), bench.item, bench.config.runtime)
        return fit_and_save(bench, work, seed, student, splits, teacher, objective)

    run_seeds(bench, make)


def taught_by(teacher: nn.Module, item: Distill, runtime: Runtime) -> Objective:
    """Return the objective of `item`'s method; the teacher sees what `item.teacher_view` says.

    Beyer et al., A good teacher is patient and consistent, https://arxiv.org/abs/2106.05237.
    """
    method = plugins.load("distill/losses", item.method)
    options = parse(method.Options, item.method_options, "method_options")
    teacher.eval().to(memory_format=torch.channels_last if runtime.channels_last else torch.contiguous_format)

    def objective(batch: Batch, logits: Tensor) -> Tensor:
        images = batch.images if item.teacher_view == "same" else batch.plain()
        with torch.no_grad(), autocast(runtime, teacher, images.device):
            teacher_logits = teacher(images)
        loss: Tensor = method.loss(logits, teacher_logits.float(), batch.targets, options)
        return loss

    return objective
