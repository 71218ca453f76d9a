"""Run chapters as a bare Google Colab would: Colab's shell, our oldest dependencies, no course.

usage: colab.py [NAME ...]      (NAME: 05_label_smoothing; all chapters unless given)

Chapters and course are those last committed: a chapter's first cell clones this repository.
"""

import json
import os
import shutil
import subprocess
import sys
import tomllib
import venv
from importlib.metadata import distributions, version
from itertools import zip_longest
from pathlib import Path

import nbformat
from execute import texts
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[1]
HOME = ROOT / "build" / "colab"
ENV, LENT, WORK = HOME / "env", HOME / "lent", HOME / "work"
SHELL = ["ipython==7.34.0", "ipykernel==6.17.1", "ipywidgets==7.7.1"]
HEAVY = ("torch", "triton", "nvidia-", "cuda-")  # torchvision too: 5 GB not to be fetched again
LOOK = """
import importlib.util, json
from importlib.metadata import distributions, version
from pathlib import Path
spec = importlib.util.find_spec("fasttricks")
packages = {d.name.lower(): version(d.name) for d in distributions()}
print(json.dumps({"course": spec and str(Path(spec.origin).resolve()), "packages": packages}))
"""


def run(*command: str | Path) -> str:
    """What a command prints. Where it fails, its first error ends this program."""
    done = subprocess.run(command, cwd=ROOT, capture_output=True, encoding="utf-8")
    if done.returncode:
        lines = done.stderr.splitlines() or ["it says nothing"]
        why = next((line for line in lines if line.startswith("ERROR")), lines[-1])
        sys.exit(f"`{' '.join(map(str, command))}` failed: {why}")
    return done.stdout


def lend() -> None:
    """Show the new environment the installed torch and its libraries, and nothing else.

    They are linked outside the new environment, so that its pip sees them but never removes them.
    """
    LENT.mkdir()
    for package in distributions():
        if package.name.lower().startswith(HEAVY):
            for top in {file.parts[0] for file in package.files or ()} - {".."}:
                if not (LENT / top).exists():
                    (LENT / top).symlink_to(package.locate_file(top))
    next(ENV.glob("lib/python*/site-packages")).joinpath("lent.pth").write_text(
        f"{LENT}\n", encoding="utf-8"
    )


def oldest(requirement: str) -> str:
    """The floor of a requirement; where this Python has no wheel of it, what it has."""
    floor = requirement.replace(">=", "==")
    install = [ENV / "bin" / "pip", "install", "--only-binary=:all:", "--no-deps", "--dry-run"]
    if subprocess.run([*install, floor], capture_output=True).returncode == 0:
        return floor
    print(f"This Python has no wheel of {floor}; the newest is taken.")
    return requirement


def set_up(project: dict) -> list[Requirement]:
    """Make the environment anew; what was asked of it."""
    shutil.rmtree(HOME, ignore_errors=True)
    venv.create(ENV, symlinks=True, with_pip=True)
    lend()
    light = [r for r in project["dependencies"] if not r.startswith(HEAVY)]
    asked = [*SHELL, f"torch=={version('torch')}", *map(oldest, light)]
    run(ENV / "bin" / "pip", "install", "--only-binary=:all:", *asked)
    run(ENV / "bin" / "python", "-m", "ipykernel", "install", "--prefix", ENV, "--name", "colab")
    return [Requirement(line) for line in asked]


def execute(notebook: nbformat.NotebookNode, kept: Path) -> None:
    """Run the notebook in place, in an empty folder; an error in a cell ends this program."""
    shutil.rmtree(WORK, ignore_errors=True)
    WORK.mkdir()
    where = {"metadata": {"path": str(WORK)}}
    try:
        NotebookClient(notebook, timeout=600, kernel_name="colab", resources=where).execute()
    except CellExecutionError as error:
        sys.exit(f"{kept} shows where the chapter fails: {error.ename}: {error.evalue}")
    except (RuntimeError, TimeoutError) as error:
        sys.exit(f"{kept} shows where the chapter stops: {error}")
    finally:
        nbformat.write(notebook, kept)


def judge(
    chapter: str,  # its name
    before: dict,  # what LOOK saw ahead of the first cell
    after: dict,  # and behind the last one
    asked: list[Requirement],
    printed: str,  # by the checked cells
    stored: str,  # what they printed in the committed notebook
) -> None:
    """End this program with a sentence where something is not as it is to be."""
    if before["course"]:
        sys.exit(f"The course was importable before the first cell, from {before['course']}.")
    if not (after["course"] or "").startswith(str(WORK.resolve())):
        sys.exit(f"The course came from {after['course']}, not from the clone in {WORK}.")
    del after["packages"]["fasttricks"]
    changed = before["packages"].items() ^ after["packages"].items()
    if changed:
        sys.exit(f"The chapter changed installed packages: {sorted(changed)}.")
    for wanted in asked:
        found = after["packages"][wanted.name]
        if not wanted.specifier.contains(found):
            sys.exit(f"{wanted} was asked for, and {wanted.name} {found} was there.")
    if not stored:
        sys.exit(f"The committed {chapter} holds nothing to check.")
    for here, there in zip_longest(printed.splitlines(), stored.splitlines()):
        if here != there:
            sys.exit(f"A checked cell printed {here!r}; the stored notebook has {there!r}.")


def check(chapter: str, asked: list[Requirement]) -> None:
    """Run a committed chapter and judge it."""
    notebook = nbformat.reads(run("git", "show", f"HEAD:notebooks/{chapter}.ipynb"), as_version=4)
    stored = "".join(texts(notebook, "nbval-check-output"))
    print(f"Running the committed {chapter}", flush=True)
    look = [nbformat.v4.new_code_cell(LOOK) for _ in range(2)]
    notebook.cells = [look[0], *notebook.cells, look[1]]
    execute(notebook, HOME / f"{chapter}.ipynb")
    before, after = (json.loads(cell.outputs[0].text) for cell in look)
    printed = "".join(texts(notebook, "nbval-check-output"))
    judge(chapter, before, after, asked, printed, stored)
    print(f"Colab would run it: {len(printed.splitlines())} lines of checked output are the same.")


def main(chapters: list[str]) -> None:
    """Set up once, then run and judge each chapter."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    known = [path.stem for path in sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))]
    for chapter in chapters:
        if chapter not in known:
            sys.exit(f"There is no chapter {chapter!r}; there are {', '.join(known)}.")
    asked = set_up(project)
    os.environ |= {
        "FASTTRICKS_BUDGET": "smoke",
        "JUPYTER_PATH": str(ENV / "share" / "jupyter"),
        "PYDEVD_DISABLE_FILE_VALIDATION": "1",  # else the debugger warns on the terminal
        "GIT_CONFIG_COUNT": "1",  # the clone is made from here, the cell's text untouched
        "GIT_CONFIG_KEY_0": f"url.{ROOT.as_uri()}.insteadOf",
        "GIT_CONFIG_VALUE_0": project["urls"]["repository"],
    }
    os.environ.pop("PYTHONPATH", None)
    print(f"With {', '.join(map(str, asked))}")
    for chapter in chapters or known:
        check(chapter, asked)


if __name__ == "__main__":
    main(sys.argv[1:])
