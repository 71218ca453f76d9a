"""The scripts to take home run as they stand, alone, and differ from the plain one by a trick."""

import ast
import difflib
import gzip
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import numpy as np
import pytest
from PIL import Image

from fasttricks.data import ROOT as DATA
from fasttricks.recipe import NAMES

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = ROOT / "examples"
LAUNCH = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder as the repository's, where torchvision finds what it would download."""
    folder = tmp_path_factory.mktemp("home")
    raw = folder / "downloads" / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for file in (DATA / "FashionMNIST" / "raw").glob("*.gz"):
        (raw / file.stem).write_bytes(gzip.decompress(file.read_bytes()))
    weights = folder / "fasttricks" / "weights"
    weights.mkdir(parents=True)
    for file in (ROOT / "fasttricks" / "weights").glob("*.safetensors"):
        (weights / file.name).write_bytes(file.read_bytes())
    return folder


def run(name, place, *words, launch=(sys.executable,)):
    """Images seen and accuracy, as the script prints them."""
    done = subprocess.run(
        [*launch, str(EXAMPLES / f"{name}.py"), "--images", "7680", *words],
        cwd=place,
        capture_output=True,
        encoding="utf-8",
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    (said,) = re.findall(r"([\d,]+) images in [\d.]+ s, accuracy ([\d.]+)", done.stdout)
    return int(said[0].replace(",", "")), float(said[1])


@pytest.mark.parametrize("name", ["plain", *NAMES, "all_seven"])
def test_each_runs_alone(name, place):
    launch = LAUNCH if name in ("distributed", "all_seven") else [sys.executable]
    images, accuracy = run(name, place, launch=launch)
    assert images == 7680
    assert accuracy > 0.6


def test_all_seven_run_in_one_process_too(place):
    assert run("all_seven", place)[1] > 0.6


@pytest.mark.parametrize("name", ["plain", "distributed"])
def test_own_images(name, place, tmp_path):
    random = np.random.default_rng(0)
    for kind in ("dark", "light"):
        (tmp_path / kind).mkdir()
        for number in range(150):
            pixels = random.integers(0, 120, (40, 50, 3)) + (130 if kind == "light" else 0)
            Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / kind / f"{number}.png")
    launch = LAUNCH if name == "distributed" else [sys.executable]
    assert run(name, place, "--data", str(tmp_path), launch=launch)[1] > 0.9


@pytest.mark.parametrize("name", ["plain", *NAMES, "all_seven"])
def test_none_needs_the_package(name):
    tree = ast.parse((EXAMPLES / f"{name}.py").read_text(encoding="utf-8"))
    named = {a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
    named |= {n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
    packages = {module.split(".")[0] for module in named}
    assert packages <= {*sys.stdlib_module_names, "torch", "torchvision", "timm", "safetensors"}


@pytest.mark.parametrize("name", NAMES)
def test_each_differs_from_plain_by_a_trick(name):
    old, new = (
        (EXAMPLES / f"{one}.py").read_text(encoding="utf-8").splitlines() for one in ("plain", name)
    )
    removed = [line for line in difflib.ndiff(old, new) if line.startswith("- ")]
    added = [line for line in difflib.ndiff(old, new) if line.startswith("+ ")]
    assert len(removed) <= 11, "the docstring's three lines, and what the trick replaces"
    assert 4 <= len(added) <= 26


CHAPTERS = {path.stem: path for path in (ROOT / "notebooks").glob("0[1-7]*.ipynb")}


@pytest.mark.parametrize(("number", "name"), [*enumerate(NAMES, 1)])
def test_each_chapter_shows_its_scripts_lines(number, name):
    """Those that differ from plain.py, with a line around; `...` where others are left out."""
    old, new = (
        (EXAMPLES / f"{one}.py").read_text(encoding="utf-8").split('"""\n', 1)[1].splitlines()
        for one in ("plain", name)
    )
    lines = [line.rstrip() for line in difflib.unified_diff(old, new, n=1, lineterm="")][2:]
    wanted = [" ..." if line.startswith("@@") else line for line in lines][1:]
    (path,) = (path for stem, path in CHAPTERS.items() if stem.startswith(f"0{number}"))
    cells = nbformat.read(path, as_version=4).cells
    blocks = (re.search(r"```diff\n(.*?)\n```", cell.source, re.S) for cell in cells)
    (shown,) = filter(None, blocks)
    assert [line.rstrip() for line in shown[1].splitlines()] == wanted
