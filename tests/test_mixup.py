"""Images and targets are blended by one share; equal to timm's and torchvision's."""

import numpy as np
import pytest
import timm.data
import torch
import torch.nn.functional as F
from conftest import pictures, targets
from hypothesis import given
from hypothesis import strategies as st
from torchvision.transforms import v2

from fasttricks import Mixup
from fasttricks.tricks.mixup import mix


@given(count=st.integers(1, 9), lam=st.floats(0, 1), seed=st.integers(0, 99))
def test_laws(count, lam, seed):
    x, q = pictures(count, seed), targets(count, seed=seed)
    before = x.clone(), q.clone()
    other = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    mixed_x, mixed_q = mix(x, q, torch.tensor(lam), other)
    assert mixed_q.sum(1) == pytest.approx(torch.ones(count))
    assert mixed_x.mean().item() == pytest.approx(x.mean().item(), abs=1e-5)
    assert torch.equal(x, before[0])
    assert torch.equal(q, before[1])
    whole_x, whole_q = mix(x, q, torch.tensor(1.0), other)
    assert torch.equal(whole_x, x)
    assert torch.equal(whole_q, q)


def test_mixing_targets_is_mixing_losses():
    logits, y, other, lam = (
        torch.randn(6, 10),
        torch.arange(6),
        torch.randperm(6),
        torch.tensor(0.3),
    )
    _, q = mix(pictures(6), F.one_hot(y, 10).float(), lam, other)
    of_losses = lam * F.cross_entropy(logits, y) + (1 - lam) * F.cross_entropy(logits, y[other])
    assert F.cross_entropy(logits, q).item() == pytest.approx(of_losses.item(), abs=1e-6)


def test_is_timms():
    x, y = pictures(8), torch.arange(8)
    theirs = timm.data.Mixup(mixup_alpha=1.0, label_smoothing=0.0, num_classes=10)
    theirs._params_per_batch = lambda: (0.3, False)  # chance passed in
    their_x, their_q = theirs(x.clone(), y)
    our_x, our_q = mix(x, F.one_hot(y, 10).float(), torch.tensor(0.3), torch.arange(7, -1, -1))
    assert torch.allclose(our_x, their_x, atol=1e-6)
    assert torch.allclose(our_q, their_q, atol=1e-6)


def test_is_torchvisions():
    x, y = pictures(5), torch.arange(5)
    torch.manual_seed(3)
    their_x, their_q = v2.MixUp(alpha=1.0, num_classes=10)(x, y)
    lam = their_q[0].max() if their_q[0, 0] == their_q[0].max() else 1 - their_q[0].max()
    our_x, our_q = mix(x, F.one_hot(y, 10).float(), lam, torch.arange(5).roll(1))
    assert torch.allclose(our_x, their_x, atol=1e-5)
    assert torch.allclose(our_q, their_q, atol=1e-5)


@pytest.mark.parametrize("count", [1, 2, 7])
def test_per_sample_draws_a_share_for_each(count):
    x, q = torch.ones(count, 1, 2, 2) * torch.arange(count).view(-1, 1, 1, 1), torch.eye(10)[:count]
    mixed_x, mixed_q = Mixup(1.0, per_sample=True).batch_map(x, q, np.random.default_rng(0))
    assert torch.allclose(mixed_x[:, 0, 0, 0], mixed_q @ torch.arange(10.0), atol=1e-5)
    one_x, one_q = Mixup(1.0).batch_map(x, q, np.random.default_rng(0))
    assert torch.allclose(one_x[:, 0, 0, 0], one_q @ torch.arange(10.0), atol=1e-5)
    if count == 7:
        shares = {round(row.max().item(), 4) for row in mixed_q}
        assert len(shares) > 2 >= len({round(row.max().item(), 4) for row in one_q} - {1.0})


@pytest.mark.parametrize("alpha", [0.1, 0.4, 2.0])
def test_shares_follow_beta(alpha):
    trick, rng = Mixup(alpha, per_sample=True), np.random.default_rng(0)
    _, mixed = trick.batch_map(torch.zeros(2000, 1, 1, 1), torch.eye(2000), rng)
    shares = mixed.diagonal()
    assert shares.mean().item() == pytest.approx(0.5, abs=0.03)
    assert shares.var().item() == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.1)


@pytest.mark.parametrize("alpha", [0, -1, float("inf"), float("nan")])
def test_refuses(alpha):
    with pytest.raises(ValueError, match="alpha above 0"):
        Mixup(alpha)
