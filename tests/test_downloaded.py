"""What torchvision has is read from the disk, and what is missing is told in a sentence."""

import gzip
import pickle
from urllib.error import URLError

import numpy as np
import pytest
import torch
import torchvision.datasets.cifar as theirs
import torchvision.datasets.mnist as mnist

from fasttricks import BASELINE, load, train
from fasttricks.__main__ import main
from fasttricks.data import ROOT
from fasttricks.sources import downloaded, fashion_mnist


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A small CIFAR-10 in the cache folder, in torchvision's own layout."""
    monkeypatch.setenv("FASTTRICKS_CACHE", str(tmp_path))
    monkeypatch.setattr(theirs, "check_integrity", lambda *_: True)
    folder, random = tmp_path / "cifar-10-batches-py", np.random.default_rng(0)
    folder.mkdir()
    for name in (*(f"data_batch_{n}" for n in range(1, 6)), "test_batch"):
        labels = [n % 10 for n in range(100)]
        pixels = random.integers(0, 256, (100, 3072), dtype=np.uint8)
        pixels[:, 0] = labels  # of the red corner
        (folder / name).write_bytes(pickle.dumps({"data": pixels, "labels": labels}))
    names = ["airplane", "automobile", *"abcdefgh"]
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": names}))
    return folder


def test_it_is_read_from_the_disk(here):
    data = load("cifar10")
    assert [len(part) for part in (data.train, data.val, data.test)] == [450, 50, 100]
    assert data.train.x.shape == (450, 3, 32, 32)
    assert data.classes[:2] == ("airplane", "automobile")
    assert torch.equal(data.train.x[:, 0, 0, 0].long(), data.train.y), "colours come first"
    run = train(BASELINE, data, images=256, image_size=28, budget="smoke")
    assert run.data == "cifar10"


def test_without_a_network_it_says_what_to_do(tmp_path, monkeypatch, capsys):
    def offline(*_, **__):
        raise URLError("no network")

    monkeypatch.setenv("FASTTRICKS_CACHE", str(tmp_path / "none"))
    monkeypatch.setattr(theirs, "download_and_extract_archive", offline)
    assert main(["train", "--data", "cifar100", "--images", "128"]) == 2
    said = capsys.readouterr().err
    assert "CIFAR100 is not in" in said
    assert "no network" in said
    assert "cifar-100-python" in said


def test_fashion_mnist_is_found_without_the_repository(tmp_path, monkeypatch):
    raw = tmp_path / "cache" / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for file in (ROOT / "FashionMNIST" / "raw").glob("*.gz"):
        (raw / file.stem).write_bytes(gzip.decompress(file.read_bytes()))
    shipped = load()
    monkeypatch.setenv("FASTTRICKS_CACHE", str(tmp_path / "cache"))
    for module in (fashion_mnist, downloaded):
        monkeypatch.setattr(module, "ROOT", tmp_path / "no repository")
    found = load()
    assert found.fingerprint == shipped.fingerprint


def test_without_repository_and_network_it_says_what_to_do(tmp_path, monkeypatch, capsys):
    def offline(*_, **__):
        raise RuntimeError("Error downloading train-images-idx3-ubyte.gz")

    monkeypatch.setenv("FASTTRICKS_CACHE", str(tmp_path / "none"))
    monkeypatch.setattr(mnist, "download_and_extract_archive", offline)
    for module in (fashion_mnist, downloaded):
        monkeypatch.setattr(module, "ROOT", tmp_path / "no repository")
    assert main(["train", "--images", "128"]) == 2
    assert "FashionMNIST is not in" in capsys.readouterr().err
