"""Replace a trained model's convolutions by low-rank chains and fine-tune: an item of the section `factorize`.

Writes models/factorize/VARIANT/ and metrics/factorize/VARIANT.json.
"""

from pathlib import Path
from typing import Any

from netpress.base.script import run_variant_stage
from netpress.engine import Schedule, fit
from netpress.factorization import factorize_network
from netpress.measure import evaluate
from netpress.runs import Made, open_bench, run_seeds, save


def factorize(root: Path, variant: str) -> None:
    bench = open_bench(root, "factorize", variant)
    item, runtime = bench.item, bench.config.runtime
    train, val = bench.split("train"), bench.split("val")

    def make(seed: int, folder: Path) -> dict[str, Any]:
        parent = bench.parent(seed)
        network = parent.network
        edit = factorize_network(network, item.method, item.method_options)
        network.to(bench.device)
        before = evaluate(network, val)
        schedule = Schedule(bench.recipe, item.epochs, seed)
        history = fit(network, train, val, schedule, runtime, f"{bench.model_id} seed {seed}")
        edits = [*parent.spec.edits, edit]
        made = Made(network, history, parent.spec.arch, parent.spec.options, edits, item.method, parent)
        metrics = save(bench, folder / f"seed_{seed}", seed, made)
        return metrics | {"val_acc_before_tuning": before.accuracy}

    run_seeds(bench, make)


if __name__ == "__main__":
    run_variant_stage(__doc__, factorize, "a key of the section factorize")
