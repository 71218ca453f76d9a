"""Execute notebooks from their .py twins, showing what they print while they run.

usage: execute.py [--in-place] NAME ...       (NAME: 08_capstone)

Without --in-place, the executed notebook and its figures go to build/, and what the cells tagged
`result` printed is shown once more at the end. With it, the notebook in notebooks/ is replaced.
"""

import argparse
import ast
import base64
import sys
import time
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient

ROOT = Path(__file__).resolve().parents[1]
FOLD = "fold"  # the tag of a cell that measures or draws, whose code teaches nothing
EVERY = 10  # seconds between two lines of progress where lines cannot be overwritten


class Shown(NotebookClient):
    """A client that shows a notebook's text on the terminal as it comes."""

    pending = ""  # a line of progress that the next one may overwrite
    shown = ""
    last = 0.0

    def process_message(self, msg: dict, cell: nbformat.NotebookNode, cell_index: int) -> object:
        """Show the text of a message, then do what nbclient does."""
        content = msg["content"]
        text = content.get("data", {}).get("text/plain", "")
        if msg["msg_type"] == "stream":
            self.line(content["text"].rstrip("\n"))
        elif msg["msg_type"] == "update_display_data":
            self.progress(text)
        elif (
            msg["msg_type"] in ("display_data", "execute_result")
            and "image/png" not in content["data"]
        ):
            self.line(text)
        elif msg["msg_type"] == "status" and content["execution_state"] == "idle":
            self.line("")
        return super().process_message(msg, cell, cell_index)

    def progress(self, text: str) -> None:
        """Overwrite the line of progress; without a terminal, write one now and then."""
        self.pending = text
        if sys.stdout.isatty():
            print(f"\r\x1b[K{text}", end="", flush=True)
        elif time.monotonic() - self.last > EVERY:
            self.last, self.shown = time.monotonic(), text
            print(text, flush=True)

    def line(self, text: str) -> None:
        """Finish the line of progress, then write a line that stays."""
        if self.pending and sys.stdout.isatty():
            print(f"\r\x1b[K{self.pending}", flush=True)
        elif self.pending not in ("", self.shown):
            print(self.pending, flush=True)
        self.pending = ""
        if text.strip():
            print(text, flush=True)


LESSON = {"train", "train_arms", "plot", "show", "plt", "bars", "fit", "holds", "table"}


def only_says(source: str) -> bool:
    """Whether a cell only makes sentences, which are what a reader wants to see of it."""
    nodes = list(ast.walk(ast.parse(source)))
    names = {node.id for node in nodes if isinstance(node, ast.Name)}
    taught = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.ClassDef)
    return "say" in names and not names & LESSON and not any(isinstance(n, taught) for n in nodes)


def names(source: str, context: type) -> set[str]:
    """The names that a cell gives a value, or reads."""
    nodes = ast.walk(ast.parse(source))
    return {n.id for n in nodes if isinstance(n, ast.Name) and isinstance(n.ctx, context)}


def folded(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    """The cells tagged `fold`, and those that only make sentences and give no name read later."""
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    tagged = [cell for cell in cells if FOLD in cell.metadata.get("tags", ())]
    hidden = [cell for cell in cells if cell not in tagged and only_says(cell.source)]
    while True:
        read, kept = set(), []
        for cell in reversed(cells):
            if cell in hidden and not names(cell.source, ast.Store) & read:
                kept.append(cell)
            else:
                read |= names(cell.source, ast.Load)
        if len(kept) == len(hidden):
            return kept + tagged
        hidden = kept


def execute(name: str) -> nbformat.NotebookNode:
    """The notebook, run from top to bottom; an error in a cell is raised."""
    notebook = jupytext.read(ROOT / "notebooks" / f"{name}.py")
    for number, cell in enumerate(notebook.cells):
        cell["id"] = f"cell-{number:02}"
    where = {"metadata": {"path": str(ROOT / "notebooks")}}
    Shown(
        notebook, timeout=None, kernel_name="python3", record_timing=False, resources=where
    ).execute()
    for cell in folded(notebook):
        cell.metadata["jupyter"] = {"source_hidden": True}  # JupyterLab folds it
    kept = {"kernelspec", "accelerator", "jupytext"}
    notebook["metadata"] = {k: v for k, v in notebook.metadata.items() if k in kept}
    return notebook


def pictures(notebook: nbformat.NotebookNode) -> list[bytes]:
    """The figures of a notebook, PNG."""
    outputs = [out for cell in notebook.cells for out in cell.get("outputs", ())]
    found = [out.get("data", {}).get("image/png") for out in outputs]
    return [base64.b64decode(picture) for picture in found if picture]


def texts(notebook: nbformat.NotebookNode, tag: str) -> list[str]:
    """What the cells with a tag printed or showed."""
    cells = [cell for cell in notebook.cells if tag in cell.metadata.get("tags", ())]
    outputs = [out for cell in cells for out in cell.outputs]
    return [out.get("text") or out.get("data", {}).get("text/plain", "") for out in outputs]


def main() -> None:
    """Execute what was asked for."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--in-place", action="store_true")
    options.add_argument("names", nargs="+", metavar="NAME")
    asked = options.parse_args()
    for name in asked.names:
        print(f"Running {name}", flush=True)
        notebook = execute(name)
        folder = ROOT / ("notebooks" if asked.in_place else "build")
        folder.mkdir(exist_ok=True)
        nbformat.write(notebook, folder / f"{name}.ipynb")
        if asked.in_place:
            continue
        print("\n" + "\n".join(texts(notebook, "result")))
        print(f"Executed notebook: {folder / name}.ipynb")
        for number, picture in enumerate(pictures(notebook), 1):
            file = folder / f"{name}-{number}.png"
            file.write_bytes(picture)
            print(f"Figure: {file}")


if __name__ == "__main__":
    main()
