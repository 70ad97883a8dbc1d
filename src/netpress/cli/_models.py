"""Find the model that a user names by its id."""

import re
from pathlib import Path

from netpress.base.errors import ArtifactError, ConfigError
from netpress.base.model_id import PATTERN, ModelId
from netpress.base.words import near_or_known


def made(root: Path, name: str) -> ModelId:
    """Return the id `name`, of which the project at `root` has a model.

    Raises:
        ConfigError: it is no id, or that of no model in params.yaml.
        ArtifactError: its model is not made here.
    """
    from netpress.params import reader

    model = ModelId(name)
    is_id = re.fullmatch(PATTERN, name)
    if not is_id or not model.folder(root).is_dir():
        known = list(reader.load(root / "params.yaml").items())
        if not is_id or model.base not in known:
            raise ConfigError(f"no model '{name}'{near_or_known(name, known)}")
        raise ArtifactError(
            f"{name} is not made here; run 'dvc repro {model.stage}', or 'dvc pull' where it was pushed"
        )
    return model
