"""As plain.py, beginning with the weights of a network that learned something else.

python transfer.py               # Fashion-MNIST, which torchvision downloads
python transfer.py --data PHOTOS # your own images, one subfolder per class
"""

import argparse
import time

import timm
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torchvision import datasets
from torchvision.transforms import v2

MODEL, SIZE = "test_resnet", 28  # timm's name; pixels a side
IMAGES, BATCH, LR = 138_368, 128, 1e-3
WEIGHTS = "fasttricks/weights/test_resnet-28-letters.safetensors"


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
    device = "cuda" if torch.cuda.is_available() else "cpu"
    x, y = (part.to(device) for part in load(folder))
    held = len(y) // 12  # the last images validate
    x, y, val_x, val_y = x[:-held], y[:-held], x[-held:], y[-held:]
    task = {"in_chans": x.shape[1], "num_classes": int(y.max()) + 1}
    net = timm.create_model(MODEL, pretrained=bool(folder), **task)  # photographs: from timm's hub
    if not folder:  # clothes: from letters, but for the head
        body = {k: t for k, t in load_file(WEIGHTS).items() if not k.startswith("fc.")}
        missing, _ = net.load_state_dict(body, strict=False)
        assert missing == ["fc.weight", "fc.bias"], "all but the head must be there"
    net = net.to(device, memory_format=torch.channels_last)
    decayed = [p for p in net.parameters() if p.ndim > 1]  # not the norms and biases
    others = [p for p in net.parameters() if p.ndim < 2]
    groups = [{"params": decayed, "weight_decay": 0.05}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=LR, fused=True)
    steps, epoch = max(1, images // BATCH), len(y) // BATCH
    started = time.perf_counter()
    for step in range(steps):
        if step % epoch == 0:
            order = torch.randperm(len(y), device=device)
        rows = order[step % epoch * BATCH :][:BATCH]
        flipped = torch.rand(BATCH, 1, 1, 1, device=device) < 0.5
        pixels = x[rows]
        inputs, targets = normalise(torch.where(flipped, pixels.flip(-1), pixels)), y[rows]
        loss = F.cross_entropy(net(inputs), targets)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    if device == "cuda":
        torch.cuda.synchronize()
    seconds = time.perf_counter() - started
    found = accuracy(net, val_x, val_y)
    print(f"{steps * BATCH:,} images in {seconds:.1f} s, accuracy {found:.4f}")
    return net


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", help="a folder of images; Fashion-MNIST unless given")
    parser.add_argument("--images", type=int, default=IMAGES, help="to see [%(default)s]")
    parser.add_argument("--seed", type=int, default=0)
    main(*vars(parser.parse_args()).values())
