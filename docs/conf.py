"""Sphinx's settings: the source is the whole project, so that links from docs/ to README, metrics/ and plots/ hold."""

project = "netpress"
copyright = "the netpress developers"
root_doc = "docs/index"
include_patterns = ["README.md", "docs/**.md", "metrics/summary.md"]
extensions = ["myst_parser"]
myst_heading_anchors = 4
myst_enable_extensions = ["html_image"]
#: Blocks of shell and YAML whose lines no lexer of Pygments takes.
suppress_warnings = ["misc.highlighting_failure"]
html_theme = "furo"
html_title = "netpress"
html_extra_path = ["site"]  # index.html at the root
html_copy_source = False
