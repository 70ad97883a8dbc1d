"""Measure a chosen model on the test split: an entry of the list `final`.

This is the only place where the test split is opened. VARIANT is a model id, such as train/resnet18_strong.
Writes metrics/test/VARIANT.json; without a test split it holds no accuracy.
"""

from pathlib import Path

from netpress.process.script import run_variant_stage


def test(root: Path, model_id: str) -> None:
    from netpress.final.run import measure_on_test
    from netpress.params import reader

    measure_on_test(root, model_id, reader.for_final(root / "params.yaml", model_id))


if __name__ == "__main__":
    run_variant_stage(__doc__, test, "a model id of the list final")
