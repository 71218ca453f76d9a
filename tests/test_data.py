"""The data are whole and checked; batches are selections."""

import shutil

import pytest
import torch

from fasttricks import load
from fasttricks.data import Data, flip, resize
from fasttricks.sources import fashion_mnist

CPU = torch.device("cpu")


def test_fashion_mnist_is_whole(data):
    assert [len(s) for s in (data.train, data.val, data.test)] == [55_000, 5_000, 10_000]
    assert data.train.x.shape[1:] == (1, 28, 28)
    assert data.train.x.dtype == torch.uint8
    counts = torch.bincount(torch.cat([data.train.y, data.val.y]))
    assert counts.tolist() == [6000] * 10
    assert torch.bincount(data.test.y).tolist() == [1000] * 10
    assert data.channels == 1


def test_an_epoch_sees_every_image_once(small):
    draws = small.draws(100, torch.Generator().manual_seed(0))
    first, second = ([next(draws)[0] for _ in range(20)] for _ in range(2))
    assert sorted(torch.cat(first).tolist()) == list(range(2000))
    assert sorted(torch.cat(second).tolist()) == list(range(2000))
    assert not torch.equal(first[0], second[0]), "reshuffled"


def test_a_part_of_a_batch_is_dropped(small):
    draws = small.subset(250).draws(100, torch.Generator().manual_seed(0))
    rows = [next(draws)[0] for _ in range(4)]
    assert all(len(row) == 100 for row in rows)
    assert len(set(torch.cat(rows[:2]).tolist())) == 200


def test_flip_and_batch(small):
    x = small.train.x[:2]
    flipped = flip(x, torch.tensor([[0.2], [0.8]]))
    assert torch.equal(flipped[0], x[0].flip(-1))
    assert torch.equal(flipped[1], x[1])
    images, q = small.batch(torch.arange(3), torch.full((3, 1), 0.9))
    assert images.min() >= -1
    assert images.max() <= 1
    assert torch.equal(q.argmax(1), small.train.y[:3])
    assert torch.equal(q.sum(1), torch.ones(3))


def test_sizes(small):
    larger = small.to(CPU, 32)
    assert larger.train.x.shape == (2000, 1, 32, 32)
    before, after = (d.train.x.float().mean().item() for d in (small, larger))
    assert after == pytest.approx(before, rel=0.02)
    assert resize(small.val.x, 28, CPU) is small.val.x, "nothing to do"


@pytest.mark.parametrize("count", [0, 2001])
def test_subset_refuses(small, count):
    with pytest.raises(ValueError, match="1 to 2000 images"):
        small.subset(count)


@pytest.fixture
def copied(tmp_path, monkeypatch):
    """A copy of the data folder that may be damaged."""
    shutil.copytree(fashion_mnist.ROOT, tmp_path / "data")
    monkeypatch.setattr(fashion_mnist, "ROOT", tmp_path / "data")
    return tmp_path / "data"


@pytest.mark.parametrize("harm", ["missing", "truncated", "altered", "no sums"])
def test_damaged_data_are_refused(copied, harm):
    file = copied / "FashionMNIST" / "raw" / "train-labels-idx1-ubyte.gz"
    content = bytearray(file.read_bytes())
    if harm == "missing":
        file.unlink()
    elif harm == "no sums":
        (copied / "SHA256SUMS").unlink()
    else:
        content[100] ^= 1
        file.write_bytes(content[:2000] if harm == "truncated" else content)
    with pytest.raises((ValueError, FileNotFoundError), match="git checkout data"):
        load()


def test_letters():
    letters = load("letters")
    assert isinstance(letters, Data)
    assert 800 < len(letters.classes) < 1100
    assert set(letters.train.y.tolist()) == set(range(len(letters.classes)))
    small = letters.to(CPU, 28)
    rows, noise = next(small.draws(64, torch.Generator().manual_seed(0)))
    one, _ = small.batch(rows, noise)
    other, _ = small.batch(rows, torch.rand_like(noise))
    assert one.shape == (64, 1, 28, 28)
    assert not torch.allclose(one, other), "never the same picture twice"
    assert one.std() > 0.2
