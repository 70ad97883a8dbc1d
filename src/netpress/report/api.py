"""The report for programs: two models of a project beside one another."""

from pathlib import Path

from netpress.base.model_id import CONTROL, ModelId
from netpress.base.project import find_root, metrics_file
from netpress.params import reader
from netpress.params.items import parents_of
from netpress.report.claims import Comparison, accuracy_of
from netpress.report.claims import compare as compared
from netpress.report.collect import collect
from netpress.report.differences import Differences


def compare(first: str, second: str, root: Path | str | None = None, margin: float | None = None) -> Comparison:
    """Compare the validation accuracies of two models, image by image and over their seeds.

    Args:
        first, second: model ids such as `train/net` or `prune/main/round_2`, or `prune/main/round_2/control`.
        root: a folder of the project; the current one by default.
        margin: largest difference that counts as equal, a fraction; None asks whether `second` is more accurate.

    Returns:
        The difference, second minus first, a fraction, with `low` and `high` of its 95 % interval (Hillis's crossed
        test), `n` seeds, `verdict`, and `would_decide`: how many seeds or images it would take.

    Raises:
        ArtifactError: a model is not made, or its metrics are damaged.
        ConfigError: params.yaml is not valid.
    """
    place = find_root(Path(root) if root is not None else None)
    items = reader.load(place / "params.yaml").items()
    wanted = [ModelId(name.removesuffix(CONTROL)).base for name in (first, second)]
    for name in wanted:  # a model's line is looked up with it
        wanted += [parent.base for parent in parents_of(items[name]).values()] if name in items else []
    study = collect(place, {n: item for n, item in items.items() if n in wanted and metrics_file(place, n).is_file()})
    pair = accuracy_of(study, first), accuracy_of(study, second)
    return compared(study, Differences(study, [pair]), first, second, margin)
