"""Rehearse a GPU where there is none: every chapter, and launches for several GPUs, pretended.

usage: rehearse.py [NAME ...]       (NAME: 08_capstone; all chapters and launches if none is named)

Each chapter runs in a kernel of its own, in the smoke budget, as many at once as there are cores.
What a cell launches runs in real processes, in which the GPU is pretended too; NCCL's part is
played by gloo. The exit status is 1 if anything failed, and the cell and its error are shown.
"""

import argparse
import io
import json
import os
import re
import runpy
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import ExitStack, contextmanager, redirect_stderr
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING
from unittest.mock import patch

if TYPE_CHECKING:
    from pretend import Machine

ROOT = Path(__file__).resolve().parents[1]
HERE = [str(ROOT), str(ROOT / "tools"), str(ROOT / "tests")]
sys.path[:0] = HERE

FIRST = ("08_capstone", "01_multi_gpu", "two GPUs")  # the longest, so that none waits
SETTINGS = {"FASTTRICKS_BUDGET": "smoke", "OMP_NUM_THREADS": "1", "PYTHONPATH": HERE[0]}
T4 = "REHEARSE_T4"  # set: GPUs without bfloat16
BEGIN = f"import sys\nsys.path[:0] = {HERE}\nimport rehearse\ngpu = rehearse.begin()"
END = "assert gpu.waits, 'nothing was computed on the GPU'"


class Popen(subprocess.Popen):
    """Starts what is asked for, and our own programs on as many pretended GPUs as there are."""

    def __init__(self, args: list[str], *more: object, **settings: object) -> None:
        at = next((i for i, word in enumerate(args) if word.startswith("fasttricks")), 0)
        if at and args[at - 1] == "-m":
            import torch

            ours = [__file__, "--worker", str(torch.cuda.device_count())]
            args = [*args[: at - 1], *ours, *args[at:]]
        super().__init__(args, *more, **settings)


@contextmanager
def pretended(devices: int) -> Iterator["Machine"]:
    """So many GPUs, in this process and in those that it launches; old ones where T4 is set."""
    from pretend import pretend

    new = T4 not in os.environ
    with pretend(devices, bf16=new) as gpu, patch.object(subprocess, "Popen", Popen):
        yield gpu


STAGE = ExitStack()  # what a notebook's kernel is in, to its end


def begin() -> "Machine":
    """A notebook's kernel: pretend one GPU from here on."""
    return STAGE.enter_context(pretended(1))


def work(devices: int, module: str, words: list[str]) -> None:
    """A launched process: one of our programs."""
    sys.argv = [module, *words]
    with pretended(devices):
        runpy.run_module(module, run_name="__main__", alter_sys=True)


def chapter(name: str) -> str:
    """Run a chapter's cells; how many there were. Raises RuntimeError with a cell's error."""
    import jupytext
    import nbformat
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError

    notebook = jupytext.read(ROOT / "notebooks" / f"{name}.py")
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    first, last = (nbformat.v4.new_code_cell(text) for text in (BEGIN, END))
    where = {"metadata": {"path": str(ROOT / "notebooks")}}
    client = NotebookClient(notebook, timeout=None, kernel_name="python3", resources=where)
    notebook.cells = [first, *cells, last]
    with client.setup_kernel(stderr=subprocess.DEVNULL):  # a kernel complains of its transport
        for number, cell in enumerate(notebook.cells):
            title = f"Cell {number} of {name}, `{cell.source.splitlines()[0]}`"
            try:
                client.execute_cell(cell, number)
            except CellExecutionError as error:
                colours = re.compile(r"\x1b\[[0-9;]*m")
                raise RuntimeError(f"{title}:\n{colours.sub('', str(error))}") from None
            complaints = [out.text for out in cell.outputs if out.get("name") == "stderr"]
            if complaints:
                raise RuntimeError(f"{title}, wrote to stderr:\n{''.join(complaints)}")
    return f"{len(cells)} cells"


class Started(Exception):
    """Instead of starting processes: what would have been started."""

    def __init__(self, command: list[str], env: dict[str, str], **_: object) -> None:
        self.command, self.env = command, env
        self.job = json.loads(Path(command[-1], "job.json").read_text(encoding="utf-8"))


def start(*args: object, **settings: object) -> None:
    """In the place of `subprocess.Popen`."""
    raise Started(*args, **settings)


def join(rank: int, started: Started, processes: int) -> tuple[str, str, list[int]]:
    """One process of a launch: the backend it asks for, its device, and its rows of a batch."""
    import torch
    import torch.distributed as dist

    from fasttricks import Recipe

    recipe, backends = Recipe.from_json(started.job["recipe"]), []
    torchrun = {"RANK": rank, "LOCAL_RANK": rank}
    torchrun |= {"WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": processes}
    group = {
        "rendezvous": lambda *_, **__: iter([(torch.distributed.HashStore(), rank, processes)]),
        "init_process_group": lambda backend, **_: backends.append(backend),
        "get_rank": lambda: rank,
        "get_world_size": lambda: processes,
        "barrier": lambda: None,
        "destroy_process_group": lambda: None,
    }
    with (
        patch.dict(os.environ, {**started.env, **{k: str(v) for k, v in torchrun.items()}}),
        patch.multiple(dist, **group),
        recipe.world.join() as world,
    ):
        rows = world.shard(torch.arange(recipe.global_batch)).tolist()
        here = torch.zeros(1, device="cuda").device
        assert here == recipe.world.device(), f"{recipe.world.device()} is not the current device"
    return backends[0], str(here), rows


def launch(devices: int, processes: int) -> str:
    """All seven tricks in so many processes, up to their start: what each of them would do."""
    from pretend import pretend

    from fasttricks import BASELINE, SEVEN, Distributed, train

    whole = sum(SEVEN, start=BASELINE) - "distributed"
    whole += Distributed() if devices == processes else Distributed(processes, share_devices=True)
    with pretend(devices), patch.object(subprocess, "Popen", start):
        try:
            train(whole)
        except Started as caught:
            started = caught
        ranks = [join(rank, started, processes) for rank in range(processes)]
    backends, places, shares = zip(*ranks, strict=True)
    command, batch = " ".join(started.command), whole.global_batch
    assert f"--nproc-per-node {processes} -m fasttricks.worker" in command, command
    assert set(backends) == {"nccl" if devices == processes else "gloo"}, backends
    assert list(places) == [f"cuda:{rank % devices}" for rank in range(processes)], places
    assert sorted(chain(*shares)) == list(range(batch)), "each image is trained on once"
    counts = sorted({len(rows) for rows in shares})
    assert counts[-1] - counts[0] <= 1, counts
    images = " or ".join(map(str, counts))
    return f"{backends[0]}, {places[0]} to {places[-1]}, {images} images each"


def launches() -> str:
    """One GPU shared by two processes, and several GPUs with one each."""
    cases = ((1, 2), (2, 2), (3, 3), (8, 8))
    return "; ".join(f"{n} on {devices} GPUs: {launch(devices, n)}" for devices, n in cases)


def train_together() -> str:
    """All seven tricks in two processes, each with a pretended GPU of its own."""
    from fasttricks import BASELINE, SEVEN, train

    with pretended(2):
        run = train(sum(SEVEN, start=BASELINE), images=1_600)
    assert (run.processes, run.device, run.precision) == (2, "cuda", "bf16"), run
    return str(run)


def train_on_t4() -> str:
    """All seven tricks as Colab and Kaggle have it: fp16, on one T4 and on two."""
    from fasttricks import BASELINE, SEVEN, train

    said = []
    with patch.dict(os.environ, {T4: "yes"}):
        for devices in (1, 2):
            with pretended(devices):
                run = train(sum(SEVEN, start=BASELINE), images=1_600)
            assert (run.processes, run.device, run.precision) == (devices, "cuda", "fp16"), run
            assert run.skipped_steps < run.steps, "the loss scale found its level"
            said.append(str(run))
    return "; ".join(said)


def tasks() -> dict[str, tuple]:
    """What there is to rehearse, by name: a function and its arguments."""
    names = sorted(path.stem for path in (ROOT / "notebooks").glob("0*.py"))
    found: dict[str, tuple] = {name: (chapter, name) for name in names}
    return found | {"two GPUs": (train_together,), "T4": (train_on_t4,), "launches": (launches,)}


def rehearse(task: tuple) -> tuple[bool, str, float]:
    """Whether a task went well, what it says, and its seconds."""
    os.environ.update(SETTINGS)
    warnings.simplefilter("error")
    started, (function, *args) = time.monotonic(), task
    try:
        with redirect_stderr(io.StringIO()):  # bars of progress, from two processes at once
            went, said = True, function(*args)
    except Exception as error:
        went, said = False, f"{type(error).__name__}: {error}"
    return went, said, time.monotonic() - started


def main() -> int:
    """Rehearse what was asked for; 0 if all of it went well."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("names", nargs="*", metavar="NAME")
    asked = options.parse_args().names
    chosen = {name: task for name, task in tasks().items() if not asked or name in asked}
    begun, failed, cells = time.monotonic(), [], 0
    with ProcessPoolExecutor(os.cpu_count(), max_tasks_per_child=1) as pool:
        order = [*filter(chosen.get, FIRST), *(name for name in chosen if name not in FIRST)]
        running = {pool.submit(rehearse, chosen[name]): name for name in order}
        for future in as_completed(running):
            name, (went, said, seconds) = running[future], future.result()
            failed += [] if went else [name]
            cells += int(said.split()[0]) if went and chosen[name][0] is chapter else 0
            print(f"{'' if went else 'FAILED '}{name:22}{seconds:6.0f} s  {said}", flush=True)
    print(f"{cells} cells, {time.monotonic() - begun:.0f} s, failed: {', '.join(failed) or 'none'}")
    return 1 if failed else 0


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        work(int(sys.argv[2]), sys.argv[3], sys.argv[4:])
    else:
        sys.exit(main())
