"""Notebooks are whole, clean and paired; nbval, as we run it, cannot be fooled."""

import json
import math
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import jupytext
import nbformat
import pytest

from fasttricks import BASELINE, SEVEN
from fasttricks.study.analysis import publish
from fasttricks.study.findings import RESULTS, headline, published
from fasttricks.study.pages import page, studies
from fasttricks.study.plan import read_study

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
CHECK = "nbval-check-output"


def test_there_are_notebooks():
    assert [path.stem for path in NOTEBOOKS] == [
        path.stem for path in sorted((ROOT / "notebooks").glob("[0-9]*.py"))
    ]
    assert NOTEBOOKS


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def notebook(request):
    return nbformat.read(request.param, as_version=4)


def code(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def test_run_once_from_top_to_bottom(notebook):
    cells = code(notebook)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    kinds = [out for cell in cells for out in cell.outputs]
    assert not [out for out in kinds if out.output_type == "error" or out.get("name") == "stderr"]
    assert "widgets" not in notebook.metadata
    assert notebook.metadata.kernelspec.name == "python3"
    assert notebook.metadata.accelerator == "GPU"


def test_something_is_checked_and_nothing_skipped(notebook):
    tags = [tag for cell in code(notebook) for tag in cell.metadata.get("tags", ())]
    assert CHECK in tags
    assert not [tag for tag in tags if "skip" in tag or "ignore" in tag]
    assert not re.search("NBVAL_(SKIP|IGNORE)", "".join(cell.source for cell in code(notebook)))


def test_no_line_that_can_fail_unseen(notebook):
    for cell in code(notebook):
        assert not re.search(r"^\s*[%!]", cell.source, re.M), cell.source
        for call in re.findall(r"subprocess\.run\([^\n]*", cell.source):
            assert "check=True" in call
        assert not re.search(r"import \*", cell.source)


def test_opens_with_its_title(notebook):
    titles = [line for cell in notebook.cells if cell.cell_type == "markdown"
              for line in cell.source.splitlines() if line.startswith("# ")]  # fmt: skip
    assert len(titles) == 1
    assert notebook.cells[0].source.startswith(titles[0])


REPOSITORY = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"][
    "urls"
]["repository"]


def test_all_first_cells_are_one(notebook):
    first = code(nbformat.read(NOTEBOOKS[0], as_version=4))[0].source
    assert code(notebook)[0].source == first
    assert f'"{REPOSITORY}"' in first


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_buttons_open_this_notebook(path):
    place = f"{REPOSITORY.removeprefix('https://github.com/')}/blob/main/notebooks/{path.name}"
    text = "".join(
        cell.source for cell in jupytext.read(path).cells if cell.cell_type == "markdown"
    )
    assert f"](https://colab.research.google.com/github/{place})" in text
    assert f"](https://kaggle.com/kernels/welcome?src=https://github.com/{place})" in text


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_twins_are_equal(path):
    one, other = jupytext.read(path), jupytext.read(path.with_suffix(".py"))

    def plain(notebook):
        return [(c.cell_type, c.source, c.metadata.get("tags", [])) for c in notebook.cells]

    assert plain(one) == plain(other)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_what_only_makes_a_sentence_is_folded(path, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "tools")
    from execute import folded, only_says

    notebook = nbformat.read(path, as_version=4)
    wanted = {one.id for one in folded(notebook)}
    hidden = {
        one.id
        for one in code(notebook)
        if one.metadata.get("jupyter", {}).get("source_hidden", False)
    }
    assert hidden == wanted
    assert only_says("gap = 3\nsay(f'{gap}')")
    assert not only_says("run = train(BASELINE)\nsay('x')"), "what is learned is shown"
    sources = ("gap = 3\nsay('a')", "say('b')", "print(gap)")
    small = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(s) for s in sources])
    assert [one.source for one in folded(small)] == ["say('b')"], "a name that is read is shown"


def cell(source, tag=None, count=1, text=None):
    made = nbformat.v4.new_code_cell(source, execution_count=count)
    made.metadata["tags"] = [tag] if tag else []
    if text:
        made.outputs = [nbformat.v4.new_output("stream", name="stdout", text=text)]
    return made


BROKEN = {
    "good": [cell("print('a')", CHECK, 1, "a\n")],
    "false_claim": [cell("print('b')", CHECK, 1, "a\n")],
    "error": [cell("1/0")],
    "failing_magic": [cell("%run nowhere.py")],
    "never_run": [cell("print('a')", CHECK, None)],
    "does_not_raise": [cell("1", "raises-exception")],
    "does_raise": [cell("1/0", "raises-exception")],
    "dead_kernel": [cell("import os, time; os.kill(os.getpid(), 9); time.sleep(60)")],
}


def test_nbval_cannot_be_fooled(tmp_path):
    shutil.copy(ROOT / "notebooks" / "conftest.py", tmp_path)
    for name, cells in BROKEN.items():
        nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / f"{name}.ipynb")
    command = [sys.executable, "-m", "pytest", "--nbval-lax", "--nbval-current-env", "-q", "-rA",
               "--nbval-cell-timeout=50", "-p", "no:cacheprovider", str(tmp_path)]  # fmt: skip
    done = subprocess.run(command, capture_output=True, encoding="utf-8", timeout=200, cwd=tmp_path)
    verdicts = dict(
        reversed(v) for v in re.findall(r"^(PASSED|FAILED) (\w+)\.ipynb", done.stdout, re.M)
    )
    good = {"good", "does_raise"}
    assert verdicts == {n: "PASSED" if n in good else "FAILED" for n in BROKEN}, done.stdout


def test_environment_and_pyproject_are_in_step():
    environment = (ROOT / "environment.yml").read_text(encoding="utf-8")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    listed = re.findall(r"^\s*- (.+?)\s*$", environment, re.M)
    assert "-e .[dev]" in listed
    assert f"python{project['requires-python']}" in listed
    assert set(listed) == {
        "conda-forge",
        "-e .[dev]",
        "pip",
        "pip:",
        f"python{project['requires-python']}",
    }
    for requirement in project["dependencies"]:
        assert "<" not in requirement, "floors only"
        assert "==" not in requirement, "floors only"


def test_stored_weights_tell_how_they_were_made():
    for path in (ROOT / "fasttricks" / "weights").glob("*.safetensors"):
        header = path.read_bytes()
        size = int.from_bytes(header[:8], "little")
        note = json.loads(header[8 : 8 + size])["__metadata__"]
        assert int(note["images"]) > 0
        assert float(note["seconds"]) > 0
        assert note["command"].startswith("python -m fasttricks pretrain")


def test_readme_and_results_show_what_was_found(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "tools")
    import readme

    notebook = nbformat.read(ROOT / "notebooks" / "08_capstone.ipynb", as_version=4)
    made, pages = readme.blocks(notebook), []
    for name in ("README.md", "RESULTS.md"):
        text = (ROOT / name).read_text(encoding="utf-8")
        assert readme.filled(text, made) == text, f"{name}: run tools/readme.py"
        pages.append(text)
    assert all(block in "".join(pages) for block in made.values()), "each has its place"
    assert "speed-up, train clock" in made["capstone"]
    assert re.search(r"test 0\.\d{4}", made["capstone"])
    assert readme.FIGURE.read_bytes() == readme.figure(notebook)
    others = {name: f"{block} more" for name, block in made.items()}
    assert readme.filled(pages[0], others) != pages[0], "another finding would be another text"
    assert len(pages[0].splitlines()) <= 120


def same(one, other) -> bool:
    """Whether two nests are equal; another build of numpy rounds the last digits differently."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, float) and isinstance(other, float):
        return math.isclose(one, other, rel_tol=1e-9)
    return type(one) is type(other) and one == other


def test_every_published_figure_follows_from_the_records():
    recorded = studies()
    assert "cpu" in recorded
    for told in published():
        declared, found = recorded[told.study]
        anew, stored = publish(told.study, declared, found).to_json(), told.to_json()
        assert same(anew, stored), "fasttricks report"
        arrived = next(row for row in stored["rows"] if isinstance(row["train"], float))
        arrived["train"] *= 1.0001
        assert not same(anew, stored), "a wrong figure is seen"
        shown = (RESULTS / f"{told.study}.md").read_text(encoding="utf-8")
        assert shown == page(told.study, declared, found)
        for picture in re.findall(r"!\[.+?\]\((.+?)\)", shown):
            assert (RESULTS / picture).stat().st_size > 1000
        (file,) = (ROOT / "bench").rglob(f"{told.study}.toml")
        assert declared == read_study(file), "what was declared"


def test_every_chapter_begins_with_what_the_records_say():
    said = [
        (match[1], cell.outputs[0]["data"]["text/markdown"])
        for path in NOTEBOOKS
        for cell in code(nbformat.read(path, as_version=4))
        if (match := re.search(r'say\(headline\("(\w+)"\)\)', cell.source))
    ]
    assert [name for name, _ in said] == list(sum(SEVEN, start=BASELINE).names)
    for name, shown in said:
        assert shown == headline(name)


def test_the_tree_that_is_shown_is_the_tree():
    shown = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    for path in re.findall(r"^    ((?:fasttricks|notebooks|data|tests|tools)/\S*)", shown, re.M):
        assert list(ROOT.glob(path.rstrip("/"))), path
    modules = {path.name for path in (ROOT / "fasttricks").glob("[a-z_]*.py")} - {"__init__.py"}
    assert all(f"fasttricks/{name}" in shown for name in modules)
