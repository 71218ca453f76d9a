"""A recipe as a script in ordinary PyTorch: `examples/all_seven.py` with other constants."""

import re
from pathlib import Path

from .. import machine
from ..models import letters_file
from ..recipe import Recipe, name_of
from ..tricks import LRScaling, Mixup, OneCycle

EXAMPLE = machine.HERE.parent / "examples" / "all_seven.py"  # in the repository, not in a wheel
CLOTHES = "fashion-mnist"


def script(
    recipe: Recipe,  # on AdamW, its tricks of the seven
    images: int,  # to see
    data: str,  # "fashion-mnist", or a folder with one subfolder per class
    model: str,  # timm's name
    image_size: int,  # pixels a side
) -> str:
    """The script's text; empty where there is no example to begin with, or it cannot load the data.

    The rate, momentum and targets of every step are the recipe's; chance is drawn otherwise.
    """
    if not EXAMPLE.exists() or not (data == CLOTHES or Path(data).is_dir()):
        return ""
    tricks = {name_of(trick): trick for trick in recipe.tricks}
    scaling = tricks.get("scaling", LRScaling(recipe.batch, recipe.batch, warmup=0))
    cycle, mixup = tricks.get("cyclic", OneCycle()), tricks.get("mixup", Mixup())
    rate = recipe.lr * scaling.lr_factor(1, 1, recipe.global_batch)
    weights = letters_file(model, image_size).as_posix() if "transfer" in tricks else ""
    smoothing = tricks["smoothing"].eps if "smoothing" in tricks else 0
    peak, alpha = cycle.peak if "cyclic" in tricks else 0, mixup.alpha if "mixup" in tricks else 0
    momentum = f"({cycle.momentum_high}, {cycle.momentum_low})"
    values = {
        "MODEL, SIZE": f'"{model}", {image_size}',
        "IMAGES, BATCH": f"{images:_}, {recipe.global_batch}",
        "LR": f"{rate:.6g}",
        "WARM_UP": f"{scaling.warmup}",
        "PEAK, RISE, MOMENTUM": f"{peak}, {cycle.rise}, {momentum}",
        "ALPHA, PER_IMAGE": f"{alpha}, {mixup.per_sample}",
        "SMOOTHING": f"{smoothing}",
        "WEIGHTS": repr(weights),
        "HUB": "False",
        "HALF": str("precision" in tricks),
    }
    text = EXAMPLE.read_text(encoding="utf-8")
    for name, value in values.items():
        line = re.compile(rf"^{re.escape(name)} = .*?(?=(  #.*)?$)", re.M)
        text, count = line.subn(lambda _, new=f"{name} = {value}": new, text)
        assert count == 1, f"{EXAMPLE} has no constant {name}"
    start = "torchrun --nproc-per-node DEVICES" if "distributed" in tricks else "python"
    told = f'"""Plain training{"".join(f" + {name}" for name in recipe.names)}, as advised.\n\n'
    told += f"    {start} THIS_FILE\n\nMade from the course's examples/all_seven.py.\n" + '"""\n'
    text = re.sub(r'\A""".*?"""\n', lambda _: told, text, flags=re.S)
    if data != CLOTHES:
        text = text.replace(
            '"--data", help=', f'"--data", default={Path(data).as_posix()!r}, help='
        )
    return text
