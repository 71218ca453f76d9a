"""Smoothing targets is torch's and timm's loss; it commutes with mixup."""

import pytest
import timm.loss
import torch
import torch.nn.functional as F
from conftest import pictures, targets
from hypothesis import given
from hypothesis import strategies as st

from fasttricks import LabelSmoothing
from fasttricks.loop import cross_entropy
from fasttricks.tricks.mixup import mix
from fasttricks.tricks.smoothing import smooth


@pytest.mark.parametrize("eps", [0.0, 0.05, 0.1, 0.9])
def test_is_torchs_and_timms(eps):
    logits, y = torch.randn(16, 10), torch.arange(16) % 10
    ours = cross_entropy(logits, smooth(F.one_hot(y, 10).float(), eps)).item()
    assert ours == pytest.approx(F.cross_entropy(logits, y, label_smoothing=eps).item(), abs=1e-6)
    theirs = timm.loss.LabelSmoothingCrossEntropy(eps) if eps else torch.nn.CrossEntropyLoss()
    assert ours == pytest.approx(theirs(logits, y).item(), abs=1e-6)


def test_soft_targets_are_timms():
    logits, q = torch.randn(16, 10), targets(16)
    theirs = timm.loss.SoftTargetCrossEntropy()(logits, q).item()
    assert cross_entropy(logits, q).item() == pytest.approx(theirs, abs=1e-6)


@given(eps=st.floats(0, 0.99), lam=st.floats(0, 1), count=st.integers(1, 8))
def test_commutes_with_mixup(eps, lam, count):
    x, q, other = pictures(count), targets(count), torch.randperm(count)
    share = torch.tensor(lam)
    first = smooth(mix(x, q, share, other)[1], eps)
    second = mix(x, smooth(q, eps), share, other)[1]
    assert torch.allclose(first, second, atol=1e-6)
    assert first.sum(1) == pytest.approx(torch.ones(count), abs=1e-5)


def test_leaves_images_and_caller_alone():
    x, q = pictures(3), targets(3)
    before = q.clone()
    same, smoothed = LabelSmoothing(0.3).batch_map(x, q, None)
    assert same is x
    assert torch.equal(q, before)
    assert not torch.equal(smoothed, q)


@pytest.mark.parametrize("eps", [-0.1, 1.0, float("nan")])
def test_refuses(eps):
    with pytest.raises(ValueError, match=r"eps in \[0, 1\)"):
        LabelSmoothing(eps)
