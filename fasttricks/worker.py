"""One launched process: do the job in a folder, leave the result there (the first process does).

usage: python -m fasttricks.worker FOLDER
"""

import json
import os
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from .files import write_json
from .job import Job
from .launch import WORKER, leave_with_launcher
from .models import save_weights
from .sources import load
from .train import train_here


def serve(
    folder: Path,
    work: Callable[[Path], dict[str, Any]],  # from the folder to the result, plain values
) -> NoReturn:
    """Do the work and leave the result, or the error for `launch.call` to tell; then end."""
    rank, status = int(os.environ.get("RANK", 0)), 0
    leave_with_launcher()
    try:
        found = work(folder)
        if rank == 0:
            write_json(folder / "result.json", found)
    except (Exception, KeyboardInterrupt) as error:
        status = 1
        known = next((k for k in (ValueError, OSError) if isinstance(error, k)), type(error))
        text = str(error) if known in (ValueError, OSError) else f"{known.__name__}: {error}"
        told = {"rank": rank, "time": time.time(), "kind": known.__name__, "text": text}
        write_json(folder / f"error-{rank}.json", {**told, "traceback": traceback.format_exc()})
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)  # gloo's threads can abort an orderly exit, when the work is done


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
