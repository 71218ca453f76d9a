"""Lightning's Trainer with torch's OneCycleLR and its precision flag.

As https://lightning.ai/docs/pytorch/stable/ shows a module, its schedulers and `precision`.
"""

import common
import lightning
import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Classifier(lightning.LightningModule):
    """A model with its loss, optimiser and schedule."""

    def __init__(self, net: nn.Module, lr: float) -> None:
        super().__init__()
        self.net, self.lr = net, lr

    def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
        """The loss of one batch."""
        x, y = batch
        return F.cross_entropy(self.net(x), y)

    def configure_optimizers(self) -> dict:
        """AdamW, one cycle over the whole run."""
        optimizer = torch.optim.AdamW(self.parameters(), self.lr, weight_decay=0.05)
        steps = self.trainer.estimated_stepping_batches
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, self.lr, total_steps=steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def fit(task: common.Task) -> None:
    """Train in place."""
    trainer = lightning.Trainer(
        max_epochs=task.epochs,
        precision="bf16-mixed",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(Classifier(task.net, task.lr), task.train)


if __name__ == "__main__":
    common.main(fit, "lightning")
