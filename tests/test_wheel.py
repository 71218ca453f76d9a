"""The wheel carries what the package needs, and works without the repository."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LOOK = """
import fasttricks, json
from fasttricks.models import given_state
from fasttricks.sources import load
state = given_state("letters", "test_resnet", 28)
print(json.dumps([fasttricks.__file__, len(state), len(load("letters").classes)]))
"""


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """A folder with nothing but what the wheel installs, and the environment that sees it."""
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
    source = folder / "source"  # setuptools leaves its own folders beside what it builds
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        (source / name).write_bytes((ROOT / name).read_bytes())
    (source / "fasttricks").symlink_to(ROOT / "fasttricks")
    subprocess.run(
        [*pip, "wheel", "--no-deps", "-w", str(folder), str(source)], check=True, timeout=300
    )
    (wheel,) = folder.glob("*.whl")
    target = folder / "installed"
    subprocess.run(
        [*pip, "install", "--no-deps", "--target", str(target), str(wheel)], check=True, timeout=300
    )
    environ = {**os.environ, "PYTHONPATH": str(target), "FASTTRICKS_CACHE": str(folder / "cache")}
    return folder, target, environ


def run(words, folder, environ):
    return subprocess.run(
        [sys.executable, *words],
        cwd=folder,
        env=environ,
        capture_output=True,
        encoding="utf-8",
        timeout=300,
    )


def test_code_and_weights_are_in_it(alone):
    folder, target, environ = alone
    done = run(["-c", LOOK], folder, environ)
    assert done.returncode == 0, done.stderr
    assert str(target) in done.stdout
    assert (target / "fasttricks" / "py.typed").exists()


def test_without_images_it_says_what_to_do(alone):
    folder, _, environ = alone
    offline = {**environ, "https_proxy": "http://127.0.0.1:9", "http_proxy": "http://127.0.0.1:9"}
    done = run(["-m", "fasttricks", "train", "--images", "128"], folder, offline)
    assert done.returncode == 2
    assert done.stderr.startswith("fasttricks: FashionMNIST is not in")
    assert done.stderr.count("\n") == 1, "one sentence"
