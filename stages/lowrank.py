"""Train one compact design from scratch: an item of the section `lowrank`.

Writes models/lowrank/VARIANT/ and metrics/lowrank/VARIANT.json.
"""

from pathlib import Path

from netpress.process.script import run_variant_stage


def lowrank(root: Path, variant: str) -> None:
    from netpress.core.context import open_context
    from netpress.train.run import train_design

    train_design(open_context(root, "lowrank", variant))


if __name__ == "__main__":
    run_variant_stage(__doc__, lowrank, "a key of the section lowrank")
