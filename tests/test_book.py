"""The site's pages: links that lead out of it, figures in their places, pictures described."""

from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def book(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "tools")
    import book

    return book


def test_links_to_files_lead_to_the_repository(book):
    page = ROOT / "notebooks" / "03_cyclic_lr.ipynb"
    home = f"{book.repository()}/blob/main"
    for text, wanted in (
        ("[`a`](../examples/cyclic.py)", f"[`a`]({home}/examples/cyclic.py)"),
        ("[b](../README.md)", "[b](../README.md)"),
        ("[c](04_mixup.ipynb)", "[c](04_mixup.ipynb)"),
        ("[d](https://arxiv.org/abs/1)", "[d](https://arxiv.org/abs/1)"),
        ("[e](#here)", "[e](#here)"),
        ("[f](../fasttricks)", f"[f]({book.repository()}/tree/main/fasttricks)"),
    ):
        assert book.linked(text, page) == wanted


def test_every_figure_that_moves_has_its_place(book):
    drawn = (ROOT / "book" / "figures.py").read_text(encoding="utf-8")
    for chapter, (name, heading, told) in book.FIGURES.items():
        notebook = nbformat.read(ROOT / "notebooks" / f"{chapter}.ipynb", as_version=4)
        texts = [cell.source for cell in notebook.cells if cell.cell_type == "markdown"]
        (home,) = [text for text in texts if f"{heading}\n" in text]
        placed = book.with_figure(home, chapter)
        assert placed.index("<iframe") < placed.index(f"{heading}\n")
        assert f'title="A figure that moves. {told}"' in placed
        assert f"def {name}()" in drawn


def test_pictures_are_described_by_what_is_said_of_them(book):
    picture = nbformat.v4.new_output("display_data", {"image/png": "", "text/plain": ""})
    said = nbformat.v4.new_output("display_data", {"text/markdown": "It fell by **3 points**."})
    cells = [
        nbformat.v4.new_markdown_cell("Long.\n\nThe [loss](x.md) over `time`:"),
        nbformat.v4.new_code_cell("plot()", outputs=[picture]),
        nbformat.v4.new_code_cell("say()", outputs=[said]),
    ]
    book.describe(cells)
    assert cells[1].metadata["mystnb"]["image"]["alt"] == (
        "Figure. The loss over time: It fell by 3 points."
    )
    assert "mystnb" not in cells[2].metadata
