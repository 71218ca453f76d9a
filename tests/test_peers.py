"""Peers are tuned alike, searched by the study's own rule, and recorded; wrong input is refused."""

import importlib.util
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from fasttricks import BASELINE, train
from fasttricks.machine import hardware, versions
from fasttricks.study.plan import DECLARED, TARGET
from fasttricks.study.runs import RUNS, append_record, read_records

ROOT = Path(__file__).resolve().parents[1]
PEERS = ROOT / "bench" / "peers"
NEEDS = {"fastai_one_cycle": 512, "plain_loop": 1024}  # images at which a peer arrives


@pytest.fixture
def study(monkeypatch):
    monkeypatch.syspath_prepend(PEERS)
    import study

    return study


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "tiny.toml"
    path.write_text(
        """
study = "tiny"
seeds = 2
ratio = 2.0
workers = 0
[ours]
plain = 1024
whole = 512
[tuning]
lr = { others = [1e-3, 2e-3] }
batch = [64, 128]
images = { others = 256 }
seeds = 1
slack = 0.01
[peers]
fastai_one_cycle = 512
plain_loop = 512
"""
    )
    return path


@pytest.fixture
def results(tmp_path, small):
    """A study of ours with nothing but its target, 0.85."""
    declared = (
        (ROOT / "bench" / "cpu.toml")
        .read_text(encoding="utf-8")
        .replace("target_seeds = 20", "target_seeds = 1")
    )
    run = replace(train(BASELINE, small, images=128), val_accuracy=0.85, images_seen=192_000)
    folder = tmp_path / "results" / "tiny"
    append_record(folder, TARGET, run.to_json())
    (folder / DECLARED).write_text(declared, encoding="utf-8")
    return tmp_path / "results"


def forget(folder, arm, images, seed):
    """Take one run out of a study's records."""
    path = folder / RUNS
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    what = (arm, images, seed)
    kept = [
        line
        for line in lines
        if (r := json.loads(line)) and (r["arm"], r["images_seen"], r["seed"]) != what
    ]
    assert len(kept) == len(lines) - 1
    path.write_text("".join(kept), encoding="utf-8")


@pytest.fixture
def made(study, small, monkeypatch):
    """Trains nothing; the trials, in order."""
    real, asked = train(BASELINE, small, images=128), []

    def instead(trial, declared, budget, target):
        asked.append(trial)
        if trial.setting is None:
            return replace(real, seed=trial.seed, images_seen=trial.images, val_accuracy=0.9,
                           train_seconds=trial.images / 1000)  # fmt: skip
        peer = next(name for name in NEEDS if name in trial.arm)
        lr, batch = trial.setting
        tuning = trial.arm.startswith("tune")
        accuracy = lr * batch if tuning else 0.9 if trial.images >= NEEDS[peer] else 0.1
        return study.PeerRun(peer, lr, batch, trial.images, trial.seed, trial.images / 500,
                             trial.images / 400, accuracy, hardware(), versions())  # fmt: skip

    monkeypatch.setattr(study, "run", instead)
    return asked


def test_tuned_then_searched_then_written(study, file, results, made, monkeypatch, capsys):
    assert study.measure(file, results, hours=1)
    tuning = [trial for trial in made if trial.arm.startswith("tune")]
    assert len(tuning) == 2 * 4, "every peer at every pair"
    assert made[: len(tuning)] == tuning, "before anything else"
    last = [trial for trial in made if trial.arm.startswith("last ")]
    assert made[-len(last) :] == last, "after everything else"
    assert [trial.arm for trial in last[:2]] == ["last plain", "last whole"]
    searched = [trial for trial in made if trial.setting and trial not in tuning]
    assert {trial.setting for trial in searched} == {(2e-3, 128)}, "with the best pair"
    declared, found = study.read(file), read_records(results / "peers-tiny", study.parse)
    text = study.page(declared, found, 0.85)
    rows = {line.split(" | ")[0]: line for line in text.split("## Tuning")[0].splitlines()}
    assert "| 512 |" in rows["| fastai_one_cycle"]
    assert "| 1,024 |" in rows["| plain_loop"]
    whole = min(trial.images for trial in made if trial.arm == "whole") / 1000
    assert f"| {1024 / 500 / whole:.2f} |" in rows["| plain_loop"]
    count = len(made)
    forget(results / "peers-tiny", "plain_loop", 1024, 1)
    assert study.measure(file, results, hours=1)
    assert [(trial.arm, trial.seed) for trial in made[count:]] == [("plain_loop", 1)]
    assert not list(study.trials(declared, found, 0.85))
    monkeypatch.setattr(sys, "argv", ["study.py", str(file), "--results", str(results), "--report"])
    assert study.main() == 0
    assert (results / "peers-tiny.md").read_text(encoding="utf-8") == text


def test_of_equally_accurate_settings_the_fastest_is_taken(study, file):
    declared, found = study.read(file), {}
    settings = {(1e-3, 64): (0.868, 9), (1e-3, 128): (0.861, 5), (2e-3, 64): (0.869, 12)}
    for peer in declared.peers:
        for (lr, batch), (accuracy, seconds) in settings.items():
            made = study.PeerRun(peer, lr, batch, 256, 0, seconds, seconds + 3, accuracy, {}, {})
            found[f"tune {peer} {lr:g} {batch}", 256] = {0: made}
    assert study.tune(declared, found)[1] == dict.fromkeys(declared.peers, (1e-3, 128))
    found["tune plain_loop 0.001 128", 256][0] = replace(made, val_accuracy=0.858)
    assert study.tune(declared, found)[1]["plain_loop"] == (1e-3, 64)


def test_wrong_input_is_one_sentence(study, file, results, made, monkeypatch, capsys):
    words = ["study.py", str(file), "--results", str(results), "--report"]
    monkeypatch.setattr(sys, "argv", words)
    assert study.main() == 2
    assert "no records yet" in capsys.readouterr().err
    assert study.measure(file, results, hours=1)
    path = results / "peers-tiny" / RUNS
    lines = path.read_text(encoding="utf-8").splitlines()
    last = json.loads(lines[-1])
    for change, word in (({"schema": 9}, "schema"), ({"mood": 1}, "mood"), ({"seed": 0}, "seed")):
        wrong = [*lines[:-1], json.dumps({**last, **change})]
        path.write_text("\n".join(wrong) + "\n", encoding="utf-8")
        assert study.main() == 2
        said = capsys.readouterr().err
        assert word in said
        assert f"{path}, line {len(lines)}" in said
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    file.write_text(
        file.read_text(encoding="utf-8").replace("plain_loop = 512", "no_such_peer = 512")
    )
    assert study.main() == 2
    assert "no_such_peer" in capsys.readouterr().err


def test_the_shipped_study_gives_every_peer_the_studys_trials(study):
    declared = study.read(PEERS / "cpu.toml")
    ours = study.read_study(ROOT / "bench" / "cpu.toml")
    trials = 2 * len(ours.tuning["plain"]["lr"]["adamw"]) * len(ours.tuning["plain"]["batch"])
    for peer, images in declared.peers.items():
        settings = declared.settings(peer)
        assert len(settings) == trials
        assert declared.tuning["seeds"] == ours.tuning["plain"]["seeds"]
        for (_, batch), number in ((s, n) for s in settings for n in range(-4, 5)):
            rung = study.whole_epochs(images * declared.ratio**number, batch)
            assert study.whole_epochs(rung, batch) == rung, (
                "a rung is whole epochs of whole batches"
            )


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
