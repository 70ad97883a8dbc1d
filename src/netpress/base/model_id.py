"""Names of models."""

from netpress.base.project import MODEL_STAGES


def model_id(stage: str) -> str | None:
    """Return the model that a stage makes: `train@net` -> `train/net`, `prune` -> `prune/main`; else None."""
    section, _, variant = stage.partition("@")
    if section not in MODEL_STAGES:
        return None
    return f"{section}/{variant or 'main'}"
