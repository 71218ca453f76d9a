"""A run that was cut off ends as one that was not, bit for bit, or says why it cannot."""

import json
import os
import pickle
import signal
import subprocess
import sys
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from stumbling import Stumble
from torch import nn

from fasttricks import (
    BASELINE,
    SEVEN,
    Distributed,
    LRScaling,
    MixedPrecision,
    Mixup,
    OneCycle,
    train,
)
from fasttricks.__main__ import main
from fasttricks.checkpoint import UNKEPT, Keeper
from fasttricks.course import train_arms
from fasttricks.files import encoded
from fasttricks.loop import fit
from fasttricks.models import create
from fasttricks.recipe import Recipe
from fasttricks.stopping import Interrupted, listening
from fasttricks.tricks.distributed import World

PLAIN = Recipe(lr=0.05, batch=64, optimizer="sgd")
TRICKS = PLAIN + LRScaling(64, 32) + OneCycle(peak=2.0, rise=0.3) + Mixup(0.4)
RECIPES = {
    "plain": PLAIN,
    "tricks": TRICKS,
    "AdamW": replace(TRICKS, optimizer="adamw", lr=1e-3, clip=1.0),
    "fp16": TRICKS + MixedPrecision("fp16"),
    "accumulated": TRICKS + Distributed(1, accumulate=3),
}
IMAGES = 20 * 64


class Dropped(nn.Module):
    """A net that draws from torch's own random numbers as well."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.body = create("test_resnet", 1, 10, drop_rate=0.3)
        self.pretrained_cfg = {"classifier": "body.fc"}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.body(x)


class CutError(Exception):
    """As if the power had failed."""


def run(recipe, data, keeper=UNKEPT, cut=None):
    """A whole run, or one that is cut off after so many images; the net and what was found."""
    net, world = Dropped(), World(accumulate=recipe.world.accumulate)

    def show(images, accuracy):
        if cut and images >= cut * 64:
            raise CutError

    return net, fit(recipe, net, data, IMAGES, 5, 4, world, show, keeper)


def same(one, other):
    """Whether two nets are the same, to the last bit."""
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def accuracies(done):
    """What each evaluation found, after how many images."""
    return [(images, accuracy) for images, _, accuracy in done.curve]


@pytest.mark.parametrize("name", RECIPES)
def test_a_cut_run_ends_as_one_that_was_not_cut(name, small, tmp_path):
    recipe = RECIPES[name]
    wanted, whole = run(recipe, small)
    for cut in (1, 4, 5, 12, 19):  # before, at and after an evaluation
        with pytest.raises(CutError):
            run(recipe, small, Keeper(tmp_path, 0.0, {}), cut)
        assert len(list(tmp_path.iterdir())) <= 2
    net, done = run(recipe, small, Keeper(tmp_path, 0.0, {}))
    assert 1 <= done.resumed <= 5
    assert same(net, wanted)
    assert accuracies(done) == accuracies(whole)
    counts = [(d.steps, d.images_seen, d.skipped_steps) for d in (done, whole)]
    assert counts[0] == counts[1]
    assert done.train_seconds > 0


def test_what_is_kept_is_needed(small, tmp_path, monkeypatch):
    """The test above sees a part that is not restored."""
    wanted, _ = run(TRICKS, small)
    for name in ("numpy", "torch"):
        folder = tmp_path / name
        folder.mkdir()
        keeper = Keeper(folder, 0.0, {})
        with pytest.raises(CutError):
            run(TRICKS, small, keeper, 7)
        with monkeypatch.context() as patch:
            if name == "numpy":
                patch.setattr(np.random, "default_rng", lambda seed: Deaf())
            else:
                patch.setattr(torch, "set_rng_state", lambda state: None)
            net, _ = run(TRICKS, small, Keeper(folder, 0.0, {}))
        assert not same(net, wanted), name


class Deaf:
    """A generator that cannot be set."""

    def __init__(self) -> None:
        self.inner = np.random.Generator(np.random.PCG64(99))

    @property
    def bit_generator(self):
        return type("", (), {"state": None})()

    def __getattr__(self, name):
        return getattr(self.inner, name)


@pytest.fixture
def cut(small, tmp_path):
    """A folder with two checkpoints of a run that was cut off."""
    folder = tmp_path / "kept"
    folder.mkdir()
    with pytest.raises(CutError):
        run(TRICKS, small, Keeper(folder, 0.0, {"lr": 0.05}), 9)
    assert len(list(folder.iterdir())) == 2
    return folder


class Evil:
    """Would run code when unpickled."""

    def __reduce__(self):
        return print, ("code has run",)


def named(folder: Path, step: int, content: bytes) -> Path:
    """A checkpoint file with the right checksum, whatever is in it."""
    path = folder / f"step-{step:09}-{zlib.crc32(content):08x}.pt"
    path.write_bytes(content)
    return path


HARM = {
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:5000]),
    "empty": lambda path: path.write_bytes(b""),
    "bit-flipped": lambda path: path.write_bytes(flipped(path.read_bytes())),
    "foreign": lambda path: named(path.parent, 10**8, b"no checkpoint"),
    "evil": lambda path: named(path.parent, 10**8, pickle.dumps(Evil())),
    "evil within": lambda path: named(path.parent, 10**8, pickled({"run": Evil()})),
}


def flipped(content: bytes) -> bytes:
    """One bit is another."""
    changed = bytearray(content)
    changed[len(changed) // 2] ^= 1
    return bytes(changed)


def pickled(value: object) -> bytes:
    """As torch.save writes it, but with anything in it."""
    return encoded(value)


@pytest.mark.parametrize("harm", HARM)
def test_a_damaged_checkpoint_gives_way_to_the_one_before(harm, cut, small, capsys):
    wanted, _ = run(TRICKS, small)
    HARM[harm](max(cut.glob("step-*.pt")))
    net, done = run(TRICKS, small, Keeper(cut, 0.0, {"lr": 0.05}))
    said = capsys.readouterr()
    assert "is damaged (" in said.err
    assert "the one before is taken" in said.err
    assert "code has run" not in said.out + said.err
    assert done.resumed == 1
    assert same(net, wanted)


def test_all_damaged_is_a_new_start(cut, small, capsys):
    wanted, _ = run(TRICKS, small)
    for path in cut.iterdir():
        path.write_bytes(b"")
    net, done = run(TRICKS, small, Keeper(cut, 0.0, {"lr": 0.05}))
    assert done.resumed == 0
    assert same(net, wanted)
    assert capsys.readouterr().err.count("is damaged") == 2


def test_another_run_is_refused_with_the_difference(cut, small):
    before = sorted(cut.iterdir())
    with pytest.raises(ValueError, match=r"keeps another run \(lr is 0.05 there and 0.1 here\)"):
        run(TRICKS, small, Keeper(cut, 0.0, {"lr": 0.1}))
    assert sorted(cut.iterdir()) == before


def test_a_full_disk_does_not_end_the_run(small, tmp_path, monkeypatch, capsys):
    def full(self, content):
        raise OSError(28, "No space left on device")

    wanted, _ = run(TRICKS, small)
    monkeypatch.setattr(Path, "write_bytes", full)
    net, _ = run(TRICKS, small, Keeper(tmp_path, 0.0, {}))
    assert same(net, wanted)
    assert "No checkpoint could be written" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_signal_ends_the_run_after_a_step(small, tmp_path):
    wanted, _ = run(TRICKS, small)
    for number in (signal.SIGTERM, signal.SIGINT):
        keeper, net = Keeper(tmp_path, 1000.0, {}), Dropped()

        def show(images, accuracy, number=number):
            if images == 64 * (7 if number == signal.SIGTERM else 15):
                os.kill(os.getpid(), number)

        outer = signal.signal(number, signal.default_int_handler)  # a shell's job may ignore it
        with (
            pytest.raises(Interrupted, match=r"after step (8|16): the same"),
            listening(keeper.end),
        ):
            fit(TRICKS, net, small, IMAGES, 5, 4, World(), show, keeper)
        assert signal.signal(number, outer) == signal.default_int_handler
    net, done = run(TRICKS, small, Keeper(tmp_path, 1000.0, {}))
    assert done.resumed == 2
    assert same(net, wanted)


def test_a_second_interrupt_does_not_wait():
    keeper = Keeper()
    keeper.world = World(0, 2)
    keeper.end()
    with pytest.raises(KeyboardInterrupt):
        keeper.end()


def test_other_processes_go_on_with_the_same_batches(cut, small):
    """What a process had for itself is taken where it was there before."""
    keeper = Keeper(cut, 1000.0, {"lr": 0.05})
    state = torch.load(max(cut.glob("step-*.pt")), weights_only=True)
    keeper.world, keeper.device = World(1, 2), torch.device("cpu")
    net, rng = Dropped(), np.random.default_rng(7)
    keeper.parts = {"model": net}
    keeper.rng, keeper.progress = rng, type(run(PLAIN, small)[1])()
    before = rng.bit_generator.state
    keeper.restore(state)
    assert rng.bit_generator.state == before, "a new process keeps its fresh states"
    assert keeper.progress.steps == 9
    assert same(net, restored(state))


def restored(state):
    """The net in a checkpoint."""
    net = Dropped()
    net.load_state_dict(state["parts"]["model"])
    return net


# Whole runs.

WHOLE = sum(SEVEN, start=BASELINE) - "distributed" - "transfer"


def test_a_finished_run_comes_back(small, tmp_path, capsys, monkeypatch):
    asked = {"images": 480, "evaluations": 2, "test": True, "folder": tmp_path / "run"}
    first = train(WHOLE, small, **asked)
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == ["net.safetensors", "run.json"]
    capsys.readouterr()
    again = train(WHOLE, small, **asked)
    assert again == first
    assert same(again.net, first.net)
    assert "finished at" in capsys.readouterr().out
    with pytest.raises(ValueError, match=r"recipe.tricks.Mixup.alpha is 0.05 there and 0.3 here"):
        train(WHOLE - "mixup" + Mixup(0.3), small, **asked)
    with pytest.raises(ValueError, match="seed is 0 there and 1 here"):
        train(WHOLE, small, **asked, seed=1)
    with pytest.raises(ValueError, match="fingerprint is"):
        train(WHOLE, replace(small, val=small.val[:-1]), **asked)
    monkeypatch.setattr("fasttricks.machine.code", lambda: 1)
    assert train(WHOLE, small, **asked).started >= first.started
    assert "as other code made it" in capsys.readouterr().err
    (tmp_path / "run" / "run.json").write_text("{}", encoding="utf-8")
    assert train(WHOLE, small, **asked).val_accuracy == first.val_accuracy
    assert "is damaged" in capsys.readouterr().err


def test_arms_come_back(small, tmp_path, capsys):
    arms = {"plain, here": BASELINE, "mixed/up": BASELINE + Mixup(0.2)}
    first = train_arms(arms, small, images=256, seeds=2, evaluations=1, folder=tmp_path)
    assert len(list(tmp_path.iterdir())) == 4
    capsys.readouterr()
    arms["mixed/up"] = BASELINE + Mixup(0.3)
    again = train_arms(arms, small, images=256, seeds=2, evaluations=1, folder=tmp_path)
    assert capsys.readouterr().out.count("finished at") == 2
    assert again["plain, here"] == first["plain, here"]
    assert again["mixed/up"] != first["mixed/up"]


def test_a_process_that_is_killed_is_started_again(data, tmp_path):
    trick = Stumble("is killed", at=5, marker=str(tmp_path / "marker"))
    recipe = TRICKS + Distributed(2, share_devices=True) + trick
    asked = {"images": 640, "evaluations": 2, "every": 0.0, "max_restarts": 1}
    run = train(recipe, data.subset(640), folder=tmp_path / "killed", **asked)
    assert (tmp_path / "marker").exists()
    assert run.resumed == 1
    wanted = train(recipe, data.subset(640), folder=tmp_path / "whole", **asked)
    assert wanted.resumed == 0
    assert same(run.net, wanted.net)
    assert [run.curve[n][::2] for n in (0, 1)] == [wanted.curve[n][::2] for n in (0, 1)]


def test_a_command_that_is_killed_goes_on(tmp_path):
    """Twice: the power fails, and the machine's owner asks it to end."""
    words = ["train", "--tricks", "cyclic,mixup,smoothing", "--images", "12800", "--every", "0"]
    words += ["--checkpoint", "kept", "--save", "net.safetensors", "--out", "run.json"]

    def begin():
        command = [sys.executable, "-m", "fasttricks", *words]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "encoding": "utf-8"}
        return subprocess.Popen(command, cwd=tmp_path, **pipes)

    steps = 0
    for number in (signal.SIGKILL, signal.SIGTERM):
        with begin() as process:
            while last(tmp_path / "kept") < steps + 5:
                assert process.poll() is None
            process.send_signal(number)
            said = process.communicate()[0].strip()
        steps = last(tmp_path / "kept")
    assert process.returncode == 130
    assert said.startswith(f"fasttricks: Ended when told to, and kept after step {steps}: ")
    assert len(said.splitlines()) == 1, "no bar is drawn into a pipe"
    with begin() as process:
        process.communicate()
    assert process.returncode == 0
    record = json.loads((tmp_path / "run.json").read_text(encoding="utf-8"))
    assert record["resumed"] == 2
    assert main([*words[:5], "--save", str(tmp_path / "whole.safetensors")]) == 0
    found, wanted = (load_file(tmp_path / f"{n}.safetensors") for n in ("net", "whole"))
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


def last(folder):
    """The step of the last checkpoint there."""
    return max((int(path.name.split("-")[1]) for path in folder.glob("step-*.pt")), default=0)


def test_a_folder_that_cannot_be_written_is_refused_first(tmp_path, capsys):
    (tmp_path / "file").write_text("taken", encoding="utf-8")
    words = ["train", "--tricks", "none", "--images", "128", "--budget", "smoke"]
    assert main([*words, "--checkpoint", str(tmp_path / "file" / "inside")]) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


def test_what_is_not_finite_stops_with_its_step(small):
    net = create("test_resnet", 1, 10)
    left = iter(range(100))
    net.fc.bias.register_hook(lambda g: g * float("nan") if next(left) == 2 else g)
    with pytest.raises(
        FloatingPointError, match=r"loss of step 4 of 20 is not finite; the first such .* is "
    ):
        fit(PLAIN, net, small, IMAGES, 0, 2)
