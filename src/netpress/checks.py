"""What can be said of params.yaml and of what it names on disk before any work, as `check` and `doctor` say it."""

from functools import partial
from pathlib import Path

from netpress.base import params_file
from netpress.config import IMAGENET, Data, Params, Train
from netpress.graph import Faults, checked, collect
from netpress.reader import check_init, models_named, require_root


def check_project(root: Path) -> Params:
    """Validate the whole of params.yaml, and look for the data and the files of weights that it names.

    Raises:
        ConfigError: a line for every fault, with its place in the file.
    """
    document = params_file.read(root / "params.yaml")
    faults: Faults = []
    params: Params | None = collect(faults, lambda: checked(document))
    data = params.data if params else collect([], lambda: document.section(Data, "data"))
    if data:
        collect(faults, lambda: require_root(root, data.root))
    for key in (name.replace("/", ".") for name in models_named(document)[0] if name.startswith("train/")):
        item = collect([], partial(document.section, Train, key))
        if item and item.init != IMAGENET:
            collect(faults, partial(check_init, root, item, key))
    if params is None or faults:
        raise document.error(faults)
    return params
