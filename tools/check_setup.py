"""The last step of set-up: torch, torchvision and timm must import together."""

import sys
import warnings

warnings.simplefilter("ignore")
try:
    import timm
    import torch
    import torchvision
except Exception as error:
    print(
        f"Set-up is incomplete: {type(error).__name__}: {error}\n"
        "torch and torchvision must come from one release. Remove .venv, and make sure that pip "
        "takes both from the same index: pip install --upgrade torch torchvision timm",
        file=sys.stderr,
    )
    sys.exit(2)
print(f"torch {torch.__version__}, torchvision {torchvision.__version__}, timm {timm.__version__}")
