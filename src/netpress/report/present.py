"""Which models can be told of together, where params.yaml or the data have changed since some of them were made."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from netpress.base.model_id import ModelId
from netpress.base.project import metrics_file
from netpress.core.metrics import Metrics, TestMetrics
from netpress.report.collect import Model, Study, other_parents, read_metrics


def present(
    root: Path, items: Mapping[str, Any], final: Sequence[str], val_images_sha256: str | None
) -> tuple[dict[str, Any], list[str]]:
    """Return the models whose metrics go with the present data and with one another, and the tests of these.

    Args:
        root: the project's folder.
        items: model id -> item of params.yaml, in the order of the graph; all have metrics.
        final: the model ids that are tested; of each the test may be missing, or be that of other weights.
        val_images_sha256: of the prepared validation images; None where they are not prepared, so that any are right.

    Raises:
        ArtifactError: a file is damaged; names file and remedy.
    """
    study = Study(())
    for model_id, item in items.items():
        measured = read_metrics(root, model_id, Metrics)
        model = Model(ModelId(model_id), item, measured.arch, measured.method, measured)
        if val_images_sha256 not in (None, measured.val_images_sha256):
            continue
        if all(parent.base in study.by_id for parent in model.parents.values()) and not other_parents(study, model):
            study = Study((*study.models, model))
    return {model.id: model.item for model in study.models}, [name for name in final if _is_tested(root, study, name)]


def _is_tested(root: Path, study: Study, name: str) -> bool:
    """Say whether the model `name` was tested with the weights that it has now."""
    if ModelId(name).base not in study.by_id or not metrics_file(root, f"test/{name}").is_file():
        return False
    return read_metrics(root, f"test/{name}", TestMetrics).weights_sha256 == study.measured(name).weights_sha256
