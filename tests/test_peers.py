"""Each peer learns, and answers the same from the same seed."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

from fasttricks.study.plan import read_study

ROOT = Path(__file__).resolve().parents[1]
PEERS = ROOT / "bench" / "peers"


def test_the_declared_peers_are_programs():
    study = read_study(ROOT / "bench" / "cpu.toml")
    assert study.peers
    for name, settings in study.peers.items():
        assert (PEERS / f"{name}.py").exists()
        assert set(settings) == {"lr", "batch", "workers"}


PACKAGES = {"plain_loop": "torch", "timm_utilities": "timm", "fastai_one_cycle": "fastai",
            "lightning_one_cycle": "lightning"}  # fmt: skip


@pytest.mark.parametrize(
    "peer", [peer for peer, name in PACKAGES.items() if importlib.util.find_spec(name)]
)
def test_a_peer_learns_and_answers_the_same_again(peer):
    """Those whose library is here; `pip install -e .[peers]` brings the others."""
    words = {"images": 3200, "batch": 64, "lr": 5e-3, "seed": 0, "budget": "smoke", "workers": 0}
    answers = []
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, PEERS / f"{peer}.py", *(f"--{k}={v}" for k, v in words.items())],
            capture_output=True,
            encoding="utf-8",
            timeout=300,
        )
        assert done.returncode == 0, done.stderr
        answers.append(json.loads(done.stdout))
    for answer in answers:
        assert answer["images_seen"] == 3200
        assert 0 < answer["train_seconds"] < answer["wall_seconds"]
        assert answer["val_accuracy"] > 0.4
        assert PACKAGES[peer] in answer["versions"]
    assert answers[0]["val_accuracy"] == answers[1]["val_accuracy"], "a seed is all the chance"
