"""Put the capstone's table and the findings of studies into the README."""

import json
import re
from pathlib import Path

import nbformat
from execute import ROOT, pictures, texts

from fasttricks.study.findings import published, summary
from fasttricks.study.pages import tables

FIGURE = ROOT / "notebooks" / "images" / "capstone.png"
RESULTS = ROOT / "data" / "results"
BESIDE = """## Beside other libraries

The same model, split and target; each library put together as its own pages show, and tuned over as
many settings as plain training; see [`bench/peers`](bench/peers/README.md). The last three columns
say how many times as long as *whole* an arm takes; *never*, that it may not arrive. *whole* starts
from the letters weights, whose making is on no clock. All others start from nothing, *no transfer*
too, which is *whole* without them: compare the libraries with that row to leave those weights out,
and look at its images as well as its seconds, for the libraries use several of the tricks
themselves. *plain* and *plain_loop* are one recipe: they differ in how images are loaded, and in
the batch that tuning chose."""


def capstone(notebook: nbformat.NotebookNode) -> str:
    """The README's part between the marks of the capstone."""
    table, tested = ("".join(texts(notebook, tag)).rstrip("\n") for tag in ("result", "tested"))
    indented = "\n".join(f"    {line}".rstrip() for line in table.splitlines())
    return (
        f"\n![validation accuracy against seconds]({FIGURE.relative_to(ROOT).as_posix()})\n\n"
        f"{indented}\n\n"
        "The last run of all seven, judged by the 10,000 test images, which chose nothing: "
        f"{tested}.\n\n"
    )


def study(results: Path = RESULTS) -> str:
    """The README's part between the marks of the study: a figure and tables for each study."""
    parts = []
    where = results.relative_to(ROOT).as_posix()
    for found in published(results):
        parts += [
            f"On {found.hardware}, {found.runs} runs, {found.seeds} paired seeds. The target, a "
            f"validation accuracy of {found.target}, is the median of {found.target_seeds} seeds "
            f"of tuned plain training. [All runs]({where}/{found.study}.md).",
            *found.unfinished,
            summary(found.rows),
            f"![what each trick is worth]({where}/{found.study}.png)",
            *tables(found.rows),
        ]
    return "\n" + "\n\n".join(parts) + "\n\n"


def peers(results: Path = RESULTS) -> str:
    """The README's part between the marks of the peers: a table for each study that found some."""
    parts = []
    for file in sorted(results.glob("*/table.json")):
        found, page = json.loads(file.read_text(encoding="utf-8")), file.parent.with_suffix(".md")
        if found["table"]:
            parts += [
                f"To validation accuracy {found['target']}, {found['seeds']} paired seeds, on "
                f"{found['hardware']}. [All settings]({page.relative_to(ROOT).as_posix()}).",
                *found["unfinished"],
                found["table"],
            ]
    return "\n" + "\n\n".join([BESIDE, *parts]) + "\n\n" if parts else ""


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
    text = put(readme.read_text(encoding="utf-8"), "capstone", capstone(notebook))
    text = put(put(text, "study", study()), "peers", peers())
    readme.write_text(text, encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main()
