"""What a trained network makes of the test images, as one page that a browser opens offline."""

import base64
import html
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ..data import Data, Split
from ..files import replacing
from ..machine import name_of_machine
from ..record import Run

WORST, PAIRS, MOST = 12, 10, 20  # mistakes and confusions that are shown; classes of a matrix
STYLE = """
:root { color-scheme: light dark }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem }
table { border-collapse: collapse; margin: 1rem 0; display: block; overflow-x: auto }
th, td { padding: .2rem .6rem; text-align: right; border-bottom: 1px solid #8886 }
th:first-child, td:first-child { text-align: left }
figure { display: inline-block; margin: .5rem; width: 8rem; font-size: .8rem; vertical-align: top }
img { width: 8rem; image-rendering: pixelated; border: 1px solid #888 }
pre { background: #8882; padding: 1rem; overflow-x: auto }
"""


def probabilities(model: nn.Module, data: Data, split: Split, batch: int = 1000) -> Tensor:
    """(N, K) what the model, in fp32, thinks of each image of a split."""
    training = model.training
    model.eval()
    with torch.inference_mode():
        parts = [model(data.normalise(x)).softmax(1) for x in split.x.split(batch)]
    model.train(training)
    return torch.cat(parts)


@dataclass(frozen=True)
class Judged:
    """The answers to a split's images."""

    names: tuple[str, ...]  # of the classes
    truth: np.ndarray  # (N,) class numbers
    answer: np.ndarray  # (N,) the most probable class
    confidence: np.ndarray  # (N,) its probability

    @property
    def right(self) -> int:
        """Images whose class was named."""
        return int((self.truth == self.answer).sum())

    @property
    def confusion(self) -> np.ndarray:
        """(K, K) images by true class and answer."""
        found = np.zeros((len(self.names),) * 2, int)
        np.add.at(found, (self.truth, self.answer), 1)
        return found

    def worst(self, count: int = WORST) -> list[int]:
        """The rows of the mistakes that were made with the most confidence."""
        wrong = np.flatnonzero(self.truth != self.answer)
        return wrong[np.argsort(-self.confidence[wrong], kind="stable")][:count].tolist()


def judge(
    model: nn.Module,
    data: Data,  # on the model's device, at the size that it was trained at
    split: Split,
) -> Judged:
    """What the model answers to every image of a split."""
    found = probabilities(model, data, split).max(1)
    truth, answer = split.y.cpu().numpy(), found.indices.cpu().numpy()
    return Judged(data.classes, truth, answer, found.values.cpu().numpy())


def loading(run: Run, channels: int, classes: int, weights: str) -> str:
    """The lines of code that load the weights, without this package."""
    return (
        "import timm; from safetensors.torch import load_file\n"
        f"net = timm.create_model({run.model!r}, in_chans={channels}, num_classes={classes})\n"
        f"net.load_state_dict(load_file({weights!r}))\n"
        f"chances = net.eval()(pixels / 127.5 - 1).softmax(1)  # pixels: "
        f"(N, {channels}, {run.image_size}, {run.image_size}), 0 to 255"
    )


def weights_note(run: Run, data: Data) -> dict[str, str]:
    """What timm needs, and how pixels are to be scaled; kept in the weights' own file."""
    return {
        "model": run.model,
        "in_chans": str(data.channels),
        "num_classes": str(len(data.classes)),
        "classes": "\n".join(data.classes),
        "image_size": str(run.image_size),
        "pixels": "x / 127.5 - 1, for x from 0 to 255",
        "val_accuracy": f"{run.val_accuracy:.4f}",
    }


def write_page(
    path: Path,  # the .html file
    run: Run,
    data: Data,  # on the host
    plain: Run | None = None,  # plain training on the same images, to compare with
    weights: str = "",  # the file that they were saved in
) -> Judged:
    """Read the test images once, write what the network makes of them, and return that."""
    device = next(run.net.parameters()).device
    here = data.to(device, run.image_size)
    judged = judge(run.net, here, here.test)
    parts = [
        f"<h1>{escaped(data.name)}: {len(data.classes)} classes</h1>",
        paragraph(summary(run, judged)),
        *([paragraph(beside(run, plain))] if plain else []),
        "<h2>What is taken for what</h2>",
        paragraph("Rows are the true classes, columns the answers; images of the test part."),
        confusions(judged),
        "<h2>The worst mistakes</h2>",
        paragraph("Wrong answers that were given with the most confidence."),
        *(picture(here.test.x[row], judged, row) for row in judged.worst()),
    ]
    if weights:
        lines = loading(run, data.channels, len(data.classes), weights)
        parts += ["<h2>Use it</h2>", f"<pre>{escaped(lines)}</pre>"]
    with replacing(path) as part:
        part.write_text(document(data.name, "\n".join(parts)), encoding="utf-8")
    return judged


def document(title: str, body: str) -> str:
    """A whole page that needs nothing else."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width">'
        f"<title>{escaped(title)}</title><style>{STYLE}</style></head><body>\n{body}\n"
        "</body></html>\n"
    )


def summary(run: Run, judged: Judged) -> str:
    """The result in two sentences."""
    from scipy.stats import binomtest

    count = len(judged.truth)
    interval = binomtest(judged.right, count).proportion_ci(method="wilson")
    low, high = interval.low, interval.high
    return (
        f"{judged.right / count:.1%} of the {count:,} test images are named rightly (95%: "
        f"{low:.1%} to {high:.1%}, Wilson); they chose nothing and were read once. {run.model} saw "
        f"{run.images_seen:,} images of {run.image_size} by {run.image_size} pixels in "
        f"{run.train_seconds:.1f} s on {name_of_machine(run.hardware)}, in {run.processes} "
        f"process(es) and {run.precision}, with {', '.join(run.recipe.names) or 'no trick'}."
    )


def beside(run: Run, plain: Run) -> str:
    """Plain training on as many images: one run each, so a difference may be chance."""
    return (
        f"Plain training on {plain.images_seen:,} images took {plain.train_seconds:.1f} s, "
        f"{plain.train_seconds / run.train_seconds:.2f} times as long, and reached a validation "
        f"accuracy of {plain.val_accuracy:.4f}, where this run reached {run.val_accuracy:.4f}. "
        f"That is one run each: `fasttricks train --seed` tells how much is chance."
    )


def confusions(judged: Judged) -> str:
    """The matrix where it can be read, else the pairs that are confused most often."""
    found, names = judged.confusion, judged.names
    if len(names) <= MOST:
        rows = [
            [name, *row.tolist(), f"{row[number] / max(1, row.sum()):.0%}"]
            for number, (name, row) in enumerate(zip(names, found, strict=True))
        ]
        return table(["", *names, "right"], rows)
    wrong = found - np.diag(np.diag(found))
    order = np.argsort(-wrong, axis=None, kind="stable")[:PAIRS]
    pairs = np.transpose(np.unravel_index(order, wrong.shape)).tolist()
    rows = [[names[true], names[said], wrong[true, said]] for true, said in pairs]
    return table(["true class", "answer", "images"], rows)


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """An HTML table; everything is escaped."""
    cells = "".join(f'<th scope="col">{escaped(name)}</th>' for name in head)
    lines = [f"<tr>{cells}</tr>"]
    for first, *rest in rows:
        values = "".join(f"<td>{escaped(value)}</td>" for value in rest)
        lines.append(f'<tr><th scope="row">{escaped(first)}</th>{values}</tr>')
    return f"<table>{''.join(lines)}</table>"


def picture(x: Tensor, judged: Judged, row: int) -> str:
    """An image (C, H, W) with what it shows and what was answered."""
    from torchvision.transforms.functional import to_pil_image

    file = io.BytesIO()
    to_pil_image(x.cpu()).save(file, "PNG")
    code = base64.b64encode(file.getvalue()).decode()
    truth, answer = judged.names[judged.truth[row]], judged.names[judged.answer[row]]
    said = escaped(f"{truth}, taken for {answer} ({judged.confidence[row]:.0%} sure)")
    return (
        f'<figure><img alt="{said}" src="data:image/png;base64,{code}">'
        f"<figcaption>{said}</figcaption></figure>"
    )


def paragraph(text: str) -> str:
    """Text as HTML."""
    return f"<p>{escaped(text)}</p>"


def escaped(value: object) -> str:
    """Text that cannot become markup: names of folders are other people's."""
    return html.escape(str(value))
