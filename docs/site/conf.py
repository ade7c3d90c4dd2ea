# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""How Sphinx makes the site. Its source is the repository: links hold there as in its files."""

from __future__ import annotations

import sys
from importlib.metadata import version as _version
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(HERE))

project = "attnpatch"
author = "The attnpatch authors"
copyright = "2026, The attnpatch authors"
release = version = _version("attnpatch")

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
    "navigation",
    "public_names",
    "notebooks",
    "local_only",
    "sources",
    "dead_links",
]

root_doc = "README"
include_patterns = [
    "*.md",
    "comfyui/README.md",
    "notebooks/README.md",
    "notebooks/*.ipynb",
    "docs/*.md",
    "docs/**/*.md",
]
exclude_patterns = [
    path.name
    for path in ROOT.iterdir()
    if path.is_dir() and path.name not in ("comfyui", "docs", "notebooks")
] + ["docs/site"]

myst_heading_anchors = 4
# Examples leave out what a reader has: "f(…)".
suppress_warnings = ["misc.highlighting_failure"]

default_role = "name"
napoleon_google_docstring = False
# Types are words there ("list of pictures"), and would be taken for names.
napoleon_use_param = False
napoleon_use_rtype = False
autodoc_typehints_format = "short"
autodoc_member_order = "bysource"
add_module_names = False
python_maximum_signature_line_length = 80
toc_object_entries_show_parents = "hide"

html_theme = "furo"
html_title = f"attnpatch {version}"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_show_sphinx = False
html_copy_source = False
html_theme_options = {"top_of_page_buttons": []}
