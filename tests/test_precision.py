"""The hand-written loss scale is torch's step by step; formats follow the device."""

import pytest
import torch

from fasttricks import MixedPrecision
from fasttricks.tricks import precision
from fasttricks.tricks.precision import LossScale

CPU = torch.device("cpu")
OVERFLOWS = {3, 4, 17, 30}


def test_loss_scale_is_torchs():
    theirs = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=5)
    ours = LossScale(value=1024.0, interval=5)
    nets = [torch.nn.Linear(3, 1) for _ in range(2)]
    nets[1].load_state_dict(nets[0].state_dict())
    optimizers = [torch.optim.SGD(net.parameters(), 0.1, momentum=0.9) for net in nets]
    seen = set()
    for step in range(40):
        x = torch.randn(4, 3, generator=torch.Generator().manual_seed(step))
        x = x * float("inf") if step in OVERFLOWS else x
        theirs.scale(nets[0](x).square().mean()).backward()
        theirs.unscale_(optimizers[0])
        (nets[1](x).square().mean() * ours.value).backward()
        grads = [parameter.grad for parameter in nets[1].parameters()]
        finite = ours.unscale(grads)
        assert finite is (step not in OVERFLOWS)
        if finite:
            for one, other in zip(nets[0].parameters(), nets[1].parameters(), strict=True):
                assert torch.allclose(one.grad, other.grad, atol=1e-6)
            optimizers[1].step()
        theirs.step(optimizers[0])
        theirs.update()
        ours = ours.update(finite)
        assert ours.value == theirs.get_scale(), step
        seen.add(ours.value)
        for net, optimizer in zip(nets, optimizers, strict=True):
            optimizer.zero_grad()
            assert all(p.isfinite().all() for p in net.parameters())
    assert len(seen) > 3, "the scale must have grown and backed off"


@pytest.mark.parametrize("native", [True, False])
def test_auto_on_a_cpu(monkeypatch, native):
    monkeypatch.setattr(precision, "native_bf16", lambda device: native)
    trick = MixedPrecision()
    assert trick.choose(CPU) == ("bf16" if native else "fp32")
    assert ("trains in fp32" in trick.note(CPU)) is not native
    assert ("only emulates bf16" in MixedPrecision("bf16").note(CPU)) is not native
    assert MixedPrecision("fp32").note(CPU) == ""
    assert not trick.scaler(CPU).is_enabled()


@pytest.mark.parametrize(("native", "chosen"), [(True, "bf16"), (False, "fp16")])
def test_auto_on_a_gpu(monkeypatch, native, chosen):
    monkeypatch.setattr(precision, "native_bf16", lambda device: native)
    assert MixedPrecision().choose(torch.device("cuda")) == chosen
    assert MixedPrecision().note(torch.device("cuda")) == ""


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [("fp32", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)],
)
def test_autocast(dtype, expected):
    trick = MixedPrecision(dtype)
    layer = torch.nn.Linear(4, 4)
    with trick.autocast(CPU):
        assert layer(torch.randn(2, 4)).dtype == expected
    assert layer.weight.dtype == torch.float32, "master weights stay in fp32"
    assert trick.scaler(CPU).is_enabled() is (dtype == "fp16")


def test_native_bf16_is_read_from_the_processor(monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True}, raising=False)
    assert precision.native_bf16(CPU)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_f": True}, raising=False)
    assert not precision.native_bf16(CPU)


def test_refuses():
    with pytest.raises(ValueError, match="MixedPrecision knows"):
        MixedPrecision("fp8")
