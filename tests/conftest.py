"""What several tests share: a tiny budget's data, loaded once."""

import os

os.environ.setdefault("FASTTRICKS_BUDGET", "smoke")
# Tests compare bits, which a GPU does not repeat, and so they use the CPU; notebooks use the GPU.
os.environ["CUDA_VISIBLE_DEVICES"] = os.environ.get("FASTTRICKS_TEST_GPUS", "")

import pytest
import torch
from hypothesis import settings

from fasttricks import Data, load
from fasttricks.data import Split

settings.register_profile("any machine", deadline=None)
settings.load_profile("any machine")


@pytest.fixture(scope="session", autouse=True)
def unspecified_encodings_are_ours_alone() -> None:
    """Here they are warnings, and so errors; started processes need not hear of other people's."""
    os.environ.pop("PYTHONWARNDEFAULTENCODING", None)


@pytest.fixture(scope="session")
def data() -> Data:
    """Fashion-MNIST, whole."""
    return load()


@pytest.fixture(scope="session")
def small(data: Data) -> Data:
    """Fashion-MNIST with 2,000 images to train on and 500 to validate on."""
    return Data(data.name, data.classes, data.train[:2000], data.val[:500], data.test[:501])


def targets(count: int, classes: int = 10, seed: int = 0) -> torch.Tensor:
    """(N, K) random target probabilities."""
    return torch.softmax(
        torch.randn(count, classes, generator=torch.Generator().manual_seed(seed)), 1
    )


def pictures(count: int, seed: int = 0) -> torch.Tensor:
    """(N, 1, 28, 28) random images."""
    return torch.rand(count, 1, 28, 28, generator=torch.Generator().manual_seed(seed))


__all__ = ["Split", "pictures", "targets"]
