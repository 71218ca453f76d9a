"""What Windows and macOS lack is imported by nobody, and every file says its encoding."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import builtins, json, os, pathlib, pkgutil, sys

real, lacking, opened = builtins.__import__, {"resource", "fcntl", "termios", "pwd"}, []

def hide(name, globals=None, *rest, **words):
    if name in lacking and (globals or {}).get("__name__", "").startswith("fasttricks"):
        raise ModuleNotFoundError(name)
    return real(name, globals, *rest, **words)

builtins.__import__ = hide
del os.sched_getaffinity  # macOS and Windows have none
text = pathlib.Path.read_text
def read(path, *args, **words):
    if str(path).startswith(("/proc", "/sys")):
        raise FileNotFoundError(path)
    return text(path, *args, **words)
pathlib.Path.read_text = read

import fasttricks
names = [m.name for m in pkgutil.walk_packages(fasttricks.__path__, "fasttricks.")]
for name in names:
    if not name.endswith("__main__"):
        __import__(name)
from fasttricks import machine
from fasttricks.__main__ import main
assert main(["info"]) == 0
print(json.dumps([names, machine.hardware()["cores"], bool(machine.hardware()["cpu"])]))
"""


def test_no_module_needs_what_other_systems_lack():
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, encoding="utf-8", timeout=300
    )
    assert done.returncode == 0, done.stderr
    names, cores, named = json.loads(done.stdout.splitlines()[-1])
    assert {"fasttricks.launch", "fasttricks.study.pages", "fasttricks.course.figures"} < set(names)
    assert cores >= 1
    assert named


@pytest.mark.skipif(shutil.which("make") is None, reason="there is no make here")
def test_the_makefile_says_each_thing_once():
    root = Path(__file__).parents[1]
    text = (root / "Makefile").read_text(encoding="utf-8")
    named = re.search(r"^\.PHONY: (.*)$", text, re.M)[1].split()
    targets = re.findall(r"^([a-z-]+):", text, re.M)
    assert sorted(named) == sorted(targets)
    command = ["make", "--dry-run", *named]
    done = subprocess.run(command, cwd=root, capture_output=True, encoding="utf-8", check=True)
    assert done.stderr == ""
