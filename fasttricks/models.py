"""The shared timm model, its first weights, and its parameter groups."""

import warnings
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from .files import cache_folder, checked, replacing
from .recipe import Recipe
from .tricks import transfer

SHIPPED = Path(__file__).parent / "weights"


def create(
    name: str,  # timm's name of the model
    channels: int,  # colours of an image
    classes: int,
    **options: object,
) -> nn.Module:
    """A timm model in channels-last layout. Raises ValueError for a name unknown to timm."""
    try:
        model = timm.create_model(name, in_chans=channels, num_classes=classes, **options)
    except RuntimeError as error:
        if "Unknown model" not in str(error):
            raise
        raise ValueError(f"timm knows no model {name!r}; timm.list_models() tells.") from None
    return model.to(memory_format=torch.channels_last)


def head_of(model: nn.Module) -> str | tuple[str, ...]:
    """The name of the model's classifier, e.g. "fc"; of both, where it has two."""
    return model.pretrained_cfg["classifier"]


def letters_file(
    model: str,  # timm's name
    image_size: int,  # pixels a side at which the letters were read
) -> Path:
    """Where the letters weights of a model lie: shipped, or made once and cached."""
    name = f"{model}-{image_size}-letters.safetensors"
    shipped = SHIPPED / name
    return shipped if shipped.exists() else cache_folder() / name


def given_state(source: str, model: str, image_size: int) -> dict[str, Tensor]:
    """The tensors of a source. Raises FileNotFoundError or ValueError with what to do."""
    if source == "imagenet":
        try:
            return timm.create_model(model, pretrained=True).state_dict()
        except Exception as error:  # the hub raises one of many, depending on what is missing
            raise FileNotFoundError(
                f"timm's ImageNet weights of {model} cannot be had ({type(error).__name__}); they "
                f"need a network and a model with weights; take source letters, or a file."
            ) from None
    path = letters_file(model, image_size) if source == "letters" else Path(source)
    if not path.is_file():
        make = (
            f"make them by `python -m fasttricks pretrain --model {model} --image-size "
            f"{image_size}`, or train with --pretrain"
            if source == "letters"
            else "check the path"
        )
        raise FileNotFoundError(f"The weights {path} are missing; {make}.")
    if path.parent == SHIPPED:
        checked(path, SHIPPED)
    return read_weights(path)


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors or .pth file, without running any code in it."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's hints about old formats
            state = timm.models.load_state_dict(str(path), weights_only=True)
    except Exception as error:  # one of many, from safetensors, pickle, zipfile, ...
        raise ValueError(
            f"{path} is damaged, not safe to load or no weights file ({type(error).__name__}); "
            f"save plain tensors with safetensors, or with torch.save(model.state_dict(), ...)."
        ) from None
    if not all(isinstance(tensor, Tensor) for tensor in state.values()):
        raise ValueError(f"{path} holds more than tensors; save model.state_dict() alone.")
    return state


def begin(
    recipe: Recipe,
    name: str,
    channels: int,
    classes: int,
    image_size: int,  # pixels a side
    given: bool = True,  # whether to read weights; False leaves that to another process
) -> nn.Module:
    """A fresh model with the recipe's first weights; randomness is torch's global seed."""
    model = create(name, channels, classes)
    if recipe.start.source and given:
        state = given_state(recipe.start.source, name, image_size)
        model.load_state_dict(transfer.transplant(model.state_dict(), state, head_of(model)))
    return model


def optimizer_for(recipe: Recipe, model: nn.Module) -> torch.optim.Optimizer:
    """The recipe's optimiser; no weight decay on norms and biases; a rate for body and head.

    What the recipe freezes is marked so. Each group keeps its factor under `rate`.
    """
    head = head_of(model)
    groups: dict[tuple[float, float], dict[str, Any]] = {}
    named = list(model.named_parameters())
    body = sum(not transfer.is_head(name, head) for name, _ in named)
    for number, (name, parameter) in enumerate(named):
        rate = recipe.start.rate(name, head, number / body)
        parameter.requires_grad_(rate > 0)
        decay = recipe.weight_decay if parameter.ndim > 1 else 0.0
        if rate:
            group = {"params": [], "rate": rate, "weight_decay": decay}
            groups.setdefault((rate, decay), group)["params"].append(parameter)
    listed = list(groups.values())
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(
            listed, recipe.lr, momentum=recipe.momentum, nesterov=recipe.momentum > 0, fused=True
        )
    return torch.optim.AdamW(listed, recipe.lr, (recipe.momentum, 0.999), fused=True)


def save_weights(
    model: nn.Module,
    out: Path,
    note: dict[str, str] | None = None,  # kept in the file
) -> None:
    """Write a model's weights as safetensors, whole or not at all."""
    with replacing(out) as part:
        save_file({name: t.contiguous() for name, t in model.state_dict().items()}, part, note)
