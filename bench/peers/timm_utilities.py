"""A loop of timm's own parts: optimiser, cosine schedule with warm-up, mixup with smoothing, loss.

As timm's `train.py` puts them together (https://github.com/huggingface/pytorch-image-models). Its
loss scaler is for fp16; its autocast with bfloat16, taken here, needs none.
"""

import common
import timm
import torch
from timm.data import Mixup
from timm.loss import SoftTargetCrossEntropy
from timm.optim import create_optimizer_v2
from timm.scheduler import CosineLRScheduler


def fit(task: common.Task) -> None:
    """Train in place."""
    optimizer = create_optimizer_v2(task.net, "adamw", task.lr, weight_decay=0.05)
    total = task.epochs * task.steps
    schedule = CosineLRScheduler(
        optimizer,
        t_initial=total,
        warmup_t=total // 7,
        warmup_lr_init=task.lr / 25,
        warmup_prefix=False,
        t_in_epochs=False,
    )
    mixup = Mixup(mixup_alpha=0.1, label_smoothing=0.1, num_classes=task.classes)
    loss_of = SoftTargetCrossEntropy()
    task.net.train()
    updates = 0
    for _ in range(task.epochs):
        for images, classes in task.train:
            x, target = mixup(images.to(common.DEVICE), classes.to(common.DEVICE))
            with torch.autocast(common.DEVICE, torch.bfloat16):
                loss = loss_of(task.net(x), target)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            updates += 1
            schedule.step_update(updates)


if __name__ == "__main__":
    common.main(fit, timm.__name__)
