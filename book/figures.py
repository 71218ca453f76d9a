"""Four figures that move: a page each, which a slider changes in the browser, without a server."""

import math
from pathlib import Path

import numpy as np
import torch
from bokeh.embed import file_html
from bokeh.layouts import column, row
from bokeh.models import ColumnDataSource, CustomJS, Div, LayoutDOM, Range1d, Slider, Span
from bokeh.plotting import figure
from bokeh.resources import INLINE

from fasttricks import BASELINE, load, train
from fasttricks.loop import cross_entropy
from fasttricks.tricks import Transfer
from fasttricks.tricks.cyclic import one_cycle

STEPS, CLASSES = 200, 10
INK, GREY = "#0072B2", "#bbbbbb"


def schedule() -> LayoutDOM:
    """Chapter 3: one cycle of the rate, and momentum in reverse."""
    steps = list(range(STEPS))
    source = ColumnDataSource(
        {
            "step": steps,
            "rate": [one_cycle(s, STEPS, 0.4, 10.0, 4e-5, 0.25, "cos") for s in steps],
            "momentum": [one_cycle(s, STEPS, 0.95, 0.85, 0.95, 0.25, "cos") for s in steps],
        }
    )
    plots = []
    for name, top in (("rate", 41), ("momentum", 1.0)):
        label = "rate, times the constant one" if name == "rate" else "momentum (AdamW: beta1)"
        plot = figure(height=260, sizing_mode="stretch_width", toolbar_location=None,
                      x_axis_label="optimiser step", y_axis_label=label,
                      y_range=Range1d(0 if name == "rate" else 0.6, top))  # fmt: skip
        plot.line("step", name, source=source, line_width=3, color=INK)
        plots.append(plot)
    sliders = {
        "peak": Slider(start=1, end=40, value=10, step=1, title="peak, times the constant rate"),
        "rise": Slider(start=0.05, end=0.6, value=0.25, step=0.05, title="share of the rise"),
        "low": Slider(start=0.6, end=0.95, value=0.85, step=0.05, title="momentum at the peak"),
    }
    code = """
        const n = source.data.step.length
        function cycle(step, first, middle, last) {
            const turn = rise.value * n - 1, end = n - 1
            let a = first, b = middle, share = turn > 0 ? step / turn : 1
            if (step > turn) { a = middle; b = last; share = (step - turn) / (end - turn) }
            return a + (b - a) * (1 - Math.cos(Math.PI * share)) / 2
        }
        const p = peak.value
        source.data.rate = source.data.step.map(s => cycle(s, p / 25, p, p / 25e4))
        source.data.momentum = source.data.step.map(s => cycle(s, 0.95, low.value, 0.95))
        source.change.emit()
    """
    listen(sliders, code, {"source": source, **sliders})
    return column(*sliders.values(), row(*plots, sizing_mode="stretch_width"),
                  sizing_mode="stretch_width")  # fmt: skip


def mixup() -> LayoutDOM:
    """Chapter 4: a boot fades into a T-shirt, and so does the target."""
    data = load()
    boot, shirt = (data.val.x[data.val.y == label][3, 0].numpy()[::-1] / 255 for label in (9, 0))
    picture = ColumnDataSource({"image": [0.5 * boot + 0.5 * shirt]})
    both = ColumnDataSource({"boot": [boot], "shirt": [shirt]})
    names = [data.classes[9], data.classes[0]]
    target = ColumnDataSource({"name": names, "share": [0.5, 0.5]})
    left = figure(height=280, width=280, toolbar_location=None, x_range=(0, 28), y_range=(0, 28))
    left.image("image", source=picture, x=0, y=0, dw=28, dh=28, palette="Greys256")
    left.axis.visible = left.grid.visible = False
    right = figure(height=280, sizing_mode="stretch_width", toolbar_location=None, x_range=names,
                   y_range=(0, 1), y_axis_label="target probability")  # fmt: skip
    right.vbar("name", top="share", width=0.6, source=target, color=INK)
    slider = Slider(start=0, end=1, value=0.5, step=0.05, title="share of the boot (lambda)")
    code = """
        const lam = cb_obj.value, a = both.data.boot[0], b = both.data.shirt[0]
        const image = picture.data.image[0]
        for (let i = 0; i < image.length; i++) image[i] = lam * a[i] + (1 - lam) * b[i]
        target.data.share = [lam, 1 - lam]
        picture.change.emit(); target.change.emit()
    """
    listen({"": slider}, code, {"both": both, "picture": picture, "target": target})
    return column(slider, row(left, right, sizing_mode="stretch_width"),
                  sizing_mode="stretch_width")  # fmt: skip


def smoothed_loss(gap: np.ndarray, eps: float) -> np.ndarray:
    """The loss of a net whose true class is `gap` logits above all others, which are equal."""
    rest = np.log(np.exp(-gap) * (CLASSES - 1) + 1)
    wrong = eps * (CLASSES - 1) / CLASSES
    return rest + wrong * gap


def smoothing() -> LayoutDOM:
    """Chapter 5: what is asked for, and where the loss is lowest."""
    gap = np.linspace(0, 12, 241)
    line = ColumnDataSource({"gap": gap, "loss": smoothed_loss(gap, 0.1)})
    names = ["true class", *(f"class {n}" for n in range(2, CLASSES + 1))]
    target = ColumnDataSource({"name": names, "share": [0.91] + [0.01] * 9})
    left = figure(height=300, sizing_mode="stretch_width", toolbar_location=None, x_range=names,
                  y_range=(0, 1), y_axis_label="target probability")  # fmt: skip
    left.vbar("name", top="share", width=0.7, source=target, color=INK)
    left.xaxis.major_label_orientation = 1
    right = figure(height=300, sizing_mode="stretch_width", toolbar_location=None,
                   x_axis_label="logit of the true class above the others", y_axis_label="loss",
                   y_range=(0, 4))  # fmt: skip
    right.line("gap", "loss", source=line, line_width=3, color=INK)
    mark = Span(location=lowest(0.1), dimension="height", line_color="black", line_dash="dashed")
    right.add_layout(mark)
    slider = Slider(start=0, end=0.9, value=0.1, step=0.05, title="smoothing (epsilon)")
    code = """
        const eps = cb_obj.value, k = target.data.name.length, off = eps / k
        target.data.share = target.data.name.map((_, i) => i ? off : 1 - eps + off)
        const wrong = eps * (k - 1) / k
        line.data.loss = Array.from(line.data.gap,
            g => Math.log(Math.exp(-g) * (k - 1) + 1) + wrong * g)
        mark.location = eps ? Math.log((1 - eps + off) / off) : 99
        line.change.emit(); target.change.emit()
    """
    listen({"": slider}, code, {"line": line, "target": target, "mark": mark})
    return column(slider, row(left, right, sizing_mode="stretch_width"),
                  sizing_mode="stretch_width")  # fmt: skip


def lowest(eps: float) -> float:
    """The gap at which the smoothed loss is lowest."""
    off = eps / CLASSES
    return math.log((1 - eps + off) / off)


def scale() -> LayoutDOM:
    """Chapter 7: the gradients of one batch slide into the range of fp16, and out of it."""
    sizes = gradient_sizes()
    edges = np.arange(-60, 30)
    counts = 100 * np.histogram(sizes, edges)[0] / len(sizes)
    bars = ColumnDataSource({"x": edges[:-1] + 0.5, "start": edges[:-1] + 0.5, "share": counts})
    plot = figure(height=320, sizing_mode="stretch_width", toolbar_location=None,
                  x_range=(-50, 24), x_axis_label="size of a gradient, as a power of two",
                  y_axis_label="share of all gradients, %")  # fmt: skip
    plot.vbar("x", top="share", width=0.9, source=bars, color=INK)
    for where in (-24, -14, 16):
        dash = "solid" if where != -14 else "dotted"
        plot.add_layout(
            Span(location=where, dimension="height", line_color="black", line_dash=dash)
        )
    said = Div(text=told(counts, bars.data["x"]), styles={"font-size": "1rem"})
    slider = Slider(start=-16, end=32, value=0, step=1, title="loss scale, as a power of two")
    code = """
        bars.data.x = Array.from(bars.data.start, x => x + cb_obj.value)
        let lost = 0, over = 0
        bars.data.x.forEach((x, i) => {
            if (x < -24) lost += bars.data.share[i]
            if (x > 16) over += bars.data.share[i]
        })
        said.text = `${lost.toFixed(1)} % are too small for fp16 and become zero; ` +
            (over > 0 ? `${over.toFixed(2)} % overflow, so the step is skipped.` : `none overflow.`)
        bars.change.emit()
    """
    listen({"": slider}, code, {"bars": bars, "said": said})
    note = Div(text="Left line: the smallest number that fp16 has. Dotted: below it, fp16 loses "
                    "digits. Right line: the largest.")  # fmt: skip
    return column(slider, plot, said, note, sizing_mode="stretch_width")


def told(share: np.ndarray, x: np.ndarray) -> str:
    """What the figure says before the slider moves."""
    return f"{share[x < -24].sum():.1f} % are too small for fp16 and become zero; none overflow."


def gradient_sizes() -> np.ndarray:
    """log2 of all gradients that are not zero, of one batch and a network that has learned."""
    data = load()
    net = train(BASELINE + Transfer(), data, images=12_800, budget="cpu", evaluations=1).net
    x, q = data.batch(*next(data.draws(128, torch.Generator().manual_seed(0))))
    cross_entropy(net.train()(x), q).backward()
    found = torch.cat([parameter.grad.flatten() for parameter in net.parameters()]).abs()
    return found[found > 0].log2().numpy()


def listen(sliders: dict[str, Slider], code: str, names: dict[str, object]) -> None:
    """Run the code in the browser whenever a slider moves."""
    for slider in sliders.values():
        slider.sizing_mode = "stretch_width"
        slider.js_on_change("value", CustomJS(args=names, code=code))


def write(folder: Path, places: dict[str, str]) -> None:
    """Write each figure as a page of its own; `places` has the function's name by chapter."""
    folder.mkdir(parents=True, exist_ok=True)
    for chapter, name in places.items():
        page = file_html(globals()[name](), INLINE, f"{chapter}: a figure that moves")
        (folder / f"{chapter}.html").write_text(page, encoding="utf-8")
