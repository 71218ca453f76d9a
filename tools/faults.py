"""Try what goes wrong on other people's machines, and count what is lost: `make faults`.

Every try starts the command that a reader types, harms it, and types it again; at the end the
weights must be those of a run that was never harmed, bit for bit. What a fault costs is the time
between the last checkpoint and the harm. The tries are drawn by a seed, so they can be repeated.
"""

import argparse
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import torch
from safetensors.torch import load_file

RUN = [sys.executable, "-m", "fasttricks", "train", "--tricks", "cyclic,mixup,smoothing,scaling"]
RUN += ["--budget", "smoke", "--images", "9600"]
# The same command, killed by itself at the moment of renaming: before or after, the n-th time.
RENAMING = """
import os, signal, sys
when, left = sys.argv.pop(1), int(sys.argv.pop(1))
real = os.replace
def replace(part, path):
    global left
    if str(path).endswith(".pt"):
        left -= 1
        if left == 0 and when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
    real(part, path)
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
os.replace = replace
from fasttricks.__main__ import run_and_exit
run_and_exit()
"""


@dataclass
class Count:
    """How often a fault was tried and survived, and what it cost at most."""

    tried: int = 0
    survived: int = 0
    lost: float = 0.0  # seconds of training, in the worst try
    said: str = ""  # the sentence that a reader gets
    wrong: list[str] = field(default_factory=list)  # what was seen where it was not survived

    def note(self, good: bool, said: str = "", lost: float = 0.0) -> None:
        """Add a try."""
        self.tried += 1
        self.survived += good
        self.lost = max(self.lost, lost)
        self.said = said or self.said
        if not good:
            self.wrong.append(said)


class Bench:
    """A folder to try things in, and the weights that a run must end with."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder, self.random, self.number = folder, random.Random(seed), 0
        self.launches = Count()  # of two processes, that nobody harmed
        self.wanted = {n: self.weights(self.finish(self.words(n), n)[1]) for n in (1, 2)}

    def words(self, processes: int, *more: str) -> list[str]:
        """A command with folders of its own."""
        self.number += 1
        kept, net = self.folder / f"kept{self.number}", self.folder / f"{self.number}.safetensors"
        several = ["--processes", str(processes), "--share-devices"] if processes > 1 else []
        files = ["--checkpoint", str(kept), "--every", "0", "--save", str(net)]
        return [*RUN, *several, *files, *more]

    def start(self, words: list[str]) -> subprocess.Popen[str]:
        """Start a command as a terminal does."""
        return subprocess.Popen(
            words,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            start_new_session=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )

    def finish(self, words: list[str], processes: int = 1) -> tuple[int, Path, str]:
        """Run a command to its end: its status, its weights, its last words."""
        with self.start(words) as process:
            said = process.communicate()[0]
        if processes == 2:
            self.launches.note(process.returncode == 0, last_line(said))
        return process.returncode, Path(words[words.index("--save") + 1]), last_line(said)

    def weights(self, path: Path) -> dict[str, torch.Tensor]:
        """The tensors of a file."""
        return load_file(path)

    def same(self, path: Path, processes: int) -> bool:
        """Whether a run has ended as one that was not harmed, to the last bit."""
        if not path.exists():
            return False
        found, wanted = self.weights(path), self.wanted[processes]
        return all(torch.equal(found[name], wanted[name]) for name in wanted)

    def again(self, words: list[str], processes: int, said: str, lost: float, count: Count) -> None:
        """Type the command once more, and see whether nothing is lost."""
        status, net, last = self.finish(words, processes)
        good = status == 0 and self.same(net, processes)
        count.note(good, said if good else f"{said} | {last}", lost)

    def harm(
        self, words: list[str], strike: Callable[[subprocess.Popen[str]], None]
    ) -> tuple[int, str, float]:
        """Start a command, strike at a random moment; status, last words, seconds lost."""
        kept = Path(words[words.index("--checkpoint") + 1])
        with self.start(words) as process:
            while not newest(kept) and process.poll() is None:
                time.sleep(0.02)
            time.sleep(self.random.uniform(0, 2.0))
            struck, last = time.time(), newest(kept)
            family = children(process)
            strike(process)
            said = process.communicate()[0]
        lost = max(0.0, struck - last)
        time.sleep(0.2)
        left = [one for one in family if alive(one, seconds=5)]
        for one in left:
            one.kill()
        words_left = f" | {len(left)} process(es) left behind" if left else ""
        return process.returncode, last_line(said) + words_left, lost


def newest(folder: Path) -> float:
    """When the last checkpoint there was written, or 0."""
    return max((path.stat().st_mtime for path in folder.glob("step-*.pt")), default=0.0)


def children(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """All that a process has started."""
    try:
        return psutil.Process(process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def alive(process: psutil.Process, seconds: float) -> bool:
    """Whether it still runs after so long."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if not process.is_running() or process.status() == psutil.STATUS_ZOMBIE:
            return False
        time.sleep(0.1)
    return True


def last_line(said: str) -> str:
    """The last line that is not empty."""
    lines = [line for line in re.split(r"[\r\n]+", said) if line.strip() and "images/s" not in line]
    return lines[-1].strip() if lines else ""


def workers(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """The processes that train."""
    return [one for one in children(process) if "fasttricks.worker" in " ".join(one.cmdline()[:5])]


def kill_all(process: subprocess.Popen[str]) -> None:
    """As when the power fails."""
    for one in [*children(process), psutil.Process(process.pid)]:
        one.kill()


def kill_a_rank(bench: Bench) -> Callable[[subprocess.Popen[str]], None]:
    """One of the processes that train."""
    return lambda process: bench.random.choice(workers(process)).kill()


def kill_the_agent(process: subprocess.Popen[str]) -> None:
    """torchrun itself."""
    for one in children(process):
        if "torch.distributed.run" in " ".join(one.cmdline()[:5]):
            one.kill()


# The faults, each tried so many times.


def power(bench: Bench, tries: int) -> Iterator[tuple[str, Count]]:
    """SIGKILL at random moments, and at the moment of renaming."""
    for name, processes, strike in (
        ("SIGKILL of all, one process", 1, kill_all),
        ("SIGKILL of all, two processes", 2, kill_all),
        ("SIGKILL of a rank", 2, kill_a_rank(bench)),
        ("SIGKILL of torchrun", 2, kill_the_agent),
        ("SIGKILL of the launcher", 2, lambda process: process.kill()),
    ):
        count = Count()
        for _ in range(tries):
            words = bench.words(processes)
            _, said, lost = bench.harm(words, strike)
            bench.again(words, processes, said, lost, count)
        yield name, count
    count = Count()
    for when in ("before", "after"):
        for number in range(1, 1 + max(1, tries // 2)):
            words = bench.words(1)
            program = [sys.executable, "-c", RENAMING, when, str(number), *words[3:]]
            status, _, _ = bench.finish(program)
            assert status == -signal.SIGKILL, "it must have killed itself"
            bench.again(words, 1, "", 0.0, count)
    yield "SIGKILL while a checkpoint is renamed", count


def restarts(bench: Bench, tries: int) -> Iterator[tuple[str, Count]]:
    """A rank is killed, and torchrun starts all again without a person."""
    count = Count()
    for _ in range(tries):
        words = bench.words(2, "--max-restarts", "1")
        status, said, lost = bench.harm(words, kill_a_rank(bench))
        net = Path(words[words.index("--save") + 1])
        count.note(status == 0 and bench.same(net, 2), said, lost)
    yield "SIGKILL of a rank with --max-restarts 1", count


def signals(bench: Bench, tries: int) -> Iterator[tuple[str, Count]]:
    """Told to end: kept, one sentence, nothing left behind."""
    for number in (signal.SIGTERM, signal.SIGINT):
        for processes in (1, 2):
            count = Count()
            for _ in range(tries):
                words = bench.words(processes)
                status, said, lost = bench.harm(words, lambda p, n=number: p.send_signal(n))
                if status != 130 or "left behind" in said:
                    count.note(False, f"status {status}: {said}")
                    continue
                bench.again(words, processes, said, lost, count)
            yield f"{number.name}, {processes} process(es)", count


def damage(bench: Bench, tries: int) -> Iterator[tuple[str, Count]]:
    """A checkpoint is cut short, altered, or is something else."""

    def cut(path: Path) -> None:
        path.write_bytes(path.read_bytes()[: bench.random.randrange(path.stat().st_size)])

    def flip(path: Path) -> None:
        content = bytearray(path.read_bytes())
        content[bench.random.randrange(len(content))] ^= 1 << bench.random.randrange(8)
        path.write_bytes(content)

    def swap(path: Path) -> None:
        path.write_bytes(os.urandom(path.stat().st_size))

    for name, harm in (("truncated", cut), ("bit-flipped", flip), ("foreign", swap)):
        count = Count()
        for _ in range(tries):
            words = bench.words(1)
            bench.harm(words, kill_all)
            harm(max(Path(words[words.index("--checkpoint") + 1]).glob("step-*.pt")))
            with bench.start(words) as process:
                said = process.communicate()[0]
            told = [line for line in re.split(r"[\r\n]+", said) if "is damaged" in line]
            net = Path(words[words.index("--save") + 1])
            good = process.returncode == 0 and len(told) == 1 and bench.same(net, 1)
            count.note(good, told[0] if told else last_line(said))
        yield f"the last checkpoint is {name}", count


@contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[Path]:
    """A disk of so many megabytes. Raises OSError where it may not be mounted."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder)]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise OSError(f"no small disk can be mounted here ({error})") from None
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def disks(bench: Bench, tries: int) -> Iterator[tuple[str, Count]]:
    """A full disk, and a folder that cannot be written."""
    count = Count()
    try:
        for _ in range(max(1, tries // 2)):
            with small_disk(bench.folder / f"disk{bench.number}", 6) as disk:
                words = bench.words(1)
                words[words.index("--checkpoint") + 1] = str(disk / "kept")
                with bench.start(words) as process:
                    said = process.communicate()[0]
                told = [li for li in re.split(r"[\r\n]+", said) if "No checkpoint could" in li]
                net = Path(words[words.index("--save") + 1])
                count.note(bool(told) and bench.same(net, 1), told[0] if told else last_line(said))
        yield "the disk is full", count
    except OSError as error:
        yield f"the disk is full: not run, {error}", count
    count = Count()
    (bench.folder / "file").write_text("taken", encoding="utf-8")
    words = bench.words(1)
    words[words.index("--checkpoint") + 1] = str(bench.folder / "file" / "kept")
    status, _, said = bench.finish(words)
    count.note(status == 2, said)
    yield "the folder cannot be written", count


def changes(bench: Bench, tries: int) -> Iterator[tuple[str, Count]]:
    """Another recipe, another number of processes."""
    count = Count()
    for change in (["--seed", "7"], ["--images", "4800"], ["--tricks", "cyclic,mixup,scaling"]):
        words = bench.words(1)
        bench.harm(words, kill_all)
        status, _, said = bench.finish([*words, *change])
        count.note(status == 2 and "keeps another run" in said, said)
    yield "another recipe in the folder", count
    for before, after in ((1, 2), (2, 1), (2, 3)):
        count = Count()
        words = bench.words(before)
        bench.harm(words, kill_all)
        several = ["--processes", str(after), "--share-devices", "--out", f"{words[-1]}.json"]
        status, _, said = bench.finish([*words, *several])
        record = Path(f"{words[-1]}.json")
        run = json.loads(record.read_text(encoding="utf-8")) if status == 0 else {}
        good = run.get("processes") == after and run["resumed"] == 1 and run["steps"] == 60
        count.note(good, said)
        yield f"{before} process(es), then {after}", count


def ports(bench: Bench, tries: int) -> Iterator[tuple[str, Count]]:
    """The port that torchrun is told to use is taken."""
    count = Count()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
        words = bench.words(1, "--share-devices")
        where = ["--master-addr", "127.0.0.1", "--master-port", port]
        program = [*torchrun, *where, "-m", *words[2:]]
        with bench.start(program) as process:
            said = process.communicate()[0]
    lines = [line for line in said.splitlines() if "address already in use" in line.lower()]
    count.note(process.returncode != 0 and bool(lines), lines[0] if lines else last_line(said))
    yield "a port in use (torchrun's own words)", count


def exits(bench: Bench, launches: int) -> Iterator[tuple[str, Count]]:
    """A good run is told as one, however its processes end: those above, and more."""
    while bench.launches.tried < launches:
        words = [*bench.words(2), "--images", "640"]
        bench.finish(words, processes=2)
    yield "a launch of two that is not harmed", bench.launches


def memory(bench: Bench, epochs: int = 200) -> Iterator[tuple[str, Count]]:
    """No growth over many epochs of a tiny run."""
    count = Count()
    program = (
        "import psutil, torch, fasttricks as f\n"
        "from fasttricks.loop import fit\nfrom fasttricks.models import begin\n"
        "data = f.load().subset(256)\n"
        "data = f.data.Data(data.name, data.classes, data.train, data.val[:64], data.test[:64])\n"
        "recipe = sum(f.SEVEN, start=f.BASELINE) - 'distributed'\n"
        "net, seen = begin(recipe, 'test_resnet', 1, 10, 28), []\n"
        "def show(images, accuracy):\n"
        "    seen.append(psutil.Process().memory_info().rss / 1e6)\n"
        f"fit(recipe, net, data, {epochs} * 256, 0, {epochs}, show=show)\n"
        "print(max(seen[len(seen) // 4:]) - max(seen[:len(seen) // 4]))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, encoding="utf-8")
    grown = float(done.stdout) if done.returncode == 0 else float("inf")
    count.note(grown < 20, f"{grown:.1f} MB more after {epochs} epochs than after {epochs // 4}")
    yield "memory over a long run", count


def main() -> None:
    """Try all, print a table; status 1 if anything was not survived."""
    options = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    options.add_argument("--tries", type=int, default=5, help="of a kill; two fewer of others [5]")
    options.add_argument("--launches", type=int, default=50, help="of two processes, unharmed [50]")
    options.add_argument("--seed", type=int, default=0, help="of the random moments [0]")
    asked = options.parse_args()
    failed = 0
    with tempfile.TemporaryDirectory() as name:
        bench = Bench(Path(name), asked.seed)
        print(
            "| fault | tried | survived | lost at most | said |\n|---|---|---|---|---|", flush=True
        )
        few = max(1, asked.tries - 2)  # a kill is drawn from many moments, the others from few
        turns = (power, asked.tries), (restarts, asked.tries), (signals, few), (damage, few)
        for fault, tries in (*turns, (disks, asked.tries), (changes, 1), (ports, 1)):
            for what, count in fault(bench, tries):
                failed += report(what, count)
        for found in (exits(bench, asked.launches), memory(bench)):
            for what, count in found:
                failed += report(what, count)
    sys.exit(failed > 0)


def report(what: str, count: Count) -> bool:
    """Print a row of the table; whether something was not survived."""
    said = count.said.replace("|", "/")
    lost = f"{count.lost:.1f} s" if count.lost else ""
    print(f"| {what} | {count.tried} | {count.survived} | {lost} | {said:.220} |", flush=True)
    for wrong in count.wrong:
        print(f"  not survived: {wrong}", file=sys.stderr, flush=True)
    return bool(count.wrong)


if __name__ == "__main__":
    main()
