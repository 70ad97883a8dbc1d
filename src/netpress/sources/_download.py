"""Downloads through torchvision, which checks what it fetches."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from netpress.base.errors import DataError

#: The value of data.root that asks for a download.
NOTHING = "data/none"
DOWNLOADS = "data/downloads"


def folder_of(root: str, folder: Path, download: Callable[[Path], None]) -> Path:
    """Return `folder`, or for `data/none` the downloads folder, filled by `download` unless it was before.

    Raises:
        DataError: the download failed.
    """
    if root != NOTHING:
        return folder
    target = folder.parent.parent / DOWNLOADS
    try:
        download(target)
    except (OSError, RuntimeError) as error:
        raise DataError(
            f"data.root is {NOTHING}, and the download to {DOWNLOADS} failed ({error}); connect to the internet, "
            "or put the files into a folder and name it in data.root"
        ) from None
    return target


def download_archive(dataset: Any, target: Path) -> None:
    """Fetch and unpack the archive of a torchvision dataset class into `target`, unless its folder is there.

    Not through the constructor, which unpickles what it has fetched. Unpacks aside and renames, so that a
    folder that is there is whole.
    """
    from torchvision.datasets.utils import download_and_extract_archive

    if (target / dataset.base_folder).is_dir():
        return
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".unpack-", dir=target) as aside:
        download_and_extract_archive(
            dataset.url, target, extract_root=aside, filename=dataset.filename, md5=dataset.tgz_md5
        )
        (Path(aside) / dataset.base_folder).rename(target / dataset.base_folder)
