"""One of two processes, each on its own machine: the seconds of training steps by link.

Started on both machines by link.py. Each process slows down its own end of the cable, so that one
pair of processes measures every link, in turns, and all of them see the same machine.

usage: link_steps.py FOLDER    reads FOLDER/task.json; the first process writes FOLDER/result.json
"""

import json
import os
import statistics
import sys
import time
from pathlib import Path

import torch
from namespaces import CABLE, call

from fasttricks import BASELINE, Distributed, load
from fasttricks.files import write_json
from fasttricks.loop import World, cross_entropy
from fasttricks.models import begin, optimizer_for


def settle(rank: int) -> None:
    """Keep this process on a core of its own; settle how connections made later will send."""
    seen = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {seen[rank % len(seen)]})
    # Reno asks for no rate of its own, and is in every kernel. Pieces of 16 KB fit into the bucket
    # of tokens; larger ones would be cut up by the processor that trains.
    reno = Path("/proc/sys/net/ipv4/tcp_congestion_control")
    reno.write_text("reno", encoding="ascii")
    call("ip", "link", "set", CABLE, "gso_max_size", "16384")


def set_link(rule: str) -> None:
    """Slow this end of the cable down as `tc` is told, or not at all if the rule is empty."""
    time.sleep(0.1)  # what still queues would be lost
    call("tc", "qdisc", "replace", "dev", CABLE, "root", *(rule.split() or ["pfifo"]))


class Trainer:
    """One copy of the model, and the batch that it sees in every step."""

    def __init__(self, world: World, batch: int, talks: bool) -> None:
        torch.manual_seed(0)
        data, net = load(), begin(BASELINE, "test_resnet", 1, 10, 28)
        drawn = next(data.draws(batch, torch.Generator().manual_seed(0)))
        self.x, self.q = data.batch(*(world.shard(values) for values in drawn))
        self.optimizer = optimizer_for(BASELINE, net)
        self.model = world.wrap(net) if talks else net

    def step(self) -> float:
        """Train one step; its seconds."""
        started = time.perf_counter()
        cross_entropy(self.model(self.x), self.q).backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        return time.perf_counter() - started


def measure(world: World, batch: int, task: dict) -> dict:
    """Median seconds of a step by link, and the bytes of the messages that a step sends."""
    alone, joined = Trainer(world, batch, talks=False), Trainer(world, batch, talks=True)
    seconds = {name: [] for name in (task["alone"], *task["links"])}
    for _ in range(task["turns"]):
        for name, found in seconds.items():
            set_link(task["links"].get(name, ""))
            world.reduce(torch.zeros(1))  # both are ready
            trainer = alone if name == task["alone"] else joined
            steps = [trainer.step() for _ in range(2 + task["steps"])][2:]  # two warm up
            both = world.reduce(torch.tensor(steps, dtype=torch.float64)) / world.processes
            found += both.tolist()
    sizes = joined.model._get_ddp_logging_data()["rebuilt_bucket_sizes"]
    return {
        "seconds": {name: statistics.median(found) for name, found in seconds.items()},
        "messages": [int(size) for size in sizes.split(",")],
    }


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    given = json.loads((folder / "task.json").read_text(encoding="utf-8"))
    settle(int(os.environ["RANK"]))
    with Distributed(share_devices=True).join() as here:
        seen = {str(batch): measure(here, batch, given) for batch in given["batches"]}
        if here.rank == 0:
            write_json(folder / "result.json", seen)
