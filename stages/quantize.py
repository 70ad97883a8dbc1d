"""Quantize a trained model: an item of the section `quantize`.

Writes models/quantize/VARIANT/ and metrics/quantize/VARIANT.json.
"""

from pathlib import Path

from netpress.process.script import run_variant_stage


def quantize(root: Path, variant: str) -> None:
    from netpress.core.context import open_context
    from netpress.quantize.run import quantize_model

    quantize_model(open_context(root, "quantize", variant))


if __name__ == "__main__":
    run_variant_stage(__doc__, quantize, "a key of the section quantize")
