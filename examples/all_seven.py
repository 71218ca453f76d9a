"""All seven tricks in ordinary PyTorch.

    torchrun --nproc-per-node 2 all_seven.py                  # Fashion-MNIST, downloaded
    torchrun --nproc-per-node 2 all_seven.py --data PHOTOS    # one subfolder per class
    python all_seven.py                                       # one device, so six tricks

A number in a comment is that of a trick's chapter. The constants below turn tricks off, too.
"""

import argparse
import math
import os
import time

import timm
import torch
import torch.distributed as dist
import torch.nn.functional as F
from safetensors.torch import load_file
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import bf16_compress_hook
from torch.nn.parallel import DistributedDataParallel
from torchvision import datasets
from torchvision.transforms import v2

MODEL, SIZE = "test_resnet", 28  # timm's name; pixels a side
IMAGES, BATCH = 16_480, 160  # to see, and in one step of all processes
LR = 1e-3 * math.sqrt(BATCH / 128)  # 2: tuned at 128; AdamW scales with the square root
WARM_UP = 0.05  # 2: share of the run; 0 for none
PEAK, RISE, MOMENTUM = 30, 0.15, (0.9, 0.8)  # 3: times the rate (0: constant), share, high and low
ALPHA, PER_IMAGE = 0.05, False  # 4: 0 for none; whether each image has a share of its own
SMOOTHING = 0.1  # 5: 0 for none
WEIGHTS = "fasttricks/weights/test_resnet-28-letters.safetensors"  # 6: "" for none
HUB = True  # 6: for your own images, weights from timm's hub instead, which know photographs
HALF = True  # 7


def one_cycle(step, steps, first, middle, last):
    """3: from the first value to the middle to the last, along cosines."""
    turn = RISE * steps - 1
    if step <= turn:
        begin, end, share = first, middle, step / turn if turn > 0 else 1.0
    else:
        begin, end, share = middle, last, (step - turn) / (steps - 1 - turn)
    return begin + (end - begin) * (1 - math.cos(math.pi * share)) / 2


def rate(step, steps):
    """2 and 3: warm-up times one cycle; factors may be multiplied in any order."""
    ready = 0.1 + 0.9 * min(1, step / (WARM_UP * steps)) if WARM_UP else 1
    cycle = one_cycle(step, steps, PEAK / 25, PEAK, PEAK / 25e4) if PEAK else 1
    return LR * ready * cycle


def begin(folder, channels, classes):
    """6: a network that has learned something else, with a new head."""
    if folder and HUB:
        return timm.create_model(MODEL, pretrained=True, in_chans=channels, num_classes=classes)
    net = timm.create_model(MODEL, in_chans=channels, num_classes=classes)
    if WEIGHTS:
        head, first = net.default_cfg["classifier"], net.default_cfg["first_conv"] + ".weight"
        body = {name: t for name, t in load_file(WEIGHTS).items() if not name.startswith(head)}
        body[first] = body[first].expand(-1, channels, -1, -1) / channels  # letters are grey
        missing, _ = net.load_state_dict(body, strict=False)
        assert missing == [f"{head}.weight", f"{head}.bias"], "all but the head must be there"
    return net


def half(device):
    """7: bf16 where it is native, else fp16 on a GPU; None on a CPU without it."""
    if not HALF:
        return None
    if device == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if native else torch.float16
    known = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return torch.bfloat16 if known.get("avx512_bf16") or known.get("amx_bf16") else None


def load(folder):
    """All images in memory as bytes, (N, C, SIZE, SIZE), and their class numbers."""
    if not folder:
        found = datasets.FashionMNIST("downloads", download=True)
        return found.data[:, None], found.targets
    to_tensor = v2.Compose([v2.PILToTensor(), v2.Resize(SIZE), v2.CenterCrop(SIZE)])
    found = datasets.ImageFolder(folder, to_tensor)
    shuffled = torch.randperm(len(found), generator=torch.Generator().manual_seed(0))
    return torch.stack([found[n][0] for n in shuffled]), torch.tensor(found.targets)[shuffled]


def normalise(x):
    """Bytes to floats between -1 and 1, in the layout that convolutions like."""
    return x.to(torch.float32, memory_format=torch.channels_last) / 127.5 - 1


def accuracy(net, x, y):
    net.eval()
    with torch.inference_mode():
        batches = zip(x.split(1000), y.split(1000))
        right = sum((net(normalise(some)).argmax(1) == names).sum() for some, names in batches)
    net.train()
    return right.item() / len(y)


def main(folder, images, seed):
    torch.manual_seed(seed)
    gpu, launched = torch.cuda.is_available(), "RANK" in os.environ
    kind, local = "cuda" if gpu else "cpu", int(os.environ.get("LOCAL_RANK", 0))
    device = torch.device(kind, local)
    if gpu:
        torch.cuda.set_device(device)
    rank, processes = 0, 1
    if launched:  # 1
        dist.init_process_group("nccl" if gpu else "gloo")
        rank, processes = dist.get_rank(), dist.get_world_size()
    dtype = half(kind)  # 7
    scaler = torch.amp.GradScaler(kind, enabled=dtype == torch.float16)

    if launched and local == 0:
        load(folder)  # one process on each machine downloads
    if launched:
        dist.barrier()
    x, y = (part.to(device) for part in load(folder))
    held = len(y) // 12  # the last images validate
    x, y, val_x, val_y = x[:-held], y[:-held], x[-held:], y[-held:]
    net = begin(folder, x.shape[1], int(y.max()) + 1)
    net = net.to(device, memory_format=torch.channels_last)
    wrapped = net
    if launched:  # 1
        wrapped = DistributedDataParallel(net, bucket_cap_mb=None if gpu else 1000)
        if dtype == torch.bfloat16:
            wrapped.register_comm_hook(None, bf16_compress_hook)
    decayed = [p for p in net.parameters() if p.ndim > 1]  # not the norms and biases
    others = [p for p in net.parameters() if p.ndim < 2]
    groups = [{"params": decayed, "weight_decay": 0.05}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=LR, fused=True)

    shared = torch.Generator(device).manual_seed(seed)  # 1: the same order everywhere
    torch.manual_seed(seed + rank)  # 4: but each process blends by chance of its own
    steps, epoch = max(1, images // BATCH), len(y) // BATCH
    started = time.perf_counter()
    for step in range(steps):
        for group in optimizer.param_groups:  # 2, 3
            group["lr"] = rate(step, steps)
            high, low = MOMENTUM
            if PEAK:
                group["betas"] = (one_cycle(step, steps, high, low, high), 0.999)
        if step % epoch == 0:
            order = torch.randperm(len(y), generator=shared, device=device)
        rows = order[step % epoch * BATCH :][:BATCH][rank::processes]
        drawn = torch.rand(BATCH, 1, 1, 1, generator=shared, device=device)
        pixels, flipped = x[rows], drawn[rank::processes] < 0.5
        inputs, targets = normalise(torch.where(flipped, pixels.flip(-1), pixels)), y[rows]
        share = torch.ones(len(rows) if PER_IMAGE else 1, device=device)
        if ALPHA:  # 4
            share = torch.distributions.Beta(ALPHA * share, ALPHA * share).sample()
        other, each = torch.randperm(len(rows), device=device), share.view(-1, 1, 1, 1)
        with torch.autocast(kind, dtype, enabled=dtype is not None):  # 7
            outputs = wrapped(each * inputs + (1 - each) * inputs[other]).float()
        how = {"reduction": "none", "label_smoothing": SMOOTHING}  # 5
        loss = share * F.cross_entropy(outputs, targets, **how)  # 4
        loss += (1 - share) * F.cross_entropy(outputs, targets[other], **how)
        scaler.scale(loss.sum() * processes / BATCH).backward()  # 1, 7
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
    if gpu:
        torch.cuda.synchronize()
    seconds = time.perf_counter() - started
    if rank == 0:
        found = accuracy(net, val_x, val_y)
        print(f"{steps * BATCH:,} images in {seconds:.1f} s, accuracy {found:.4f}")
    if launched:
        dist.destroy_process_group()
    return net


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", help="a folder of images; Fashion-MNIST unless given")
    parser.add_argument("--images", type=int, default=IMAGES, help="to see [%(default)s]")
    parser.add_argument("--seed", type=int, default=0)
    main(*vars(parser.parse_args()).values())
