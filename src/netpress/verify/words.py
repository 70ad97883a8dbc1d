"""What verification found, for people and as JSON."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from netpress.report.crossed import WITHIN
from netpress.verify.findings import Finding
from netpress.verify.full import Result
from netpress.verify.outcome import StageOutcome, Verdict

SHOWN = 12  # differences of the environment in the text; JSON has all


def result_text(result: Result) -> str:
    """Return the verdict, the outputs of stages that are not bit-exact, the first that diverged and why it may have."""
    outputs = [output for outcome in result.outcomes for output in outcome.outputs]
    counts = {verdict: sum(output.verdict == verdict for output in outputs) for verdict in Verdict}
    lines = []
    for outcome in result.outcomes:
        if outcome.verdict != Verdict.BIT_EXACT:
            lines += _stage_lines(outcome)
    lines.append(
        f"{result.verdict.words}: {len(outputs)} outputs of {len(result.outcomes)} stages, "
        + ", ".join(f"{count} {verdict.words}" for verdict, count in counts.items() if count)
    )
    if result.verdict != Verdict.BIT_EXACT:
        lines.append(
            f"equivalent means equal sizes, and accuracies whose difference has its {100 * WITHIN:g} % interval "
            f"within +-{100 * result.margin:g} points (--margin); drifted, that it lies beyond; cannot tell, neither"
        )
    if result.first is not None:
        lines += _first_lines(result.first)
    lines += _surroundings_lines(result)
    return "\n".join(lines)


def _stage_lines(outcome: StageOutcome) -> list[str]:
    lines = [f"{outcome.stage}: {outcome.error}"] if outcome.error else []
    for output in outcome.outputs:
        lines.append(f"{outcome.stage}: {output.path}  {output.verdict.words}" + f"  {output.detail}".rstrip())
    return lines


def _first_lines(first: StageOutcome) -> list[str]:
    lines = [f"first stage that diverged: {first.stage}; all it reads from other stages was bit-exact"]
    if first.error:
        return lines
    if first.changed:
        return [*lines, *(f"  since the results were made: {change}" for change in first.changed)]
    return [*lines, "  its code, params and data are those of dvc.lock"]


def _surroundings_lines(result: Result) -> list[str]:
    around = result.surroundings
    lines = []
    if around.differences:
        lines.append("environment, when the results were made and now:")
        lines += [f"  {key}: {old} -> {new}" for key, (old, new) in list(around.differences.items())[:SHOWN]]
        if len(around.differences) > SHOWN:
            lines.append(f"  and {len(around.differences) - SHOWN} more (--json names them)")
    elif result.first is not None and not around.unknown:
        lines.append("environment: the same as when the results were made")
    if around.unknown and result.first is not None:
        lines.append(
            f"environment: not recorded for {', '.join(around.unknown[:4])}" + " ..." * (len(around.unknown) > 4)
        )
    return lines


def result_json(result: Result) -> dict[str, Any]:
    """Return everything that a verification found."""
    first = result.first
    return {
        "verdict": result.verdict.words,
        "commit": result.commit,
        "targets": list(result.targets),
        "margin": result.margin,
        "first_diverged": first.stage if first else None,
        "stages": [_stage_json(outcome) for outcome in result.outcomes],
        "environment": {
            "differences": {key: list(pair) for key, pair in result.surroundings.differences.items()},
            "not_recorded": list(result.surroundings.unknown),
        },
        "not_looked_at": list(result.left_out),
    }


def _stage_json(outcome: StageOutcome) -> dict[str, Any]:
    return {
        "stage": outcome.stage,
        "verdict": outcome.verdict.words,
        "seconds": None if outcome.seconds is None else round(outcome.seconds, 1),
        "error": outcome.error or None,
        "changed": list(outcome.changed),
        "outputs": [asdict(output) | {"verdict": output.verdict.words} for output in outcome.outputs],
    }


def findings_text(findings: Sequence[Finding]) -> str:
    """Return one entry a finding, or one line that there is none."""
    if not findings:
        return "verify --quick: nothing found; code, params, dvc.lock, metrics and tables agree"
    lines = [f"{f.severity}: {f.where}: {f.text}\n    {f.remedy}" for f in findings]
    return "\n".join([*lines, f"verify --quick: {len(findings)} found"])


def findings_json(findings: Sequence[Finding]) -> dict[str, Any]:
    """Return the findings as they are."""
    return {"verdict": "findings" if findings else "passed", "findings": [asdict(finding) for finding in findings]}
