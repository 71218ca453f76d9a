"""Two machines, one torchrun agent on each, train as one process does; so does the command."""

import sys
from pathlib import Path

import in_processes
import pytest
import torch

from fasttricks.loop import World

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT / "bench"))
import link  # noqa: E402
from namespaces import Missing, together, two_machines  # noqa: E402


@pytest.fixture
def machines():
    made = two_machines()
    try:
        pair = made.__enter__()
    except Missing as reason:
        pytest.skip(f"Two machines cannot be made: {reason}")
    try:
        yield pair
    finally:
        made.__exit__(None, None, None)


def test_two_machines_train_as_one_process(machines, tmp_path):
    together(machines, tmp_path, str(ROOT / "tests" / "in_processes.py"), str(tmp_path / "seen.pt"))
    seen = torch.load(tmp_path / "seen.pt", weights_only=True)
    alone = in_processes.observe(World())
    for name, tensor in alone["net"].items():
        assert torch.allclose(seen["net"][name], tensor, atol=1e-6), name
        assert torch.allclose(seen["tricked"][name], alone["tricked"][name], atol=1e-6), name
    assert (seen["rates"], seen["accuracy"]) == (alone["rates"], alone["accuracy"])
    assert seen["own"] == [True, True], "batch-norm statistics are each process's own"
    size = sum(4 * weight.numel() for weight in alone["net"].values())
    for machine in machines:
        assert machine.sent() > 20 * size, "the gradients of 8 and 12 steps crossed the cable"


def test_the_command_trains_across_machines(machines, tmp_path):
    words = ["fasttricks", "train", "--tricks", "all", "--without", "transfer"]
    words += ["--budget", "smoke", "--images", "640"]
    lines = [text.splitlines() for text in together(machines, tmp_path, "-m", *words)]
    told = [line for own in lines for line in own if line.startswith("wall ")]
    assert len(told) == 1, lines
    assert "2 process(es)" in told[0]


def test_the_model_of_a_link_is_judged():
    size, free = 1_000_000, 0.03
    slow = {rate: free + link.on_the_cable(size, rate) - 0.01 for rate in link.RATES}
    seconds = {link.FREE: free, **{link.link(rate): took for rate, took in slow.items()}}
    found = link.predict(seconds, [size])["with overlap"]
    assert found[link.FITTED] == pytest.approx(free + link.on_the_cable(size, link.FITTED))
    assert found[10] == pytest.approx(found[link.FITTED] + link.on_the_cable(size, 10) * 0.9)
    assert "within 4%" in link.verdict("m", {(128, 10): 0.04, (128, 20): -0.01})
    told = link.verdict("m", {(128, 10): 0.04, (128, 20): -0.5})
    assert told == (
        "The model m breaks, by up to 50%, at 20 Mbit/s with 128 images. Elsewhere it is within 4%."
    )
