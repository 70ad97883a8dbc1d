"""Downloads through torchvision, which checks what it fetches."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from netpress.base.errors import DataError

#: The value of data.root that asks for a download.
NOTHING = "data/none"
DOWNLOADS = "data/downloads"


def downloaded(root: str, place: Path, download: Callable[[Path], Path]) -> Path:
    """Return `place`, or for `data/none` what `download` has fetched into the downloads folder.

    Raises:
        DataError: the download failed.
    """
    if root != NOTHING:
        return place
    try:
        return download(place.parent.parent / DOWNLOADS)
    except (OSError, RuntimeError) as error:
        raise DataError(
            f"data.root is {NOTHING}, and the download to {DOWNLOADS} failed ({error}); connect to the internet, "
            "or put the files into a folder and name it in data.root"
        ) from None


def download_archive(dataset: Any, target: Path) -> Path:
    """Fetch the archive of a torchvision dataset class into `target` unless it is there; return its path.

    Not through the constructor, which would unpack and unpickle it.
    """
    from torchvision.datasets.utils import download_url

    download_url(dataset.url, target, dataset.filename, dataset.tgz_md5)
    return target / dataset.filename
