"""Put the capstone's table and the findings of studies into the README."""

import re
from pathlib import Path

import nbformat
from execute import ROOT, pictures, texts

from fasttricks.bench import target_of
from fasttricks.findings import findings, hardware_of, missing, studies, summary, tables

FIGURE = ROOT / "notebooks" / "images" / "capstone.png"
RESULTS = ROOT / "data" / "results"


def capstone(notebook: nbformat.NotebookNode) -> str:
    """The README's part between the marks of the capstone."""
    table = "\n".join(text.rstrip("\n") for text in texts(notebook, "result"))
    indented = "\n".join(f"    {line}".rstrip() for line in table.splitlines())
    return f"\n![validation accuracy against seconds]({FIGURE.relative_to(ROOT)})\n\n{indented}\n\n"


def study(results: Path = RESULTS) -> str:
    """The README's part between the marks of the study: a figure and tables for each study."""
    parts = []
    for name, (declared, found) in studies(results).items():
        where = results.relative_to(ROOT)
        runs, rows = sum(map(len, found.values())), findings(declared, found)
        parts += [
            f"On {hardware_of(found)}, {runs} runs, {declared.seeds} paired seeds. The target, a "
            f"validation accuracy of {target_of(declared, found)}, is the median of "
            f"{declared.target_seeds} seeds of tuned plain training. "
            f"[All runs]({where}/{name}.md).",
            *missing(declared, found),
            summary(rows),
            f"![what each trick is worth]({where}/{name}.png)",
            *tables(rows),
        ]
    return "\n" + "\n\n".join(parts) + "\n\n"


def figure(notebook: nbformat.NotebookNode) -> bytes:
    """The figure of the cell tagged `figure`, PNG."""
    tagged = [cell for cell in notebook.cells if "figure" in cell.metadata.get("tags", ())]
    return pictures(nbformat.v4.new_notebook(cells=tagged))[0]


def put(text: str, name: str, made: str) -> str:
    """The text with what is made between the two marks of that name."""
    block = re.compile(rf"(<!-- {name}:.*?-->\n).*?(<!-- /{name} -->)", re.S)
    return block.sub(lambda marks: marks[1] + made + marks[2], text)


def main(readme: Path = ROOT / "README.md") -> None:
    """Rewrite the README's blocks and the figure's file."""
    notebook = nbformat.read(ROOT / "notebooks" / "08_capstone.ipynb", as_version=4)
    FIGURE.parent.mkdir(exist_ok=True)
    FIGURE.write_bytes(figure(notebook))
    text = put(readme.read_text(), "capstone", capstone(notebook))
    readme.write_text(put(text, "study", study()))


if __name__ == "__main__":
    main()
