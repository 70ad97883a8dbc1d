"""Prune a trained model round by round: the section `prune`, or an item of `prune_sweep`.

VARIANT is `main` for the section prune, or a key of prune_sweep. Writes models/prune/main/ and
metrics/prune/main.json, or the same under prune_sweep/VARIANT.
"""

from pathlib import Path

from netpress.process.script import run_variant_stage


def prune(root: Path, variant: str) -> None:
    from netpress.core.context import open_context
    from netpress.prune.run import prune_curve

    prune_curve(open_context(root, "prune" if variant == "main" else "prune_sweep", variant))


if __name__ == "__main__":
    run_variant_stage(__doc__, prune, "main (the default), or a key of the section prune_sweep", default="main")
