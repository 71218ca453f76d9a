"""fastai's `Learner.fit_one_cycle` with its defaults, on PyTorch DataLoaders.

As https://docs.fast.ai/examples/migrating_pytorch.html shows it. fastai validates after every
epoch; a callback skips that, so that the clock is of training alone, as for everybody.
"""

import common
from fastai.vision.all import (
    Callback,
    CancelValidException,
    CrossEntropyLossFlat,
    DataLoaders,
    Learner,
)


class OnlyTrain(Callback):
    """Skip validation."""

    def before_validate(self) -> None:
        """Leave at once."""
        raise CancelValidException


def fit(task: common.Task) -> None:
    """Train in place."""
    loaders = DataLoaders(task.train, task.val, device=common.DEVICE)
    learner = Learner(loaders, task.net, loss_func=CrossEntropyLossFlat(), cbs=OnlyTrain())
    with learner.no_logging(), learner.no_bar():
        learner.fit_one_cycle(task.epochs, task.lr)


if __name__ == "__main__":
    common.main(fit, "fastai")
