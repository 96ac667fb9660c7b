"""Sphinx's settings. `sphinx-build -W --keep-going -n docs docs/_build` renders the pages."""

import inspect
import pathlib
import sys
import tomllib

ROOT = pathlib.Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "docs")]  # noah_jax, tests.helpers.rooms; pages, drawings

import noah_jax  # noqa: E402

project = "noah_jax"
author = copyright = "The noah_jax authors"
release = version = noah_jax.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "pages"]
exclude_patterns = ["_build"]
myst_heading_anchors = 4  # so that links to headings, as GitHub makes them, are checked
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
python_use_unqualified_type_names = True
default_role = "code"  # the docstrings have single backticks
smartquotes_action = "D"  # dashes alone: quotes stay as they are in commands
# Names of other projects are no links: the pages are made without the network.
# `Execution`, which users do not set, is on no page.
nitpick_ignore_regex = [("py:.*", r"(?!noah_jax\.).*|noah_jax\.vit\.execution\.Execution")]

html_theme = "furo"
html_title = f"noah_jax {release}"
html_copy_source = html_show_sourcelink = False
html_static_path = ["static"]
html_css_files = ["wide.css"]

# `[project.urls] Repository` in pyproject.toml, once there is one: links to files then go there.
_PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
repository = _PROJECT.get("urls", {}).get("Repository", "").removesuffix("/")
if repository:
    html_theme_options = {
        "source_repository": repository,
        "source_branch": "main",
        "source_directory": "docs/",
    }


def _as_written(app, what, name, obj, options, lines):
    """Undoes what napoleon makes of a property: it takes the words before a colon for a type."""
    if what == "property":
        lines[:] = inspect.getdoc(obj).splitlines()


def setup(app):
    app.connect("autodoc-process-docstring", _as_written, priority=900)
