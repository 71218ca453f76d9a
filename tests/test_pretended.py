"""The loop on a GPU that is not there: it fits there, waits for nothing, and errors would show."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pretend import Pretended, pretend
from torch import nn

from fasttricks import BASELINE, SEVEN, LRScaling, MixedPrecision, Recipe, loop, machine, train
from fasttricks.checkpoint import UNKEPT, Keeper
from fasttricks.data import Data
from fasttricks.models import begin
from fasttricks.tricks import smoothing

CUDA = torch.device("cuda")
BATCH = 16
PLAIN = replace(BASELINE, batch=BATCH)
FORMATS = {"fp32": 0, "bf16": 0, "fp16": 1}  # and how often a step may wait
OTHERS = [
    LRScaling(batch=BATCH, reference=8) if isinstance(trick, LRScaling) else trick
    for trick in SEVEN
    if not isinstance(trick, MixedPrecision)
]
RECIPES = {"plain": PLAIN, "seven": sum(OTHERS, start=PLAIN)}
RECIPES |= {type(trick).__name__: PLAIN + trick for trick in OTHERS}


@pytest.fixture(scope="module")
def tiny(data: Data) -> Data:
    """Six batches an epoch."""
    return replace(data, train=data.train[: 6 * BATCH], val=data.val[:20])


def trained(recipe: Recipe, data: Data, steps: int, device: torch.device) -> tuple:
    """A net after so many steps on the device, and what the loop says of them."""
    torch.manual_seed(0)
    net = begin(recipe, "test_resnet", 1, 10, 28).to(device)
    done = loop.fit(recipe, net, data.to(device, 28), steps * BATCH, 0, 1)
    return net, done


def check(recipe: Recipe, data: Data, steps: tuple[int, int] = (1, 3), allowed: int = 0) -> None:
    """Two runs of different lengths: the steps between may not wait for the device, nor err."""
    waits, loops = [], []
    for length in steps:
        with pretend() as gpu:
            net, done = trained(recipe, data, length, CUDA)
        assert all(isinstance(tensor, Pretended) for tensor in net.state_dict().values())
        waits.append(Counter(gpu.waits))
        loops.append(done.steps + done.skipped_steps)
    more = waits[1] - waits[0]
    assert more.total() <= allowed * (loops[1] - loops[0]), f"a step waits: {dict(more)}"


@pytest.mark.parametrize("dtype", FORMATS)
@pytest.mark.parametrize("name", RECIPES)
def test_no_step_waits_for_the_device(name, dtype, tiny):
    check(RECIPES[name] + MixedPrecision(dtype), tiny, allowed=FORMATS[dtype])


@pytest.mark.parametrize("name", ["plain", "seven"])
def test_a_new_epoch_waits_for_nothing(name, tiny):
    check(RECIPES[name], tiny, steps=(5, 8))


@pytest.mark.parametrize("name", RECIPES)
def test_the_device_computes_what_the_cpu_does(name, tiny):
    with pretend():
        there = trained(RECIPES[name], tiny, 8, CUDA)[0].to("cpu").state_dict()
    here = trained(RECIPES[name], tiny, 8, torch.device("cpu"))[0].state_dict()
    for key, tensor in here.items():
        torch.testing.assert_close(there[key], tensor, msg=key)


@pytest.mark.parametrize(("dtype", "bf16"), [("bf16", True), ("fp16", False)])
def test_sixteen_bits_are_chosen_and_used(dtype, bf16):
    with pretend(bf16=bf16):
        net = begin(PLAIN, "test_resnet", 1, 10, 28).to(CUDA)
        seen = []
        net.fc.register_forward_hook(lambda module, given, out: seen.append(out.dtype))
        assert MixedPrecision().choose(CUDA) == dtype
        with MixedPrecision().autocast(CUDA):
            logits = net(torch.rand(2, 1, 28, 28, device="cuda"))
        loop.cross_entropy(logits, torch.full_like(logits, 0.1)).backward()
    assert seen == [{"bf16": torch.bfloat16, "fp16": torch.float16}[dtype]]
    assert {p.grad.dtype for p in net.parameters()} == {torch.float32}


def test_a_run_keeps_to_its_own_of_several_gpus(tiny, monkeypatch):
    """`fork_rng` would start all of them, and says so in a warning, which is an error here."""
    monkeypatch.setattr(torch.random, "_fork_rng_warned_already", False)
    machine.hardware.cache_clear()
    with pretend(devices=2):
        run = train(PLAIN, tiny, images=BATCH)
    machine.hardware.cache_clear()
    assert (run.device, run.hardware["gpu_count"]) == ("cuda", 2)


def test_a_run_on_a_gpu_is_kept_and_goes_on(tiny, tmp_path):
    """Its checkpoints lie in the host's memory, and serve another device too."""

    def show(images, accuracy):
        if images == 4 * BATCH and stops:
            raise KeyboardInterrupt

    def run(keeper=UNKEPT):
        torch.manual_seed(0)
        net = begin(RECIPES["seven"], "test_resnet", 1, 10, 28).to(CUDA)
        there = tiny.to(CUDA, 28)
        done = loop.fit(RECIPES["seven"], net, there, 8 * BATCH, 0, 1, show=show, keeper=keeper)
        return net.to("cpu").state_dict(), done

    with pretend():
        stops = False
        wanted, _ = run()
        stops = True
        with pytest.raises(KeyboardInterrupt):
            run(Keeper(tmp_path, 0.0, {}))
        stops = False
        found, done = run(Keeper(tmp_path, 0.0, {}))
    assert done.resumed == 1
    assert all(torch.equal(found[name], tensor) for name, tensor in wanted.items())
    torch.load(max(tmp_path.glob("step-*.pt")), weights_only=True)


# Faults: a function of the library, and what somebody might make of it.

real_draws, real_loss, real_rates = Data.draws, loop.cross_entropy, loop.set_rates
real_smooth, real_optimizer = smoothing.smooth, loop.optimizer_for


def index_on_the_cpu(self, batch, generator):
    for rows, noise in real_draws(self, batch, generator):
        yield torch.arange(len(rows)), noise


def generator_of_the_cpu(self, batch, generator):
    for rows, _ in real_draws(self, batch, generator):
        yield rows, torch.rand(len(rows), 1, generator=generator, device=rows.device)


def target_on_the_cpu(self, rows, noise):
    x = self.normalise(self.augment(self.train.x[rows], noise))
    return x, F.one_hot(torch.zeros(len(rows), dtype=torch.long), len(self.classes)).float()


def only_the_images_under_a_mask(self, rows, noise):
    x = self.normalise(self.augment(self.train.x[rows], noise))
    return x[noise[:, 0] >= 0], F.one_hot(self.train.y[rows], len(self.classes)).float()


def constant_on_the_cpu(logits, q):
    return F.cross_entropy(logits.float(), q, weight=torch.ones(logits.shape[1]))


def loss_read(logits, q):
    loss = real_loss(logits, q)
    assert np.isfinite(loss.item())
    return loss


def loss_printed(logits, q):
    loss = real_loss(logits, q)
    print(f"loss {loss:.3f}")
    return loss


def numbers_for_numpy(q, eps):
    assert np.allclose(q.numpy().sum(1), 1)
    return real_smooth(q, eps)


def upload_not_pinned(q, eps):
    return real_smooth(q, torch.full((1,), eps).to(q.device, non_blocking=True))


def upload_waited_for(q, eps):
    return real_smooth(q, torch.full((1,), eps).pin_memory().to(q.device))


def clock_read(optimizer, lr, momentum):
    loop.now(optimizer.param_groups[0]["params"][0].device)
    real_rates(optimizer, lr, momentum)


def model_not_moved(recipe, model):
    return real_optimizer(recipe, model.to("cpu"))


FAULTS: dict[Callable, tuple[object, str]] = {
    index_on_the_cpu: (Data, "draws"),
    generator_of_the_cpu: (Data, "draws"),
    target_on_the_cpu: (Data, "batch"),
    only_the_images_under_a_mask: (Data, "batch"),
    constant_on_the_cpu: (loop, "cross_entropy"),
    loss_read: (loop, "cross_entropy"),
    loss_printed: (loop, "cross_entropy"),
    numbers_for_numpy: (smoothing, "smooth"),
    upload_not_pinned: (smoothing, "smooth"),
    upload_waited_for: (smoothing, "smooth"),
    clock_read: (loop, "set_rates"),
    model_not_moved: (loop, "optimizer_for"),
}


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_a_fault_turns_the_check_red(fault, tiny, monkeypatch):
    recipe = RECIPES["LabelSmoothing"]
    check(recipe, tiny)
    monkeypatch.setattr(*FAULTS[fault], fault)
    with pytest.raises((AssertionError, RuntimeError, TypeError)) as red:
        check(recipe, tiny)
    named = ("a step waits", "same device", "device type", "to be on")
    assert any(words in str(red.value) for words in named), red.value


# The pretended device itself, against what CUDA does.


def x() -> torch.Tensor:
    """(3,) on the device, uploaded as it should be."""
    return torch.arange(3.0).pin_memory().to("cuda", non_blocking=True)


@pytest.mark.parametrize(
    "call",
    [
        lambda: x() + torch.ones(3),
        lambda: torch.cat([x(), torch.ones(3)]),
        lambda: torch.stack([x()[0], torch.tensor(1.0)]),
        lambda: torch.arange(3.0)[x().long()],
        lambda: F.linear(x(), torch.ones(2, 3)),
        lambda: torch.rand(2, device="cuda", generator=torch.Generator()),
        lambda: torch.rand(2, generator=torch.Generator("cuda")),
        lambda: x().uniform_(generator=torch.Generator()),
        lambda: x() + x().to("cuda:1"),
        lambda: x().to("cuda:2"),
        lambda: x().pin_memory(),
        lambda: x().numpy(),
        lambda: np.asarray(x()),
    ],
)
def test_what_cuda_refuses(call):
    with pretend(devices=2), pytest.raises((RuntimeError, TypeError)):
        call()


@pytest.mark.parametrize(
    ("waits", "call"),
    [
        (0, lambda: x() * 2 + torch.tensor(3.0)),
        (0, lambda: x()[1:].add_(1)),
        (0, lambda: torch.where(x() > 1, x(), 0.0)),
        (0, lambda: x().__setitem__(x() > 1, 0.0)),
        (0, lambda: x()[x().long()]),
        (0, lambda: torch.rand(3, device="cuda", generator=torch.Generator("cuda"))),
        (0, lambda: nn.Linear(3, 2, device="cuda")(x()).sum().backward()),
        (0, lambda: torch.empty(3, pin_memory=True)[1:].to("cuda", non_blocking=True)),
        (1, lambda: torch.empty(3, pin_memory=True).to("cuda")),
        (1, lambda: torch.empty(3).cuda(non_blocking=True)),
        (1, lambda: torch.tensor([1.0], device="cuda")),
        (1, lambda: x().copy_(torch.ones(3))),
        (1, lambda: torch.ones(3).copy_(x())),
        (1, lambda: x()[[0, 1]]),
        (1, lambda: x()[torch.tensor([0, 1])]),
        (1, lambda: x()[x() > 1]),
        (1, lambda: x().sum().item()),
        (1, lambda: float(x()[0])),
        (1, lambda: bool(x().any())),
        (1, lambda: x().cpu()),
        (1, lambda: x().tolist()),
        (1, lambda: x().nonzero()),
        (1, lambda: torch.equal(x(), x())),
        (1, lambda: str(x())),
        (1, lambda: torch.cuda.synchronize()),
    ],
)
def test_what_the_host_waits_for(waits, call):
    with pretend() as gpu:
        call()
    assert gpu.waits.total() == waits, gpu.waits


def test_nothing_stays_behind():
    before = torch.cuda.is_available(), torch.Generator, torch.Tensor.to, torch.inference_mode
    with pretend(devices=2):
        assert torch.cuda.device_count() == 2
        assert [str(x().device), str(x().to(1).device)] == ["cuda:0", "cuda:1"]
    assert (
        torch.cuda.is_available(),
        torch.Generator,
        torch.Tensor.to,
        torch.inference_mode,
    ) == before


def test_the_loss_scale_finds_an_overflow():
    with pretend():
        weight = nn.Parameter(torch.ones(2, device="cuda"))
        optimizer, scaler = torch.optim.SGD([weight], 0.5, fused=True), torch.amp.GradScaler("cuda")
        scaler.scale(weight.sum() * float("inf")).backward()
        scaler.step(optimizer)
        scaler.update()
        assert weight.tolist() == [1, 1]
        assert scaler.get_scale() == 2.0**15
        optimizer.zero_grad()
        scaler.scale(weight.sum()).backward()
        scaler.unscale_(optimizer)
        assert weight.grad.tolist() == [1, 1]
        scaler.step(optimizer)
        assert weight.tolist() == [0.5, 0.5]
