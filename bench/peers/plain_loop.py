"""The loop of PyTorch's own tutorials: a DataLoader, AdamW, a constant rate."""

import common
import torch
from torch import nn


def fit(task: common.Task) -> None:
    """Train in place."""
    optimizer = torch.optim.AdamW(task.net.parameters(), task.lr, weight_decay=0.05)
    loss_of = nn.CrossEntropyLoss()
    task.net.train()
    for _ in range(task.epochs):
        for x, y in task.train:
            loss = loss_of(task.net(x.to(common.DEVICE)), y.to(common.DEVICE))
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()


if __name__ == "__main__":
    common.main(fit, "torch")
