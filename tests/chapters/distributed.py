"""Chapter 1: two plausible wrong answers a question, and a trick broken so that a claim fails."""

WRONG = {
    1: [
        lambda parameters, processes: 2 * (processes - 1) * 4 * parameters,
        lambda parameters, processes: 2 * (processes - 1) / processes * parameters,
    ],
    2: [
        lambda values, rank, processes: values[
            rank * (len(values) // processes) : (rank + 1) * (len(values) // processes)
        ],
        lambda values, rank, processes: values[rank::processes],
    ],
    3: [
        lambda gradients, counts: gradients.mean(0),
        lambda gradients, counts: (gradients * counts[:, None]).sum(0),
    ],
}

SABOTAGE = """
from fasttricks.tricks import distributed
distributed.shard = lambda values, rank, processes: values[: len(values) // processes]  # overlap
"""
