"""Downloads through torchvision, which checks what it fetches."""

from collections.abc import Callable
from pathlib import Path

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
