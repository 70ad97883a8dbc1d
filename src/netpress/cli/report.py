"""Write the tables, figures and the page of the models that are made so far.

    python -m netpress report     then open reports/index.html

`dvc repro` does so at its end, once all models of params.yaml are there. This leaves out those that are not up to date
in the eyes of DVC, and what claims and experiments say of them. It writes the same files, which the next `dvc repro`
writes again.
"""

import argparse
from collections.abc import Collection, Container, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

from netpress.base.errors import NetpressError
from netpress.base.model_id import ModelId
from netpress.base.project import find_root
from netpress.params.items import parents_of
from netpress.params.whole import Experiment, Params

#: Models named in one line.
NAMED = 12


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments: none."""


def run(args: argparse.Namespace) -> None:
    """Write the report of the project around the current folder."""
    from netpress.base.words import some
    from netpress.graph.checks import load_checked
    from netpress.process.commands import changed_stages
    from netpress.report import environments
    from netpress.report.collect import collect
    from netpress.report.overview import brief
    from netpress.report.write import write_report

    root = find_root()
    with ThreadPoolExecutor(1) as beside:
        status = beside.submit(changed_stages, root)  # a process of its own, which runs while torch is loaded here
        params = load_checked(root / "params.yaml")
        stale = status.result()
    items = up_to_date(params.items(), stale)
    if not items:
        first = next((stage for stage in stale if ModelId.of_stage(stage)), "prepare")
        raise NetpressError(f"no model of params.yaml is up to date; make some, as by 'dvc repro {first}'")
    tested = [name for name in params.final if ModelId(name).base in items and f"test@{name}" not in stale]
    claims = {
        name: claim
        for name, claim in params.claims.items()
        if all(ModelId(m).base in items for m in (*claim.order, *claim.equal))
    }
    study = collect(root, items, tested, claims, _experiments(params, items))
    study = replace(study, missing=tuple(name for name in params.items() if name not in items))
    written = write_report(root, study)
    print(brief(study))
    print(environments.write_note(root, study), end="")
    if study.missing:
        print(f"left out, since not made or changed since: {some(list(study.missing), NAMED)}")
    print("wrote " + ", ".join(path.as_posix() for path in written))


def up_to_date(items: Mapping[str, Any], stale: Collection[str]) -> dict[str, Any]:
    """Return the models of which neither stage nor ancestors are among the stages `stale`, in the order of `items`."""
    found: dict[str, Any] = {}
    changed = {ModelId.of_stage(stage) for stage in stale}
    waiting = {} if "prepare" in stale else {k: v for k, v in items.items() if k not in changed}
    while ready := [k for k, v in waiting.items() if all(parent.base in found for parent in parents_of(v).values())]:
        found |= {name: waiting.pop(name) for name in ready}
    return {name: item for name, item in items.items() if name in found}


def _experiments(params: Params, items: Container[str]) -> dict[str, Experiment]:
    """Return the experiments with the rows whose models are there, if any."""
    kept = {
        name: [row for row in experiment.rows if ModelId(row.model).base in items]
        for name, experiment in params.experiments.items()
    }
    return {name: params.experiments[name].model_copy(update={"rows": rows}) for name, rows in kept.items() if rows}
