"""Launched processes: errors are told as they are, tricks are found, nothing is left behind."""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from importlib import import_module
from pathlib import Path

import psutil
import pytest
from stumbling import Stumble

from fasttricks import BASELINE, Distributed, train
from fasttricks.launch import environment
from fasttricks.stopping import Interrupted

TWO = BASELINE + Distributed(2, share_devices=True)


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    """An empty folder for everything temporary."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr(tempfile, "tempdir", None)
    return folder


def test_a_trick_of_ones_own_is_launched_from_its_file(data, temporary):
    run = train(TWO + Stumble(), data.subset(640), images=256)
    assert run.processes == 2
    assert run.recipe.names == ("distributed", "stumbling")
    assert list(temporary.iterdir()) == [], "nothing is left behind"


def test_a_trick_within_a_package_is_found_too(tmp_path, monkeypatch):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "trip.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    import_module("mine.trip")
    found = environment(1, 0.0, ["mine.trip"])["PYTHONPATH"].split(os.pathsep)
    assert str(tmp_path.resolve()) in found
    assert str((tmp_path / "mine").resolve()) not in found


def test_an_error_is_told_with_its_process(data, temporary):
    told = "Process 1 of 2 failed: RuntimeError: a stone"
    with pytest.raises(RuntimeError, match=told) as caught:
        train(TWO + Stumble("raises"), data.subset(640), images=256)
    assert "batch_map" in caught.value.__notes__[0], "where it happened"
    assert list(temporary.iterdir()) == []


def test_a_process_that_was_killed_is_told(data):
    with pytest.raises(RuntimeError, match="killed by SIGKILL"):
        train(TWO + Stumble("is killed"), data.subset(640), images=256)


@pytest.mark.skipif(sys.platform == "win32", reason="it lacks the signal that asks")
def test_a_process_that_hangs_is_told_with_its_place(data, monkeypatch):
    monkeypatch.setenv("FASTTRICKS_TIMEOUT", "12")
    told = r"0:00:12 in which others did not answer.* Process 1 is at .*stumbling.py., line \d+"
    with pytest.raises(RuntimeError, match=told):
        train(TWO + Stumble("hangs"), data.subset(640), images=256)


def test_a_trick_from_a_notebook_is_refused_before_anything_starts(data, monkeypatch):
    monkeypatch.setattr(Stumble, "__module__", "__main__")
    monkeypatch.setattr(subprocess, "Popen", None)
    with pytest.raises(ValueError, match=r"into a file of its own, such as stumble\.py, and imp"):
        train(TWO + Stumble(), data.subset(640), images=256)


def test_a_notebook_shows_an_interrupt_in_one_sentence():
    from IPython.core.interactiveshell import InteractiveShell

    shell = InteractiveShell.instance()
    try:
        shown = []
        shell._showtraceback = lambda kind, value, lines: shown.extend(lines)
        shell.run_cell(
            "from fasttricks.stopping import Interrupted\nraise Interrupted('It ended.')"
        )
        assert shown == ["It ended."]
        assert issubclass(Interrupted, KeyboardInterrupt)
    finally:
        InteractiveShell.clear_instance()


@pytest.mark.skipif(sys.platform == "win32", reason="a console's interrupt is sent otherwise there")
@pytest.mark.parametrize("processes", [1, 2])
def test_an_interrupt_ends_the_processes_first(processes, tmp_path):
    out = tmp_path / "run.json"
    words = ["train", "--tricks", "none", "--images", "5000000", "--out", str(out)]
    words += ["--processes", str(processes), "--share-devices"]
    import termios

    terminal, screen = os.openpty()  # only a terminal is shown the bar
    termios.tcsetwinsize(screen, (24, 100))
    with subprocess.Popen(
        [sys.executable, "-m", "fasttricks", *words],
        env={**os.environ, "TMPDIR": str(tmp_path)},
        stderr=screen,
        start_new_session=True,
        # A background job of a shell ignores interrupts, and so would what it starts.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:
        os.close(screen)
        said = ""
        while "k/5.00M" not in said:  # until the bar moves
            said += os.read(terminal, 1024).decode()
        family = psutil.Process(process.pid).children(recursive=True)
        assert len(family) >= processes - 1
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        with contextlib.suppress(OSError):  # which says that nobody can write any more
            while more := os.read(terminal, 1024):
                said += more.decode()
    os.close(terminal)
    assert process.returncode == 130, said
    last = said.replace("\r", "\n").strip().splitlines()[-1]
    assert last.startswith("fasttricks: Interrupted: ")
    assert "Traceback" not in said
    time.sleep(0.1)
    assert not [one for one in family if one.is_running() and one.status() != "zombie"]
    assert list(Path(tmp_path).iterdir()) == [], "neither a record nor anything temporary"
