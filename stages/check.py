"""Check the whole of params.yaml, and that the data and weights that it names are there, before any work.

Writes data/checked, whose content never changes: this stage runs whenever params.yaml was edited, and makes no other
run.
"""

from pathlib import Path

from netpress.process.script import run_stage


def check(root: Path) -> None:
    # Here, so that --help and Ctrl-C need not wait for torch.
    from netpress.base.files import write_text
    from netpress.base.project import CHECKED
    from netpress.graph.checks import check_project

    params = check_project(root)
    write_text(root / CHECKED, "params.yaml was checked\n")
    print(f"params.yaml: valid, profile {params.profile}, {len(params.items())} models")


if __name__ == "__main__":
    run_stage(__doc__, check)
