"""How training on two machines slows down with the link between them, beside a model of it.

The two machines are network namespaces on this one, with a core each; `tc` holds their cable down.
Plain steps of the shared model are timed in fp32 with one thread a process.

The model of chapter 1 adds up: a step takes as long as alone, plus an overhead, plus bytes / rate.
Of N = 2 machines each sends 2 (N - 1) / N = 1 times the gradient's bytes, and headers: 66 bytes on
1,448. The latency of the few rounds is part of the overhead.

PyTorch's DDP sends the gradient in several messages, each as soon as it is ready. All but the last
travel while the backward pass goes on, so a part of the time is hidden:

    step = alone + overhead + max(last / rate, bytes / rate - hidden)

`last` is the last message, for which there is nothing left to compute. The two constants are fitted
for each batch on two links only: the overhead on the one without a limit, `hidden` on 100 Mbit/s.

The limit is a bucket of tokens (tbf). A full bucket passes at once, so it is kept small: half a
millisecond of the rate, at least one piece of 16 KB. The queue holds 4 MB, so that nothing is lost.
"""

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path

from namespaces import CABLE, Machine, Missing, call, together, two_machines

RATES = (10, 20, 50, 100, 200, 500, 1000)  # Mbit/s
FITTED = 100  # the rate that `hidden` is fitted on
FREE = "no limit"  # the link that the overhead is fitted on
WORSE = {"5 ms later": "netem delay 5ms", "1% lost": "netem loss 1%"}  # what tc is told
BATCHES = (128, 512)  # images a step, half of them on each machine
TOLERANCE = 0.20  # the error that a useful model may have
ALONE = "not talking"  # the same two processes, each with its shard, without averaging


def link(rate: int) -> str:
    """The name of a link of so many Mbit/s."""
    return f"{rate} Mbit/s"


def links_here(machine: Machine) -> tuple[dict[str, str], str]:
    """What `tc` is told for each link, and a sentence on those that this kernel cannot make."""
    links = {link(r): f"tbf rate {r}mbit burst {max(20_000, 62 * r)} limit 4mb" for r in RATES}
    try:
        for rule in (links[link(RATES[0])], "pfifo"):  # to try, and to undo
            replace = ("tc", "-n", machine.name, "qdisc", "replace", "dev", CABLE, "root")
            call(*replace, *rule.split())
        for rule in WORSE.values():
            call(*replace, *rule.split())
    except Missing as reason:
        if "netem" not in str(reason):
            raise
        return {**links, FREE: ""}, f"Delay and loss: not run, this kernel has no netem. {reason}"
    return {**links, FREE: "", **WORSE}, ""


def measure(turns: int, steps: int) -> tuple[dict, str]:
    """Median seconds of a step by batch and link, and a sentence on what was not run."""
    if len(os.sched_getaffinity(0)) < 2:
        raise Missing("Two machines need a core each, and one core can be seen.")
    with tempfile.TemporaryDirectory() as name, two_machines() as machines:
        folder = Path(name)
        links, note = links_here(machines[0])
        task = {"alone": ALONE, "links": links, "batches": BATCHES, "turns": turns, "steps": steps}
        (folder / "task.json").write_text(json.dumps(task), encoding="utf-8")
        program = Path(__file__).with_name("link_steps.py")
        together(machines, folder, str(program), str(folder))
        found = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    return {int(batch): seen for batch, seen in found.items()}, note


def on_the_cable(size: float, rate: int) -> float:
    """Seconds that so many bytes take, with their headers, at so many Mbit/s."""
    return size * (1 + 66 / 1448) * 8 / (rate * 1e6)


def predict(
    seconds: dict[str, float],  # of a step, by link
    messages: list[int],  # bytes of each message of a step
) -> dict[str, dict[int, float]]:
    """Seconds of a step by rate, as DDP overlaps and as chapter 1 adds up."""
    size, free = sum(messages), seconds[FREE]  # the latter is alone + overhead
    hidden = on_the_cable(size, FITTED) + free - seconds[link(FITTED)]
    chapter = {rate: free + on_the_cable(size, rate) for rate in RATES}
    overlap = {
        rate: max(free + on_the_cable(messages[-1], rate), chapter[rate] - hidden) for rate in RATES
    }
    return {"with overlap": overlap, "chapter 1": chapter}


def verdict(
    model: str,
    errors: dict[tuple[int, int], float],  # by batch and rate, of those not fitted on
) -> str:
    """One sentence on how far a model can be trusted."""
    wrong = [key for key, error in errors.items() if abs(error) > TOLERANCE]
    worst = max(map(abs, errors.values()))
    if not wrong:
        return f"The model {model} is within {worst:.0%} on every rate that it was not fitted on."
    where = ", ".join(f"{rate} Mbit/s with {batch} images" for batch, rate in wrong)
    rest = [abs(error) for key, error in errors.items() if key not in wrong]
    others = f" Elsewhere it is within {max(rest):.0%}." if rest else ""
    return f"The model {model} breaks, by up to {worst:.0%}, at {where}.{others}"


def report(found: dict) -> tuple[list[str], list[str]]:
    """The lines of the table, and the verdict on each model."""
    head = ["images", "link", "ms a step", "images/s", "efficiency", "with overlap", "chapter 1"]
    lines, errors = [("{:>6}  {:<12}" + "{:>14}" * 5).format(*head)], {}
    for batch, seen in found.items():
        seconds, models = seen["seconds"], predict(seen["seconds"], seen["messages"])
        for name, took in seconds.items():
            cells = []
            for model, guesses in models.items():
                guess = {link(rate): guess for rate, guess in guesses.items()}.get(name)
                fitted = name == link(FITTED) and model == "with overlap"
                mark = "fitted" if fitted or name == FREE else ""
                if guess is not None and not mark:
                    error = guess / took - 1
                    errors.setdefault(model, {})[batch, int(name.split()[0])] = error
                    mark = f"{1e3 * guess:.1f} {error:+4.0%}"
                cells.append(mark)
            share = seconds[ALONE] / took
            lines.append(
                f"{batch:>6}  {name:<12}{1e3 * took:>14.1f}{batch / took:>14,.0f}{share:>14.2f}"
                f"{cells[0]:>14}{cells[1]:>14}"
            )
    return lines, [verdict(model, some) for model, some in errors.items()]


def main() -> int:
    """Measure, print the table and the verdicts; 2 where two machines cannot be made."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, metavar="FILE", help="write what was measured, JSON")
    parser.add_argument("--turns", type=int, default=3, help="times that each link has its turn")
    parser.add_argument("--steps", type=int, default=7, help="steps a turn that count")
    options = parser.parse_args()
    try:
        found, note = measure(options.turns, options.steps)
    except Missing as reason:
        print(f"link: not run. {reason}", file=sys.stderr)
        return 2
    table, verdicts = report(found)
    print("\n".join([*table, "", *verdicts, *filter(None, [note])]))
    if options.out:
        from fasttricks import files, machine

        about = {"hardware": machine.hardware(), "versions": machine.versions()}
        told = {"table": table, "verdicts": verdicts, "note": note}
        files.write_json(options.out, {"measured": found, **told, **about})
    return 0


if __name__ == "__main__":
    sys.exit(main())
