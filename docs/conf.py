"""Sphinx's settings for this site. `make docs` builds it, and every warning is an error."""

import re

import stgt_kernels

project = "stgt-kernels"
copyright = "the authors of stgt-kernels, Apache-2.0"
version = release = stgt_kernels.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
html_theme = "furo"
html_title = f"stgt-kernels {release}"

# Links such as data.md#images lead to headings of up to three levels, as they do in the repository's viewer.
myst_heading_anchors = 3
myst_enable_extensions = ["colon_fence"]

# Docstrings write code in single backticks in some packages and in double backticks in others.
default_role = "code"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_member_order = "bysource"
napoleon_google_docstring = True
# These types belong to projects whose indexes the build does not fetch, so that it needs no network.
nitpick_ignore_regex = [
    ("py:class", r"torch\..*|Tensor|nn\.Module|optional|pathlib\..*|collections\..*|contextlib\..*"),
    ("py:obj", r"torch\..*"),
]


def _fields(app, what, name, obj, options, lines):
    """Turns the lines "weight: …" and "live: …" of a class's docstring into a list of fields."""
    if name == "stgt_kernels.SpatioTemporalGraph":
        lines[:] = [re.sub(r"^(weight|live): +", r":\1: ", line) for line in lines]


def setup(app):
    app.connect("autodoc-process-docstring", _fields)
