"""The source task of transfer learning: reading letters, drawn on the fly.

About a thousand Unicode glyphs in the DejaVu fonts that matplotlib ships; each time one is seen it
is turned, sheared, stretched, moved, shaded, and its ground and ink are drawn anew.
"""

from pathlib import Path

import matplotlib
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ..data import Data, Split

FONTS = ("DejaVuSans", "DejaVuSans-Bold", "DejaVuSerif", "DejaVuSerif-Italic", "DejaVuSansMono")
RANGES = ((0x21, 0x7F), (0xA1, 0x250), (0x370, 0x530))  # Latin, Greek, Cyrillic
CANVAS = 64  # pixels a side of a print, before it is resized to the budget's size
NOISE = 14  # columns of uniform noise that `warp` takes


def draw(character: str, font: ImageFont.FreeTypeFont) -> np.ndarray:
    """One glyph in the middle of the canvas, (CANVAS, CANVAS) uint8, white on black."""
    image = Image.new("L", (CANVAS, CANVAS))
    middle = CANVAS / 2
    ImageDraw.Draw(image).text((middle, middle), character, 255, font, anchor="mm")
    return np.asarray(image)


def glyphs() -> Split:
    """Every glyph in every font that has it; the class is the character."""
    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    fonts = [ImageFont.truetype(str(folder / f"{name}.ttf"), 48) for name in FONTS]
    absent = [draw("\U000f0000", font) for font in fonts]  # the box for what a font lacks
    images, labels, seen = [], [], set()
    for character in (chr(code) for low, high in RANGES for code in range(low, high)):
        prints = [draw(character, font) for font in fonts]
        kept = [p for p, box in zip(prints, absent, strict=True) if p.any() and (p != box).any()]
        if not kept or kept[0].tobytes() in seen:  # nothing to see, or looks like another one
            continue
        seen.add(kept[0].tobytes())
        images += kept
        labels += [len(seen) - 1] * len(kept)
    return Split(torch.from_numpy(np.stack(images))[:, None], torch.tensor(labels))


def warp(
    x: Tensor,  # (N, 1, S, S) uint8 glyphs
    noise: Tensor,  # (N, NOISE) uniform in [0, 1)
) -> Tensor:
    """Glyphs turned, sheared, stretched, moved and shaded, (N, 1, S, S) floats, 0 to 255."""
    size, n = x.shape[-1], noise.to(torch.float32) * 2 - 1  # uniform in [-1, 1)
    angle, shear, zoom = n[:, 0] * 0.2, n[:, 1] * 0.15, torch.exp(n[:, 2] * 0.25 - 0.25)
    stretch = torch.exp(n[:, 3] * 0.2)
    cos, sin = angle.cos() * zoom, angle.sin() * zoom
    rows = torch.stack(
        [cos * stretch, shear - sin, n[:, 4] * 0.08, sin * stretch, cos, n[:, 5] * 0.08], 1
    )
    grid = F.affine_grid(rows.view(-1, 2, 3), [len(x), 1, size, size], align_corners=False)
    ink = F.grid_sample(x.float() / 255, grid, align_corners=False)
    axis = torch.linspace(-1, 1, size, device=x.device)
    down, across = axis.view(1, 1, -1, 1), axis.view(1, 1, 1, -1)
    col = n.view(-1, NOISE, 1, 1, 1).unbind(1)
    shade = 1 + 0.4 * (col[6] * down + col[7] * across)
    wave = 0.3 * torch.sin(6 * (col[8] * down + col[9] * across) + 3 * col[10])
    front, ground = 0.6 + 0.4 * col[11], (0.3 * col[12]).clamp_min(0)
    body = ink * (front * shade + wave * (col[13] > 0))
    return (body + ground * (1 - ink)).clamp(0, 1) * 255


def load_letters() -> Data:
    """The letters as a data set; what is validated are the prints, unwarped."""
    prints = glyphs()
    classes = tuple(str(number) for number in range(int(prints.y.max()) + 1))
    return Data("letters", classes, prints, prints, prints, warp, NOISE)
