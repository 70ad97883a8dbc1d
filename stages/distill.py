"""Train one student with the help of a trained teacher: an item of the section `distill`.

Writes models/distill/VARIANT/ and metrics/distill/VARIANT.json.
"""

from pathlib import Path

from netpress.process.script import run_variant_stage


def distill(root: Path, variant: str) -> None:
    from netpress.core.context import open_context
    from netpress.distill.run import distill_student

    distill_student(open_context(root, "distill", variant))


if __name__ == "__main__":
    run_variant_stage(__doc__, distill, "a key of the section distill")
