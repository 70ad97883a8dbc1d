"""`python -m netpress.report.page.plots`: the page in which `dvc plots` draws without a network."""

from pathlib import Path

from netpress.base.files import write_text
from netpress.base.project import find_root
from netpress.report.page import vega

#: Below .dvc, from where DVC finds it by `plots.html_template: plots/page.html`.
TEMPLATE = Path(".dvc/plots/page.html")
#: In braces what DVC fills in.
PAGE = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
{refresh_tag}
<title>netpress: plots</title>
<style>
body { margin: 1rem auto; max-width: 72rem; padding: 0 1rem; background: white; color: #1c1c1e; }
body { font: 1rem/1.5 system-ui, sans-serif; }
img { max-width: 100%; height: auto; }
.vega-embed { max-width: 100%; overflow-x: auto; }
table { border-spacing: 1rem; }
</style>
<script>
SCRIPT
</script>
</head>
<body>
{plot_divs}
</body>
</html>
"""


def write_template(root: Path) -> None:
    """Write the page below `root`."""
    write_text(root / TEMPLATE, PAGE.replace("SCRIPT", vega.script(root)))


if __name__ == "__main__":
    write_template(find_root())
