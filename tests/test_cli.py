"""The command line, as its user meets it: results, records, a clear sentence for bad input."""

import json
import os
import re
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from fasttricks import BASELINE, Run, train
from fasttricks.__main__ import main
from fasttricks.launch import command_line
from fasttricks.study.runs import read_run

FEW = ["--images", "128", "--labels", "256", "--budget", "smoke"]


def test_one_run_one_record(tmp_path, capsys):
    record, weights = tmp_path / "run.json", tmp_path / "net.safetensors"
    words = ["train", "--tricks", "mixup,smoothing", *FEW, "--test", "--seed", "3",
             "--out", str(record), "--save", str(weights)]  # fmt: skip
    assert main(words) == 0
    out = capsys.readouterr().out
    assert len(out.strip().splitlines()) == 1
    assert "time to target infinite" in out
    stored = json.loads(record.read_text(encoding="utf-8"))
    expected = {"schema", "recipe", "budget", "model", "image_size", "seed", "images_seen", "steps",
                "processes", "device", "precision", "train_seconds", "eval_seconds", "wall_seconds",
                "images_per_second", "val_accuracy", "test_accuracy", "target", "reached", "curve",
                "hardware", "versions", "commit", "started", "skipped_steps",
                "peak_memory", "resumed"}  # fmt: skip
    assert expected <= set(stored)
    assert expected | {"data", "labels"} == set(stored)
    run = read_run(stored)
    assert run.recipe.names == ("mixup", "smoothing")
    assert (run.seed, run.images_seen, run.labels, run.reached) == (3, 128, 256, False)
    assert run.wall_seconds > run.train_seconds
    assert 0 <= run.test_accuracy <= 1
    assert len(load_file(weights)) == len(torch.nn.Module.state_dict(train_again().net))
    assert main(["train", "--recipe", str(record), *FEW]) == 0, "a record is a recipe"


def train_again() -> Run:
    """A run in this process, to compare names with."""
    from fasttricks import load

    return train(BASELINE, load().subset(128), images=128, budget="smoke")


def test_records_of_another_schema_are_refused(tmp_path):
    stored = train_again().to_json()
    with pytest.raises(ValueError, match="schema 0"):
        read_run({**stored, "schema": 0})
    with pytest.raises(ValueError, match="does not know 'extra'"):
        read_run({**stored, "extra": 1})


def test_pretrain_and_transfer(tmp_path, capsys):
    weights = tmp_path / "letters.safetensors"
    assert main(["pretrain", "--images", "512", "--budget", "smoke", "--out", str(weights)]) == 0
    assert "512 images" in capsys.readouterr().out
    recipe = tmp_path / "recipe.json"
    recipe.write_text(
        json.dumps({"tricks": [{"trick": "Transfer", "source": str(weights)}]}), encoding="utf-8"
    )
    assert main(["train", "--recipe", str(recipe), *FEW]) == 0


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache folder."""
    monkeypatch.setenv("FASTTRICKS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


READ = ["train", "--tricks", "transfer", "--image-size", "20", *FEW]  # no weights for this size


def test_letters_weights_are_asked_for(cache, capfd):
    assert main(READ) == 2
    said = capfd.readouterr().err
    assert re.search(r"no letters weights of test_resnet at 20 pixels.* about \d+ minutes", said)
    assert "Add --pretrain" in said
    assert not cache.exists(), "nothing was begun"
    assert main([*READ, "--pretrain", "512"]) == 0
    assert "test_resnet reads 512 glyphs, once: about 0.0 minutes here." in capfd.readouterr().out
    (made,) = cache.iterdir()
    assert made.name == "test_resnet-20-letters.safetensors"
    before = made.stat().st_mtime_ns
    assert main(READ) == 0, "they are kept"
    assert made.stat().st_mtime_ns == before


def test_processes_wait_for_the_one_that_makes_the_letters(cache, tmp_path):
    words = [*command_line(2, tmp_path), "fasttricks", *READ, "--pretrain", "512"]
    done = subprocess.run(
        [*words, "--tricks", "transfer,distributed", "--share-devices"],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        encoding="utf-8",
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("reads 512 glyphs, once") == 1
    assert done.stdout.count("2 process(es)") == 1
    assert len(list(cache.iterdir())) == 1


FAILURES = {
    "memory": (MemoryError(), "out of memory"),
    "a GPU's memory": (torch.OutOfMemoryError("CUDA out of memory.\nMore"), "CUDA out of mem"),
    "a launch": (RuntimeError("Process 1 of 2 failed: no\nwords"), "Process 1 of 2 failed: no"),
    "arithmetic": (FloatingPointError("50 steps in a row"), "50 steps in a row"),
    "anything": (KeyError("x"), "KeyError"),
}


@pytest.mark.parametrize("name", FAILURES)
def test_whatever_fails_is_told_in_one_sentence(name, monkeypatch, capsys):
    error, words = FAILURES[name]

    def fail(*args, **settings):
        raise error

    monkeypatch.setattr("fasttricks.__main__.train", fail)
    assert main(["train", "--tricks", "none", *FEW]) == 1
    said = capsys.readouterr().err.strip()
    assert len(said.splitlines()) == 1
    assert words in said
    assert main(["train", "--tricks", "none", *FEW, "--debug"]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_what_this_machine_cannot_share_or_speed_up_is_said(monkeypatch, capsys):
    monkeypatch.setattr("fasttricks.tricks.distributed.cores", lambda: 1)
    monkeypatch.setenv("FASTTRICKS_PRECISION", "fp32")
    assert main(["train", "--tricks", "distributed,precision", *FEW]) == 0
    out, said = capsys.readouterr()
    assert "nobody to share with" in said
    assert "trains in fp32 here" in said
    assert "1 process(es), fp32" in out
    monkeypatch.setenv("FASTTRICKS_PRECISION", "fp8")
    assert main(["train", "--tricks", "precision", *FEW]) == 2
    assert "MixedPrecision knows auto, fp32, bf16, fp16" in capsys.readouterr().err


def test_info(capsys):
    assert main(["info"]) == 0
    out = capsys.readouterr().out
    assert "checksums right: 55,000 to train" in out
    assert "test_resnet-28-letters.safetensors, checksum right" in out
    assert torch.__version__ in out


@pytest.mark.parametrize("command", [[], ["train"], ["pretrain"], ["info"]])
def test_help_teaches(command, capsys):
    with pytest.raises(SystemExit) as left:
        main([*command, "--help"])
    assert left.value.code == 0
    assert "fasttricks" in capsys.readouterr().out


BAD = {
    "unknown trick": (["--tricks", "mixup,magic"], "Unknown trick 'magic'"),
    "named twice": (["--tricks", "mixup,mixup"], "both are one trick twice"),
    "nothing to leave out": (["--tricks", "none", "--without", "mixup"], "no 'mixup' to leave out"),
    "unknown model": (["--model", "resnet19"], "timm knows no model 'resnet19'"),
    "image size of a model": (["--model", "test_vit"], "cannot take images of 28 pixels"),
    "no such data": (["--data", "nowhere"], "no data set 'nowhere'"),
    "too few images": (["--images", "0"], "one batch"),
    "too many labels": (["--labels", "60000"], "1 to 55000"),
    "batch above labels": (["--labels", "10"], "labels must be 128 or more"),
    "no processes": (["--processes", "0"], "1 or more"),
    "too many processes": (["--processes", "64"], "may share"),
    "an empty share": (["--processes", "129", "--share-devices"], "image for each of 129 shards"),
    "target": (["--target", "1.5"], "accuracy in (0, 1]"),
    "seed": (["--seed", "-1"], "seed must be 0 or more"),
    "image size": (["--image-size", "0"], "image_size"),
    "unwritable": (["--out", "nowhere/run.json"], "cannot be written"),
    "a folder": (["--save", "."], "cannot be written"),
    "no recipe": (["--recipe", "nowhere.json"], "nowhere.json"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_gets_one_sentence(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words, sentence = BAD[name]
    assert main(["train", "--tricks", "smoothing", "--budget", "smoke", *words]) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1
    assert sentence in said[0]
    assert list(tmp_path.iterdir()) == [], "nothing half-written"


SETTINGS = {
    "alpha": ({"trick": "Mixup", "alpha": 0}, "alpha above 0"),
    "epsilon": ({"trick": "LabelSmoothing", "eps": 1.0}, "eps in [0, 1)"),
    "batch": ({"trick": "LRScaling", "batch": 0}, "batch and reference"),
    "unknown class": ({"trick": "Magic"}, "Unknown trick 'Magic'"),
    "unknown setting": ({"trick": "Mixup", "beta": 1}, "Mixup does not know 'beta'"),
    "missing weights": ({"trick": "Transfer", "source": "none.safetensors"}, "are missing"),
    "wrong shapes": ({"trick": "Transfer", "source": "other.safetensors"}, "do not fit"),
    "broken weights": (
        {"trick": "Transfer", "source": "broken.safetensors"},
        "is damaged, not safe to load",
    ),
    "unsafe weights": (
        {"trick": "Transfer", "source": "broken.pth"},
        "is damaged, not safe to load",
    ),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_bad_recipes_get_one_sentence(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    trick, sentence = SETTINGS[name]
    save_file({"conv1.0.weight": torch.zeros(3)}, tmp_path / "other.safetensors")
    (tmp_path / "broken.safetensors").write_bytes(b"no weights")
    (tmp_path / "broken.pth").write_bytes(b"no weights")
    (tmp_path / "recipe.json").write_text(json.dumps({"tricks": [trick]}), encoding="utf-8")
    assert main(["train", "--recipe", "recipe.json", *FEW, "--out", "run.json"]) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1
    assert sentence in said[0]
    assert not (tmp_path / "run.json").exists()


def test_from_the_shell():
    command = [sys.executable, "-m", "fasttricks", "train", "--tricks", "magic"]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("fasttricks: Unknown trick 'magic'")


def test_json_alone_on_the_output_and_silence_where_asked(capfd, monkeypatch):
    monkeypatch.setenv("FASTTRICKS_QUIET", "")  # restored afterwards
    monkeypatch.delenv("FASTTRICKS_QUIET")
    assert main(["train", *FEW, "--tricks", "none", "--json", "--quiet"]) == 0
    out, err = capfd.readouterr()
    assert read_run(json.loads(out)).images_seen == 128
    assert err == ""


def test_every_command_has_an_example(capsys):
    for command in ("train", "pretrain", "advise", "speed", "bench", "report", "info"):
        with pytest.raises(SystemExit):
            main([command, "--help"])
        assert f"example: fasttricks {command}" in capsys.readouterr().out
