"""The site: chapters with their committed outputs, results, and figures that move."""

import tomllib
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = next(folder for folder in HERE.parents if (folder / "pyproject.toml").exists())
PACKAGE = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
REPOSITORY = PACKAGE["urls"]["repository"]

project = "Fast Tricks"
author = "the authors of Fast Tricks"
copyright = "the authors of Fast Tricks; MIT licence"
extensions = ["myst_nb"]
nb_execution_mode = "off"  # the outputs are those of a real run, on a quiet machine
nb_render_markdown_format = "myst"  # cards are tables
myst_enable_extensions = ["dollarmath"]
suppress_warnings = ["mystnb.unknown_mime_type"]
html_theme = "sphinx_book_theme"
html_title = "Fast Tricks"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_theme_options = {
    "repository_url": REPOSITORY,
    "repository_branch": "main",
    "path_to_docs": "",
    "use_repository_button": True,
    "use_download_button": False,
    "launch_buttons": {"colab_url": "https://colab.research.google.com"},
    "show_toc_level": 2,
}
html_context = {"default_mode": "auto"}
html_show_sourcelink = False


def render_math(self: object, node: object) -> None:
    """Formulas as MathML, which browsers draw by themselves and screen readers read."""
    from docutils.nodes import SkipNode
    from latex2mathml.converter import convert

    display = "block" if node.tagname == "math_block" else "inline"
    self.body.append(convert(node.astext(), display=display))
    raise SkipNode


def setup(app: object) -> None:
    """Register the renderer."""
    app.add_html_math_renderer("mathml", (render_math, None), (render_math, None))


html_math_renderer = "mathml"
