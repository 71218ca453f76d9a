"""Put the capstone's table and figure into the README, as the committed notebook shows them."""

import re
from pathlib import Path

import nbformat
from execute import ROOT, pictures, texts

FIGURE = ROOT / "notebooks" / "images" / "capstone.png"
BLOCK = re.compile(r"(<!-- capstone:.*?-->\n).*?(<!-- /capstone -->)", re.S)


def block(notebook: nbformat.NotebookNode) -> str:
    """The README's part between the two marks."""
    table = "\n".join(text.rstrip("\n") for text in texts(notebook, "result"))
    indented = "\n".join(f"    {line}".rstrip() for line in table.splitlines())
    return f"\n![validation accuracy against seconds]({FIGURE.relative_to(ROOT)})\n\n{indented}\n\n"


def figure(notebook: nbformat.NotebookNode) -> bytes:
    """The figure of the cell tagged `figure`, PNG."""
    tagged = [cell for cell in notebook.cells if "figure" in cell.metadata.get("tags", ())]
    return pictures(nbformat.v4.new_notebook(cells=tagged))[0]


def main(readme: Path = ROOT / "README.md") -> None:
    """Rewrite the README's block and the figure's file."""
    notebook = nbformat.read(ROOT / "notebooks" / "08_capstone.ipynb", as_version=4)
    FIGURE.parent.mkdir(exist_ok=True)
    FIGURE.write_bytes(figure(notebook))
    made = block(notebook)
    readme.write_text(BLOCK.sub(lambda marks: marks[1] + made + marks[2], readme.read_text()))


if __name__ == "__main__":
    main()
