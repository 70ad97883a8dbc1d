"""Knowledge distillation: one or two trained teachers take part in the student's objective.

A method is a file of `losses/` with `Options`, `EXAMPLE` and

    loss(student: Seen, teacher: Seen, targets, options, adapter) -> scalar

where `targets` (B, classes) sum to 1. A method that looks inside the networks also has `taps(options) -> Taps`, the
layers whose outputs it wants, and may have `adapter(student: Shapes, teacher: Shapes, options) -> module`, trained with
the student and then dropped. With two teachers the loss is the mean over them, or weighed image by image as
`teaching/confidence.py` says: for that the file also has `losses`, called like `loss`, which returns (B) numbers whose
mean the loss is. `ASKS_TEACHER = False` in a file says that its loss is that of the labels alone. `taught` makes
objectives of the files.
"""

from contextlib import closing
from typing import Any

from torch import Tensor, nn

from netpress.core.context import Context
from netpress.core.measure import answers, count_params
from netpress.core.resume import Workspace
from netpress.core.seeds import fresh_network, run_seeds, save_design
from netpress.distill.teaching.soft_targets import soft_targets
from netpress.distill.teaching.taught import Taught, are_fixed, in_the_loop
from netpress.params.reader import refuse_larger_student


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
        taught = Taught(student, teachers, method, item.teacher_view, runtime, context.train, item.teacher_weights)
        with closing(taught):
            history = context.fit(work, "fit", student, seed, taught)
        named = known[0].answers if fixed else answers(networks[0], context.val)
        return save_design(context, work, seed, student, history, specs, named)

    run_seeds(context, make)
