"""Each chapter's exercises judge rightly, and a broken trick turns the chapter red."""

import re
from importlib import import_module
from pathlib import Path

import jupytext
import nbformat
import pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

from fasttricks.course.exercises import judge

NOTEBOOKS = Path(__file__).resolve().parents[1] / "notebooks"
CHAPTERS = {path.stem: path for path in (Path(__file__).parent / "chapters").glob("[a-z]*.py")}
TWIN = {
    "baseline": "00_baseline",
    "distributed": "01_multi_gpu",
    "scaling": "02_lr_scaling_warmup",
    "cyclic": "03_cyclic_lr",
    "mixup": "04_mixup",
    "smoothing": "05_label_smoothing",
    "transfer": "06_transfer_learning",
    "precision": "07_mixed_precision",
    "capstone": "08_capstone",
}
QUESTIONS = [(chapter, number) for chapter in CHAPTERS for number in (1, 2, 3)]


def twin(chapter):
    return jupytext.read(NOTEBOOKS / f"{TWIN[chapter]}.py")


def solutions(notebook):
    """The folded solutions, in order."""
    text = "\n\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    return re.findall(r"<summary>Solution</summary>\s*```python\n(.*?)```", text, re.S)


def test_every_chapter_has_its_tests():
    assert {TWIN[name] for name in CHAPTERS} == {path.stem for path in NOTEBOOKS.glob("*.ipynb")}
    assert len(CHAPTERS) == 9


@pytest.mark.parametrize(("chapter", "number"), QUESTIONS)
def test_exercises(chapter, number):
    names = {}
    exec("import math\nimport numpy as np\nimport torch\nfrom torch import Tensor", names)
    known = set(names)
    found = solutions(twin(chapter))
    assert len(found) == 3
    exec(found[number - 1], names)
    made = [name for name in names if name not in known and name != "__builtins__"]
    assert judge(chapter, number, names[made[-1]]) == "solved"

    def stub(*args):
        raise NotImplementedError

    assert judge(chapter, number, stub) == "not solved yet"
    wrong = import_module(f"chapters.{chapter}").WRONG[number]
    verdicts = [judge(chapter, number, answer) for answer in wrong]
    assert len(verdicts) >= 2
    assert all(verdict.startswith("not yet: ") for verdict in verdicts)
    assert not [verdict for verdict in verdicts if "raised" in verdict], "a hint that helps"


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_a_broken_trick_turns_the_chapter_red(chapter):
    notebook = twin(chapter)
    broken = nbformat.v4.new_code_cell(import_module(f"chapters.{chapter}").SABOTAGE)
    notebook.cells.insert(0, broken)
    where = {"metadata": {"path": str(NOTEBOOKS)}}
    with pytest.raises(CellExecutionError, match="does not hold") as red:
        NotebookClient(notebook, timeout=300, kernel_name="python3", resources=where).execute()
    failed = [cell for cell in notebook.cells if cell.cell_type == "code" and any(
        out.output_type == "error" for out in cell.outputs)]  # fmt: skip
    assert "nbval-check-output" in failed[0].metadata.tags, red.value
