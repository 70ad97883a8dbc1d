"""Vega, Vega-Lite and Vega-Embed as one script, from the package vl-convert-python, which holds them."""

import importlib.metadata
from functools import cache
from pathlib import Path

from netpress.base.files import write_text

#: Of Vega-Lite.
VERSION = "6.4"
#: Making the script takes more than a second, so it is kept; deleting it loses no more.
FOLDER = Path(".netpress/vega")


def script(root: Path) -> str:
    """Return the script, which defines `vegaEmbed` and may stand inside a script element."""
    path = root / FOLDER / f"{VERSION}-{importlib.metadata.version('vl-convert-python')}.js"
    if not path.is_file():
        write_text(path, _made())
    return path.read_text(encoding="utf-8")


@cache
def _made() -> str:
    import vl_convert

    text: str = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;", vl_version=VERSION)
    return text.replace("</script", "<\\/script")
