"""Chapter 2: two plausible wrong answers a question, and a trick broken so that a claim fails."""

WRONG = {
    1: [
        lambda lr, reference, batch, processes, optimizer: lr * batch * processes / reference,
        lambda lr, reference, batch, processes, optimizer: (
            lr * (batch / reference) ** (1.0 if optimizer == "sgd" else 0.5)
        ),
    ],
    2: [
        lambda step, ramp, start, lr: lr * min(1.0, step / ramp) if ramp else lr,
        lambda step, ramp, start, lr: lr * (start + (1 - start) * step / ramp) if ramp else lr,
    ],
    3: [lambda lr, curvature: 1 / (lr * curvature), lambda lr, curvature: 2 / lr],
}

SABOTAGE = """
from fasttricks.tricks import scaling
scaling.scale = lambda batch, reference, rule: (reference / batch) ** scaling.POWER[rule]
"""
