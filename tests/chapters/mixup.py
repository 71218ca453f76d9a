"""Chapter 4: two plausible wrong answers a question, and a trick broken so that a claim fails."""

import torch
from torch.nn.functional import cross_entropy


def paste(x, other, top, left, side):
    square = slice(top, top + side), slice(left, left + side)
    pasted = x.clone()
    pasted[:, :, *square] = x[other][:, :, *square]
    return pasted


def by_side(x, q, other, top, left, side):
    lam = 1 - side / x.shape[-1]
    return paste(x, other, top, left, side), lam * q + (1 - lam) * q[other]


def in_place(x, q, other, top, left, side):
    x[:] = paste(x, other, top, left, side)
    return x, 0.75 * q + 0.25 * q[other]


WRONG = {
    1: [
        lambda logits, y, other, lam: (
            lam * cross_entropy(logits, y) + (1 - lam) * cross_entropy(logits[other], y[other])
        ),
        lambda logits, y, other, lam: cross_entropy(logits, y if lam >= 0.5 else y[other]),
    ],
    2: [
        lambda q: -(q * q.log()).sum(1).mean(),
        lambda q: torch.special.entr(q).sum(),
        lambda q: -q.max(1).values.log().mean(),
    ],
    3: [
        lambda x, q, other, top, left, side: (paste(x, other, top, left, side), q),
        by_side,
        in_place,
    ],
}

SABOTAGE = """
from fasttricks.tricks import mixup
mixup.mix = lambda x, q, lam, other: (  # forgets to mix the labels
    lam.view(-1, 1, 1, 1) * x + (1 - lam.view(-1, 1, 1, 1)) * x[other], q
)
"""
