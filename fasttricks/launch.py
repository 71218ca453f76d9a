"""Start a job in new processes: torchrun for several, a plain one for the cold wall of one.

Nothing is forked, so it works from a notebook that has used the GPU. A run is judged by the file it
leaves, not by its exit status, for workers have been seen to crash after their work was done.
"""

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
from safetensors.torch import load_file

from . import models
from .files import write_json
from .job import Job
from .progress import WORKER, Bar
from .recipe import MODULES
from .record import Run
from .stopping import listening
from .tricks.distributed import cores

LAUNCHER = "FASTTRICKS_LAUNCHER"  # set in a launched process: the number of the one that started it
GRACE = 40  # seconds that processes have to end when they are asked to; torchrun gives 30
LOOPBACK = {"linux": "lo", "darwin": "lo0"}  # the name that gloo wants


def launched() -> bool:
    """Whether this process was itself launched, by us or by torchrun, and so trains right here."""
    return WORKER in os.environ or "LOCAL_WORLD_SIZE" in os.environ


def command_line(processes: int, folder: Path, restarts: int = 0) -> list[str]:
    """The command that starts a Python module in so many processes; torchrun writes to `folder`."""
    if processes == 1 and restarts == 0:
        return [sys.executable, "-m"]
    torchrun = ["torch.distributed.run", "--standalone", "--local-addr", "127.0.0.1"]
    counts = ["--max-restarts", str(restarts), "--nproc-per-node", str(processes)]
    return [sys.executable, "-m", *torchrun, "--log-dir", str(folder), *counts, "-m"]


def environment(
    shares: int,  # the cores make so many equal shares
    started: float,  # when the cold wall began, seconds since 1970
    modules: Iterable[str] = (),  # of tricks that are not ours
) -> dict[str, str]:
    """What a launched process finds in its environment."""
    files = {name: Path(sys.modules[name].__file__).resolve() for name in (__name__, *modules)}
    paths = [str(file.parents[name.count(".")]) for name, file in files.items()]
    paths += filter(None, [os.environ.get("PYTHONPATH")])
    extra = {WORKER: str(started), LAUNCHER: str(os.getpid()), "PYTHONPATH": os.pathsep.join(paths)}
    if modules:
        extra[MODULES] = ",".join(modules)
    if shares > 1:
        extra["OMP_NUM_THREADS"] = str(max(1, cores() // shares))
    if sys.platform in LOOPBACK:
        extra["GLOO_SOCKET_IFNAME"] = LOOPBACK[sys.platform]
    if sys.platform == "win32":
        extra["USE_LIBUV"] = "0"  # PyTorch for Windows is built without it
    return {**os.environ, **extra}


def call(
    processes: int,
    module: str,  # Python's name of the program, which is given the folder
    folder: Path,  # where the program finds its task and leaves `result.json`
    environ: dict[str, str],
    hear: Callable[[Iterable[str]], None],  # takes the lines that the processes write
    restarts: int = 0,  # times that they are started again where one dies
) -> dict[str, Any]:
    """Run a program in new processes; what it left.

    Raises the first worker's own error if there was one, ValueError or OSError as they are and
    others as RuntimeError; RuntimeError with the last words if processes died without one.
    """
    result, last = folder / "result.json", deque(maxlen=30)
    own = dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(folder))  # what is left there goes with it
    if restarts:  # a store that outlives its processes would tell the next ones of dead addresses
        own["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"
    with subprocess.Popen(
        [*command_line(processes, folder, restarts), module, str(folder)],
        env={**environ, **own},
        encoding="utf-8",
        errors="replace",
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,  # an interrupt reaches us alone; we end the others
        creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),  # as Windows says it
    ) as process:
        try:
            with listening(signal.default_int_handler):
                hear(last.append(line) or line for line in process.stdout)
        except BaseException:
            end(process)
            raise
    if result.exists():
        return json.loads(result.read_text(encoding="utf-8"))
    raise failure(processes, folder, process.returncode, "".join(last))


def leave_with_launcher() -> None:
    """End this process soon after the one that started it, or that one's launcher, is gone."""
    agent, launcher = os.getppid(), psutil.Process(int(os.environ.get(LAUNCHER, os.getppid())))

    def watch() -> None:
        with suppress(psutil.NoSuchProcess):
            while os.getppid() == agent and launcher.status() != psutil.STATUS_ZOMBIE:
                time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def end(process: subprocess.Popen) -> None:
    """End a process and all that it started, politely first."""
    with suppress(psutil.NoSuchProcess):
        first = psutil.Process(process.pid)
        family = [*first.children(recursive=True), first]
        first.terminate()
        for one in psutil.wait_procs(family, timeout=GRACE)[1]:
            one.kill()


def failure(processes: int, folder: Path, status: int, last: str) -> Exception:
    """Why processes left no result: one was killed, or else the error that came first."""
    told = re.search(r"Signal (?!15\b)\d+ \((\w+)\)", last)  # 15 is how the others are ended
    killed = told[1] if told else signal.Signals(-status).name if status < 0 else ""
    if killed:
        return RuntimeError(
            f"One of {processes} launched process(es) was killed by {killed}; SIGKILL is what a "
            f"machine that runs out of memory sends."
        )
    files = (json.loads(p.read_text(encoding="utf-8")) for p in folder.glob("error-*.json"))
    first = min(files, key=lambda error: error["time"], default=None)
    if first is None:
        said = f"{processes} launched process(es) left no result (status {status})"
        return RuntimeError(f"{said}. Their last words:\n{last}")
    if first["kind"] in ("ValueError", "OSError"):
        return {"ValueError": ValueError, "OSError": OSError}[first["kind"]](first["text"])
    error = RuntimeError(f"Process {first['rank']} of {processes} failed: {first['text']}")
    error.add_note(first["traceback"])
    return error


def foreign_modules(job: Job) -> list[str]:
    """The modules of tricks that are not ours. Raises ValueError for one defined in a notebook."""
    modules = {type(trick).__module__: type(trick).__name__ for trick in job.recipe.tricks}
    if "__main__" in modules:
        name = modules["__main__"]
        raise ValueError(
            f"New processes cannot see {name}, which is defined in this notebook or program; put "
            f"it into a file of its own, such as {name.lower()}.py, and import it from there."
        )
    ours = f"{__package__}."
    return sorted(name for name in modules if not name.startswith(ours))


def launch(
    job: Job,
    classes: int,
    channels: int,
    started: float,  # when the cold wall began, seconds since 1970
) -> Run:
    """Run the job in new processes. Raises as `call` does, and ValueError for a hidden trick."""
    processes = job.recipe.world.count()
    environ = environment(processes, started, foreign_modules(job))
    with (
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name,
        Bar(job.label, job.images) as bar,
    ):
        folder = Path(name)
        write_json(folder / "job.json", job.to_json())
        record = call(processes, "fasttricks.worker", folder, environ, bar.follow, job.restarts)
        net = models.create(job.model, channels, classes)
        net.load_state_dict(load_file(folder / "net.safetensors"))
    run = replace(Run.from_json({**record, "recipe": job.recipe.to_json()}), net=net)
    bar.close(str(run))
    return run
