"""A folder of images with one subfolder a class."""

from pathlib import Path

import torch

from ..data import Data, Split


def load_folder(folder: Path, size: int = 64) -> Data:
    """A folder's images in colour, a tenth each to validate and to test, drawn once for all."""
    from torchvision.datasets import ImageFolder
    from torchvision.transforms import v2

    if not folder.is_dir():
        raise FileNotFoundError(
            f"There is no data set {str(folder)!r}; use fashion-mnist, or a folder with one "
            f"subfolder of images a class."
        )
    shape = v2.Compose([v2.Resize(size), v2.CenterCrop(size), v2.PILToTensor()])
    try:
        files = ImageFolder(folder, shape)
    except FileNotFoundError:
        raise ValueError(f"{folder} needs one subfolder a class with images in each.") from None
    if len(files) < 10:
        raise ValueError(f"{folder} holds {len(files)} images; 10 are the least to split.")
    order = torch.randperm(len(files), generator=torch.Generator().manual_seed(0)).tolist()
    images, labels = zip(*(files[i] for i in order), strict=True)
    everything = Split(torch.stack(images), torch.tensor(labels))
    tenth = len(files) // 10
    return Data(
        str(folder),
        tuple(files.classes),
        everything[2 * tenth :],
        everything[:tenth],
        everything[tenth : 2 * tenth],
    )
