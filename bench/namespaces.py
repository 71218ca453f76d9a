"""Two machines on one: Linux network namespaces, joined by a cable that can be slowed down.

Each namespace has its own addresses and its own loopback, so its processes meet those of the other
only across the cable (a veth pair). It needs Linux, the rights of root, and iproute2's `ip`, `tc`.
"""

import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

CABLE = "cable"  # the network device in either machine
ADDRESSES = "10.77.0.1", "10.77.0.2"  # nobody outside sees them, so every pair can have the same


class Missing(Exception):
    """The tools, the rights or the kernel that two machines need are not here."""


def call(*words: str) -> str:
    """What a command prints. Raises Missing if there is none, or if it fails."""
    try:
        done = subprocess.run(words, capture_output=True, encoding="utf-8", check=True)
    except FileNotFoundError:
        raise Missing(f"There is no command {words[0]!r} here; iproute2 has it.") from None
    except subprocess.CalledProcessError as error:
        said = " ".join(error.stderr.split()) or f"status {error.returncode}"
        raise Missing(f"`{' '.join(words)}` failed here: {said}") from None
    return done.stdout


@dataclass(frozen=True)
class Machine:
    """One of the two."""

    name: str  # of its namespace
    address: str  # on the cable

    def sent(self) -> int:
        """Bytes that it has put on the cable so far, headers among them."""
        path = f"/sys/class/net/{CABLE}/statistics/tx_bytes"
        return int(call("ip", "netns", "exec", self.name, "cat", path))

    def torchrun(
        self,
        folder: Path,  # where torchrun and its processes may leave files
        out: IO,  # takes what it writes
        *words: str,  # the program and its arguments
    ) -> subprocess.Popen:
        """Start this machine's agent of a run on both; the first one is where they meet."""
        first = self.address == ADDRESSES[0]
        command = ["ip", "netns", "exec", self.name, sys.executable, "-m", "torch.distributed.run"]
        command += ["--nnodes", "2", "--nproc-per-node", "1", "--log-dir", str(folder)]
        command += ["--rdzv-backend", "c10d", "--rdzv-endpoint", f"{ADDRESSES[0]}:29500"]
        # Both have one host name, so torchrun cannot tell by itself where the meeting point is.
        command += ["--rdzv-conf", f"is_host={int(first)}", "--local-addr", self.address]
        own = {"GLOO_SOCKET_IFNAME": CABLE, "OMP_NUM_THREADS": "1", "TMPDIR": str(folder)}
        return subprocess.Popen(
            [*command, *words], env={**os.environ, **own}, stdout=out, stderr=subprocess.STDOUT
        )


@contextmanager
def two_machines() -> Iterator[tuple[Machine, Machine]]:
    """Two machines and their cable, gone afterwards with all that still runs in them.

    Raises Missing where they cannot be made.
    """
    names = [f"machine-{secrets.token_hex(4)}-{number}" for number in (1, 2)]
    try:
        for name in names:
            call("ip", "netns", "add", name)
        cable = ("link", "add", CABLE, "netns", names[0], "type", "veth")
        call("ip", *cable, "peer", "name", CABLE, "netns", names[1])
        for name, address in zip(names, ADDRESSES, strict=True):
            call("ip", "netns", "exec", name, "ip", "link", "set", "lo", "up")
            call("ip", "-n", name, "address", "add", f"{address}/24", "dev", CABLE)
            call("ip", "-n", name, "link", "set", CABLE, "up")
        first, second = map(Machine, names, ADDRESSES)
        yield first, second
    finally:
        for name in names:
            with suppress(Missing):
                for process in call("ip", "netns", "pids", name).split():
                    with suppress(ProcessLookupError):
                        os.kill(int(process), signal.SIGKILL)
                call("ip", "netns", "delete", name)


def together(
    machines: tuple[Machine, Machine],
    folder: Path,
    *words: str,  # the program and its arguments, the same on both
    timeout: float = 600,  # seconds for both
) -> list[str]:
    """Run a program on both machines as one torchrun job; what it wrote on each.

    Raises RuntimeError with the last words if it fails on one, TimeoutExpired if it takes longer.
    """
    outs = [folder / f"{machine.name}.txt" for machine in machines]
    agents, ends = [], time.monotonic() + timeout
    try:
        for machine, out in zip(machines, outs, strict=True):
            with out.open("wb") as file:
                agents.append(machine.torchrun(folder, file, *words))
        statuses = [agent.wait(ends - time.monotonic()) for agent in agents]
    finally:
        for agent in agents:
            agent.kill()
            agent.wait()
    said = [out.read_text(encoding="utf-8", errors="replace") for out in outs]
    for status, text in zip(statuses, said, strict=True):
        if status:
            raise RuntimeError(f"An agent of the run ended with status {status}:\n{text[-3000:]}")
    return said
