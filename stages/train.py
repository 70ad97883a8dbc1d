"""Train one network on the labels alone, perhaps from weights trained elsewhere: an item of the section `train`.

Writes models/train/VARIANT/ and metrics/train/VARIANT.json.
"""

from pathlib import Path

from netpress.process.script import run_variant_stage


def train(root: Path, variant: str) -> None:
    from netpress.core.context import open_context
    from netpress.train.pretrained import with_start
    from netpress.train.run import train_design

    train_design(with_start(open_context(root, "train", variant)))


if __name__ == "__main__":
    run_variant_stage(__doc__, train, "a key of the section train")
