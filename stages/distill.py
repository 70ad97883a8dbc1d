"""Train one student with the help of a trained teacher: an item of the section `distill`.

Writes models/distill/VARIANT/ and metrics/distill/VARIANT.json.
"""

from pathlib import Path
from typing import Any

from netpress.base.script import run_variant_stage
from netpress.config import refuse_larger_student
from netpress.designs import fit_and_save, fresh_network
from netpress.distillation import taught_by
from netpress.measure import count_params
from netpress.runs import open_bench, run_seeds


def distill(root: Path, variant: str) -> None:
    bench = open_bench(root, "distill", variant)
    splits = bench.split("train"), bench.split("val")

    def make(seed: int, folder: Path) -> dict[str, Any]:
        teacher = bench.parent(seed)
        student = fresh_network(bench.item, bench.manifest, seed)
        refuse_larger_student(bench.item, count_params(student), teacher.spec.params, bench.model_id)
        objective = taught_by(teacher.network.to(bench.device), bench.item, bench.config.runtime)
        return fit_and_save(bench, folder, seed, student, splits, teacher, objective)

    run_seeds(bench, make)


if __name__ == "__main__":
    run_variant_stage(__doc__, distill, "a key of the section distill")
