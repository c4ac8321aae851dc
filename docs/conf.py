"""The Sphinx configuration of this documentation; `make docs` builds it."""

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE / "_ext"), str(HERE.parent)]

project = "torchtune"
author = "the torchtune developers"
copyright = "the torchtune developers"  # noqa: A001 -- the name is Sphinx's

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "reference", "glossary_links"]
source_suffix = {".md": "markdown"}
exclude_patterns = ["_build"]
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
python_use_unqualified_type_names = True
autodoc_member_order = "bysource"
napoleon_google_docstring = True
napoleon_numpy_docstring = False

html_theme = "furo"
html_title = "torchtune"
html_show_sphinx = False
html_static_path = ["_static"]
html_css_files = ["wide.css"]
html_search_scorer = str(HERE / "_static/scorer.js")
html_theme_options = {"navigation_with_keys": True}
