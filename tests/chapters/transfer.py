"""Chapter 6: two plausible wrong answers a question, and a trick broken so that a claim fails."""

import math


def by_tensor(names, head, decay):
    """Counts tensors where blocks are asked for."""
    body = [name for name in names if not name.startswith(head)]
    return {n: decay ** (len(body) - body.index(n)) if n in body else 1.0 for n in names}


def upside_down(names, head, decay):
    """The input learns fastest."""
    blocks = list(dict.fromkeys(name.split(".")[0] for name in names if not name.startswith(head)))
    found = {block: decay ** (number + 1) for number, block in enumerate(blocks)}
    return {name: found.get(name.split(".")[0], 1.0) for name in names}


WRONG = {
    1: [
        lambda weight, colours: weight.mean(1, keepdim=True).expand(-1, colours, -1, -1),
        lambda weight, colours: weight.sum(1, keepdim=True).expand(-1, colours, -1, -1),
        lambda weight, colours: weight[:, :1].expand(-1, colours, -1, -1) / colours,
    ],
    2: [
        lambda cost, saved: int(cost // saved) + 1 if saved > 0 else math.inf,
        lambda cost, saved: math.ceil(cost / saved) if saved else math.inf,
        lambda cost, saved: round(cost / saved) if saved > 0 else math.inf,
    ],
    3: [by_tensor, upside_down],
}

SABOTAGE = """
from fasttricks.tricks import transfer
transfer.transplant = lambda own, given, head: dict(own)  # forgets to bring the body
"""
