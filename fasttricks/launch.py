"""Start a job in new processes: torchrun for several, a plain one for the cold wall of one.

Nothing is forked, so it works from a notebook that has used the GPU. A run is judged by the file it
leaves, not by its exit status, for workers have been seen to crash after their work was done.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections import deque
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors.torch import load_file

from . import models
from .progress import REPORT, Bar
from .record import Run, write_json

if TYPE_CHECKING:
    from .train import Job

WORKER = "FASTTRICKS_STARTED"  # set in a launched process: when its cold wall began


def launched() -> bool:
    """Whether this process was itself launched, by us or by torchrun, and so trains right here."""
    return WORKER in os.environ or "LOCAL_WORLD_SIZE" in os.environ


def command_line(processes: int) -> list[str]:
    """The command that starts a Python module in so many processes of this machine."""
    if processes == 1:
        return [sys.executable, "-m"]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    return [*torchrun, "--nproc-per-node", str(processes), "-m"]


def environment(shares: int, started: float) -> dict[str, str]:
    """What a launched process finds in its environment; the cores make so many equal shares."""
    package = str(Path(__file__).resolve().parents[1])
    paths = [package, *filter(None, [os.environ.get("PYTHONPATH")])]
    extra = {WORKER: str(started), REPORT: "1", "PYTHONPATH": os.pathsep.join(paths)}
    if shares > 1:
        extra["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // shares))
    return {**os.environ, **extra}


def call(
    processes: int,
    words: list[str],  # of the command `fasttricks`
    result: Path,  # the file that it leaves
    environ: dict[str, str],
    hear: Callable[[Iterable[str]], None],  # takes the lines that the processes write
) -> dict[str, Any]:
    """Run a command in new processes; what it left. Raises RuntimeError if it left nothing."""
    with subprocess.Popen(
        [*command_line(processes), "fasttricks", *words],
        env=environ,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    ) as process:
        last: deque[str] = deque(maxlen=30)
        try:
            hear(last.append(line) or line for line in process.stdout)
        except BaseException:
            process.terminate()
            raise
    if not result.exists():
        raise RuntimeError(
            f"{processes} launched process(es) ended with status {process.returncode} and no "
            f"result. Their last words:\n{''.join(last)}"
        )
    return json.loads(result.read_text())


def launch(
    job: "Job",
    classes: int,
    channels: int,
    started: float,  # when the cold wall began, seconds since 1970
) -> Run:
    """Run the job in new processes. Raises RuntimeError with their last words if they fail."""
    processes = job.recipe.world.count()
    with tempfile.TemporaryDirectory() as name:
        folder, bar = Path(name), Bar(job.label, job.images)
        write_json(folder / "job.json", job.to_json())
        environ = environment(processes, started)
        record = call(processes, ["work", name], folder / "run.json", environ, bar.follow)
        run = Run.from_json(record)
        net = models.create(job.model, channels, classes)
        net.load_state_dict(load_file(folder / "net.safetensors"))
    run = run.with_net(net)
    bar.close(str(run))
    return run
