"""Where images come from: a name or a folder, and the module that reads it."""

from pathlib import Path

from ..data import Data

NAMES = ("fashion-mnist", "letters", "cifar10", "cifar100")


def load(
    name: str = "fashion-mnist",  # another of NAMES, or a folder with one subfolder a class
    size: int = 64,  # pixels a side at which a folder's images are decoded
    skip_broken: bool = False,  # leave out a folder's images that cannot be read
) -> Data:
    """The named images. Raises OSError or ValueError with what to do where they cannot be had."""
    if name == "fashion-mnist":
        from .fashion_mnist import load_fashion_mnist

        return load_fashion_mnist()
    if name == "letters":
        from .letters import load_letters

        return load_letters()
    if name in ("cifar10", "cifar100"):
        from .downloaded import load_cifar

        return load_cifar(name)
    from .folder import load_folder

    return load_folder(Path(name), size, skip_broken)


def loadable(name: str) -> bool:
    """Whether another process can `load` what has this name."""
    return name in NAMES or Path(name).is_dir()
