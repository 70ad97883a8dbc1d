"""Replace a trained model's convolutions by low-rank chains and fine-tune: an item of the section `factorize`.

Writes models/factorize/VARIANT/ and metrics/factorize/VARIANT.json.
"""

from pathlib import Path

from netpress.process.script import run_variant_stage


def factorize(root: Path, variant: str) -> None:
    from netpress.core.context import open_context
    from netpress.factorize.run import factorize_model

    factorize_model(open_context(root, "factorize", variant))


if __name__ == "__main__":
    run_variant_stage(__doc__, factorize, "a key of the section factorize")
