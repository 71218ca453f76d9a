"""One launched process: do the job in a folder, leave the result there (the first process does).

usage: python -m fasttricks.worker FOLDER
"""

import faulthandler
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import psutil

from .files import write_json
from .job import Job
from .launch import leave_with_launcher
from .models import save_weights
from .progress import WORKER
from .sources import load
from .train import train_here
from .tricks.distributed import TIMEOUT

ASK = getattr(signal, "SIGUSR1", None)  # asks a process where it is; Windows has no such signal


def serve(
    folder: Path,
    work: Callable[[Path], dict[str, Any]],  # from the folder to the result, plain values
) -> NoReturn:
    """Do the work and leave the result, or the error for `launch.call` to tell; then end."""
    rank, status = int(os.environ.get("RANK", 0)), 0
    leave_with_launcher()
    if ASK:
        faulthandler.register(
            ASK, (folder / f"stack-{rank}").open("w", encoding="utf-8"), all_threads=False
        )
    try:
        found = work(folder)
        if rank == 0:
            write_json(folder / "result.json", found)
    except (Exception, KeyboardInterrupt) as error:
        status = 1
        known = next((k for k in (ValueError, OSError) if isinstance(error, k)), type(error))
        text = str(error) if known in (ValueError, OSError) else f"{known.__name__}: {error}"
        if "timed out" in text.lower() and ASK and "LOCAL_RANK" in os.environ:
            text = f"after {TIMEOUT} in which others did not answer. {where_others_are(folder)}"
        told = {"rank": rank, "time": time.time(), "kind": known.__name__, "text": text}
        write_json(folder / f"error-{rank}.json", {**told, "traceback": traceback.format_exc()})
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)  # gloo's threads can abort an orderly exit, when the work is done


def where_others_are(folder: Path) -> str:
    """Of each other process, the line of Python that it is at: it may hang there."""
    for other in psutil.Process(os.getppid()).children():
        if other.pid != os.getpid():
            other.send_signal(ASK)
    time.sleep(1)  # they write
    found = (
        (path.name, path.read_text(encoding="utf-8").splitlines())
        for path in folder.glob("stack-*")
    )
    places = {name[6:]: lines[1].strip()[5:] for name, lines in found if lines[1:]}
    return " ".join(f"Process {rank} is at {place}." for rank, place in sorted(places.items()))


def work(folder: Path) -> dict[str, Any]:
    """The record of the job in the folder; its weights lie there too."""
    job = Job.from_json(json.loads((folder / "job.json").read_text(encoding="utf-8")))
    data = load(job.data, job.data_size, skip_broken=True).subset(job.labels)
    if data.fingerprint != job.fingerprint:
        raise ValueError(
            f"New processes load {job.data} anew, and it is not what was given to `train`: data "
            f"that were changed by hand are trained on in one process, or put into a folder."
        )
    run = train_here(job, data, float(os.environ[WORKER]))
    if int(os.environ.get("RANK", 0)) == 0:
        save_weights(run.net, folder / "net.safetensors")
    return run.to_json()


if __name__ == "__main__":
    serve(Path(sys.argv[1]), work)
