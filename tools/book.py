"""Build the site from the chapters as they are committed: `make book`.

What is built lies in build/book/html and needs no server and no network: open index.html.
"""

import os
import re
import shutil
import sys
import tomllib
from pathlib import Path

import nbformat

ROOT = Path(__file__).resolve().parents[1]
SOURCE, OUT = ROOT / "build" / "book" / "source", ROOT / "build" / "book" / "html"
PAGES = ("README.md", "RESULTS.md", "CONTRIBUTING.md", "examples/README.md")
HEIGHT = 460  # pixels of a figure that moves

# By chapter: the function in book/figures.py, the heading that it stands before, what it shows.
FIGURES = {
    "03_cyclic_lr": (
        "schedule",
        "## Check it",
        "Move the sliders. A higher peak lifts the whole curve; a longer rise moves its top to the "
        "right. The momentum is always lowest where the rate is highest.",
    ),
    "04_mixup": (
        "mixup",
        "## Write it",
        "Move the slider. The boot fades into the T-shirt, and the target with it.",
    ),
    "05_label_smoothing": (
        "smoothing",
        "## By hand: images that look alike",
        "Move the slider. Without smoothing the loss falls for ever, so the logit grows for ever. "
        "With smoothing it has a lowest point (dashed), which comes nearer as epsilon grows.",
    ),
    "07_mixed_precision": (
        "scale",
        "## Write it",
        "Move the slider. Below zero the loss is small, and fp16 loses the smallest gradients. A "
        "larger scale moves all gradients to the right, until the largest ones overflow.",
    ),
}


def repository() -> str:
    """Where the course lives."""
    told = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    return told["project"]["urls"]["repository"]


def linked(text: str, page: Path) -> str:
    """The text with links to files that are no pages turned into links to the repository."""

    def turned(found: re.Match) -> str:
        label, target = found[1], found[2]
        if re.match(r"[a-z]+:|#", target):
            return found[0]
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve()
        inside = file.relative_to(ROOT).as_posix()
        if inside in PAGES or re.fullmatch(r"notebooks/\d\w+\.ipynb", inside):
            return found[0]
        if file.suffix == ".png":
            return found[0]
        kind = "tree" if file.is_dir() else "blob"
        where = f"{repository()}/{kind}/main/{inside}" + (f"#{anchor}" if anchor else "")
        return f"[{label}]({where})"

    return re.sub(r"\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s]+)\)", turned, text)


def with_figure(text: str, chapter: str) -> str:
    """A chapter's text with its figure that moves before the heading that it belongs to."""
    _, heading, told = FIGURES[chapter]
    frame = (
        f'<iframe class="moving" src="../_static/figures/{chapter}.html" height="{HEIGHT}" '
        f'title="A figure that moves. {told}"></iframe>'
    )
    return text.replace(f"{heading}\n", f"{told}\n\n{frame}\n\n{heading}\n", 1)


def describe(cells: list[nbformat.NotebookNode]) -> None:
    """Give every picture a description: what announced it, and what was said of it afterwards."""
    for number, cell in enumerate(cells):
        if cell.cell_type != "code" or not any(
            "image/png" in o.get("data", {}) for o in cell.outputs
        ):
            continue
        before = next((c.source for c in cells[number - 1 :: -1] if c.cell_type == "markdown"), "")
        after = [
            out["data"]["text/markdown"]
            for out in (cells[number + 1].get("outputs", ()) if number + 1 < len(cells) else ())
            if "text/markdown" in out.get("data", {})
        ]
        said = " ".join([before.strip().split("\n\n")[-1], *after])
        plain = re.sub(r"[*`#|]|\]\([^)]*\)|\[", "", " ".join(said.split()))
        cell.metadata["mystnb"] = {"image": {"alt": f"Figure. {plain}"}}


def prepare() -> None:
    """Copy chapters and pages, their links mended, and draw the figures."""
    shutil.rmtree(SOURCE.parent, ignore_errors=True)
    shutil.copytree(ROOT / "book", SOURCE, ignore=shutil.ignore_patterns("*.py", "__pycache__"))
    shutil.copy(ROOT / "book" / "conf.py", SOURCE)
    for name in PAGES:
        text = linked((ROOT / name).read_text(encoding="utf-8"), ROOT / name)
        (SOURCE / name).parent.mkdir(exist_ok=True)
        (SOURCE / name).write_text(text, encoding="utf-8")
        for picture in re.findall(r"!\[[^\]]*\]\(([^)]+\.png)\)", text):
            (SOURCE / name).parent.joinpath(picture).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy((ROOT / name).parent / picture, (SOURCE / name).parent / picture)
    (SOURCE / "notebooks").mkdir(exist_ok=True)
    for path in sorted((ROOT / "notebooks").glob("[0-9]*.ipynb")):
        notebook = nbformat.read(path, as_version=4)
        placed = path.stem not in FIGURES
        for cell in notebook.cells:
            if cell.cell_type == "markdown":
                cell.source = linked(cell.source, path)
                if not placed and f"{FIGURES[path.stem][1]}\n" in cell.source:
                    cell.source, placed = with_figure(cell.source, path.stem), True
        if not placed:
            raise ValueError(f"{path} has no heading {FIGURES[path.stem][1]!r} for its figure.")
        describe(notebook.cells)
        for cell in notebook.cells:
            if cell.metadata.get("jupyter", {}).get("source_hidden"):
                cell.metadata["tags"] = [*cell.metadata.get("tags", ()), "hide-input"]
        nbformat.write(notebook, SOURCE / "notebooks" / path.name)
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # one short run: no reason to fight over cores
    sys.path.insert(0, str(ROOT / "book"))
    from figures import write

    write(SOURCE / "_static" / "figures", {name: place[0] for name, place in FIGURES.items()})


def build() -> int:
    """Run Sphinx; a warning is an error."""
    from sphinx.cmd.build import main as sphinx

    prepare()
    status = sphinx(["-q", "-W", "--keep-going", "-b", "html", str(SOURCE), str(OUT)])
    if status == 0:
        print(f"The site is in {OUT}; open {OUT / 'index.html'}.")
    return status


if __name__ == "__main__":
    sys.exit(build())
