"""What can be checked in seconds, in a clone with nothing pulled: that all that is written agrees."""

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from netpress.base.errors import NetpressError
from netpress.graph.checks import load_checked
from netpress.process.commands import changed_stages
from netpress.verify import dvc_lock as locks
from netpress.verify import quick_graph, quick_local, quick_results
from netpress.verify.findings import Finding


def examine(root: Path) -> list[Finding]:
    """Return every finding about the project in `root`; no stage is run and no result changed.

    Raises:
        NetpressError: DVC cannot say how things stand.
    """
    with ThreadPoolExecutor(1) as beside:
        # A process of its own, which runs while this one loads torch and reads the code.
        status = beside.submit(changed_stages, root)
        return _examine(root, status.result)


def _examine(root: Path, status: Callable[[], Mapping[str, Any]]) -> list[Finding]:
    findings = quick_graph.code_findings(root)
    try:
        params = load_checked(root / "params.yaml")
    except NetpressError as error:
        return [*findings, Finding("error", "params.yaml", str(error), "fix it; the rest is checked after that")]
    try:
        lock = locks.read_lock(root / locks.NAME)
    except NetpressError as error:
        return [*findings, Finding("error", locks.NAME, str(error), "fix it; the rest is checked after that")]
    findings += quick_graph.lock_findings(root, lock, status())
    findings += quick_results.table_findings(root, params)
    findings += quick_results.orphans(root, params)
    findings += quick_local.data_findings(root)
    findings += quick_local.model_findings(root, params.items())
    return findings
