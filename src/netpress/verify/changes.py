"""What changed in the results between two revisions, as Markdown: claims, accuracies with intervals, sizes."""

import json
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from netpress.base.errors import NetpressError
from netpress.process.commands import execute, git
from netpress.report import units
from netpress.report.crossed import CONFIDENCE, holm
from netpress.report.markdown import table
from netpress.verify.equivalence import MARGIN, Again, again, same

SUMMARY, CLAIMS, DATA = "metrics/summary.json", "metrics/claims.json", "metrics/data.json"
#: A model's metrics, and its id: not those of the test split.
MODEL = re.compile(r"metrics/((?!test/)[^/]+/.+)\.json")
#: What is shown of the sizes of a model, and in which unit.
SIZES: dict[str, Callable[[float], str]] = {"params": units.short_count, "onnx_bytes": units.size}
#: Lines of DVC's table: GitHub takes comments of 65,536 characters.
LINES = 200
METHOD = f"""\
The difference is that of the accuracies on validation, image by image over the seeds, with its {100 * CONFIDENCE:g} %
interval (the crossed test; with one seed it speaks of these two networks alone). *Better* and *worse* are what stays
when all models of the table are judged together (Holm). *Equivalent*: the 90 % interval lies within
+-{100 * MARGIN:g} points.
"""
UNPAIRED = "\n\\* Not recorded on both sides which images are right: the interval is that of two samples of images.\n"


@dataclass(frozen=True)
class Revision:
    """The metrics of one commit.

    Attributes:
        models: model id -> its metrics file.
        claims: what metrics/claims.json says.
        images: of the validation split; None where it is not recorded.
    """

    models: Mapping[str, Mapping[str, Any]]
    claims: Mapping[str, Any]
    images: int | None


def read_revision(root: Path, revision: str) -> Revision:
    """Read the metrics that a commit holds; what it does not hold is empty.

    Raises:
        NetpressError: there is no such commit, or one of its metrics files is no JSON object; names revision and file.
    """
    try:
        git(root, "rev-parse", "--verify", "--quiet", f"{revision}^{{commit}}")
    except NetpressError:
        raise NetpressError(
            f"Git knows no commit '{revision}' here; name a commit, branch or tag, and fetch it first if need be"
        ) from None
    names = git(root, "ls-tree", "-r", "--name-only", "-z", revision, "--", "metrics").split("\0")
    found = {name: _read(root, revision, name) for name in names if name in (CLAIMS, DATA) or MODEL.fullmatch(name)}
    models = {match[1]: value for name, value in found.items() if (match := MODEL.fullmatch(name))}
    return Revision(models, found.get(CLAIMS, {}), found.get(DATA, {}).get("val_images"))


def _read(root: Path, revision: str, name: str) -> dict[str, Any]:
    try:
        value = json.loads(git(root, "show", f"{revision}:{name}"))
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise NetpressError(f"{name} of {revision} is no JSON object; name another commit, or restore the file there")
    return value


def changes(root: Path, base: str, head: str) -> str:
    """Return as Markdown what changed in the results from commit `base` to commit `head`.

    Raises:
        NetpressError: there is no such commit, one of its metrics files is damaged, or DVC fails.
    """
    text = compare(read_revision(root, base), read_revision(root, head))
    dvc = [sys.executable, "-m", "dvc", "metrics", "diff", "--md", base, head, "--targets", SUMMARY]
    lines = [line.rstrip() for line in execute(root, dvc).splitlines() if line.strip()]
    if len(lines) < 3:  # its header alone
        return text
    left = [f"\nand {len(lines) - LINES} more lines"] if len(lines) > LINES else []
    folded = ["<details><summary>dvc metrics diff</summary>\n", *lines[:LINES], *left, "\n</details>\n"]
    return "\n".join([text, *folded])


def compare(old: Revision, new: Revision) -> str:
    """Return as Markdown how claims and models differ between two revisions."""
    parts = [_claims(old.claims, new.claims), _models(old, new)]
    return "\n".join(part for part in parts if part) or "The results are the same.\n"


def _claims(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """Return each claim and what it compares, before and now; '' where neither revision has one."""
    rows = []
    for name in {**new, **old}:
        was, now = (claims.get(name, {}) for claims in (old, new))
        verdicts = [claim.get("verdict", "-") for claim in (was, now)]
        rows.append([name, *verdicts, "" if verdicts[0] == verdicts[1] else "changed"])
        compared = {key: None for claim in (now, was) for key in claim if key != "verdict"}
        rows += [["", _interval(was.get(key)), _interval(now.get(key)), key] for key in compared]
    header = ["Claim", "Before", "Now", "Compared (points, 95 % interval)"]
    return table(header, rows, left=1, last_left=True) if rows else ""


def _interval(comparison: Any) -> str:
    """Return a difference of metrics/claims.json in points, with its interval where it has one."""
    if not isinstance(comparison, Mapping) or "difference" not in comparison:
        return "-"
    ends = [units.points(comparison[key]) for key in ("low", "high") if key in comparison]
    return units.points(comparison["difference"]) + (f" ({' to '.join(ends)})" if len(ends) == 2 else "")


def _models(old: Revision, new: Revision) -> str:
    """Return the models of which an accuracy or a size changed, and how many did not; '' where there is none."""
    rows, unpaired, equal = [], False, 0
    images = old.images or new.images
    known = {name: _found(old.models[name], new.models[name], images) for name in old.models.keys() & new.models}
    changed = {n: f for n, f in known.items() if not same(old.models[n], new.models[n], "val_acc")}
    real = holm({name: found.crossed.p_value() for name, found in changed.items() if found and found.crossed})
    for name in {**new.models, **old.models}:
        was, now = old.models.get(name), new.models.get(name)
        if was is None or now is None:
            rows.append([name, *_alone(was or now or {}, gone=now is None)])
        elif same(was, now, "val_acc") and all(was.get(key) == now.get(key) for key in SIZES):
            equal += 1
        else:
            row, alone = _both(was, now, known[name], name in real)
            rows.append([name, *row])
            unpaired = unpaired or alone
    count = f"Models as they were: {equal}.\n" if equal else ""
    if not rows:
        return count
    header = ["Model", "Val acc (%)", "Difference (points)", "Verdict", "Params", "ONNX"]
    return f"{table(header, rows)}\n{count}\n{METHOD}{UNPAIRED if unpaired else ''}"


def _alone(metrics: Mapping[str, Any], gone: bool) -> list[str]:
    sizes = [unit(metrics[key]) if key in metrics else "-" for key, unit in SIZES.items()]
    return [_percent(metrics), "-", "gone" if gone else "new", *sizes]


def _on_other_images(was: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    hashes = [metrics.get("val_images_sha256") for metrics in (was, now)]
    return None not in hashes and hashes[0] != hashes[1]


def _found(was: Mapping[str, Any], now: Mapping[str, Any], images: int | None) -> Again | None:
    """Return how a model's two accuracies compare; None where they are of other images."""
    if _on_other_images(was, now):
        return None
    return again(was, now, "val_acc", now.get("val_images") or was.get("val_images") or images)


def _both(was: Mapping[str, Any], now: Mapping[str, Any], found: Again | None, is_real: bool) -> tuple[list[str], bool]:
    """Return the cells of a model that both revisions have, and whether the interval is not image by image."""
    other = _on_other_images(was, now)
    verdict = "measured on other images" if other else verdict_on(found, is_real)
    unpaired = found is not None and found.crossed is not None and found.agree is None
    difference = "-" if found is None else units.points(found.now - found.was)
    if found is not None and found.crossed is not None:
        interval = units.interval(found.crossed.difference, found.crossed.half_width())
        difference = f"{difference} ({interval})" + (" \\*" if unpaired else "")
    sizes = [_change(was.get(key), now.get(key), unit) for key, unit in SIZES.items()]
    accuracy = _arrow(_percent(was), _percent(now))
    return [accuracy, difference, verdict, *sizes], unpaired


def verdict_on(found: Again | None, is_real: bool) -> str:
    """Say in a word what a difference tells; `is_real` is Holm's answer."""
    if found is None or found.crossed is None:
        return "cannot tell"
    if is_real:
        return "better" if found.crossed.difference > 0 else "worse"
    return "equivalent" if found.equivalent(MARGIN) else "cannot tell"


def _percent(metrics: Mapping[str, Any]) -> str:
    accuracy = metrics.get("val_acc")
    return units.percent(accuracy) if isinstance(accuracy, int | float) else "-"


def _change(was: Any, now: Any, unit: Callable[[float], str]) -> str:
    """Return a size before and now, with the change in percent; one value where they read alike."""
    words = _arrow(*("-" if size is None else unit(size) for size in (was, now)))
    return f"{words} ({100 * (now - was) / was:+.1f} %)" if "→" in words and was and now else words


def _arrow(was: str, now: str) -> str:
    return was if was == now else f"{was} → {now}"
