"""Put what was found into README and RESULTS: the capstone's table, and the findings of studies."""

import re
from pathlib import Path

import jupytext
import nbformat
from execute import ROOT, pictures, texts

from fasttricks import SEVEN
from fasttricks.budget import BUDGETS
from fasttricks.recipe import name_of
from fasttricks.study.findings import (
    CLOSE,
    Finding,
    Published,
    covered,
    effect,
    ended,
    found_in,
    published,
    span,
    summary,
    times,
    trusted,
)
from fasttricks.study.pages import as_markdown, at_equal_images, equal_gains, tables
from fasttricks.study.pages import beside as beside_table

FIGURE = ROOT / "notebooks" / "images" / "capstone.png"
RESULTS = ROOT / "data" / "results"
MAIN, REFRESHED, GPU = "cpu", "refreshed", "gpu"  # the studies that the README quotes
OTHER, FEW = "letters", "few"
TRICKS = {  # what each does, in a clause
    "distributed": "one process per device; gradients are averaged",
    "scaling": "a larger batch, a rate to match, a ramp up to it",
    "cyclic": "the rate rises once and falls once; momentum does the reverse",
    "mixup": "images and targets are blended in pairs",
    "smoothing": "the target is a little less than certain",
    "transfer": "begin with weights trained on another task",
    "precision": "16-bit arithmetic, 32-bit weights",
}


def headline(results: Path = RESULTS) -> str:
    """The result in a few sentences, with its frame."""
    found = found_in(MAIN, results)
    whole, six, bare, pair = found.of(
        "whole", "whole - distributed", "whole - transfer", "plain + cyclic + transfer"
    )
    plain = found.of("plain")[0]
    best = min(found.of(*{row.against for row in found.peers}), key=lambda row: row.train)
    beside = {row.arm: row.ratio for row in found.peers if row.against == best.arm}
    all_of_it = pair.ratio.value > 0.95 * whole.ratio.value
    small = BUDGETS[MAIN]
    again = found_in(REFRESHED, results)
    tuned, fair = again.of(again.reference, "whole")
    first = (
        f"**All seven tricks train a small network {fair.ratio.value:.1f} to "
        f"{whole.ratio.value:.1f} times as fast as tuned plain training does.** As networks are "
        f"usually scored, it is {whole.ratio.value:.1f} times (95% interval: {span(whole.ratio)}): "
        f"{whole.train:.1f} s instead of {plain.train:.1f} s to the same accuracy. But at a "
        f"constant learning rate, the averages that batch norm stores lag behind the network. If "
        f"they are refreshed before every score (chapter 3), and plain training is tuned anew for "
        f"that, it is {fair.ratio.value:.1f} times ({span(fair.ratio)}), with "
        f"{fair.images.value:,.0f} images instead of {tuned.images.value:,.0f}. That is "
        f"{small.model} on Fashion-MNIST, to {found.target:.2%} of the validation images, with "
        f"{found.seeds} paired seeds, on {found.hardware}. Plain training is AdamW at a constant "
        f"rate, the best of 24 settings. What follows is about networks scored as usual."
    )
    frame = (
        f"**Two tricks are {'all' if all_of_it else 'most'} of it here.** A one-cycle schedule and "
        f"pretrained weights alone make training {pair.ratio.value:.1f} times as fast. The table "
        f"below says which others pay and which cost time.",
        f"**Multi-GPU training has only two cores to share here, which one process could have "
        f"alone.** Without it, the other six are {plain.train / six.train:.1f} times as fast as "
        f"plain training.",
        f"**Pretrained weights**, whose own training is not counted, carry much of it. Without "
        f"them, the other six are {plain.train / bare.train:.1f} times as fast.",
        f"**Beside other libraries.** The fastest of four recipes that follow other libraries' own "
        f"pages, `{best.arm}`, takes {best.train:.1f} s from random weights. Six tricks that start "
        f"from random weights, too, are {beside['whole - transfer'].value:.1f} times as fast "
        f"({span(beside['whole - transfer'])}), and all seven {beside['whole'].value:.1f} times "
        f"({span(beside['whole'])}).",
    )
    there = found_in(OTHER, results)
    six_there, bare_there = there.of("whole - distributed", "whole - distributed - transfer")
    frame += (
        f"**On a second data set**, a thousand letters and signs, for which nothing was tuned, the "
        f"six tricks without multi-GPU training are {six_there.ratio.value:.1f} times as fast as "
        f"plain training ({span(six_there.ratio)}), and from random weights "
        f"{bare_there.ratio.value:.1f} times ({span(bare_there.ratio)}; both {six_there.seeds} "
        f"seeds, to {there.target:.1%}).",
    )
    frame += (on_few_labels(found_in(FEW, results)),)
    frame += (on_gpu(found_in(GPU, results), covered(GPU, results)["holds"]),)
    return "\n".join((first, "", *(f"- {line}" for line in frame)))


def on_few_labels(found: Published) -> str:
    """What the regularisers do where labels are few, as sentences."""
    start, told, crossed = found.reference, [], False
    for name in ("mixup", "smoothing"):
        (row,) = found.of(f"{start} + {name}")
        images, points, low, high = equal_gains(found, row.arm)[-1]
        crossed |= row.verdict == "slower" and low > 0
        told.append(
            f"{name} changes its accuracy after {images:,} images by {points:+.2f} points "
            f"({low:+.2f} to {high:+.2f}), and reaches {found.target:.1%} "
            f"{times(row.ratio.value)} times as fast ({span(row.ratio)})"
        )
    meaning = " So a trick may cost time on the way and still end higher." if crossed else ""
    return (
        f"**{found.about.capitalize()}**, added to a one-cycle schedule: {'; '.join(told)} "
        f"({found.seeds} seeds).{meaning}"
    )


def on_gpu(found: Published, holds: dict[str, float]) -> str:
    """The result of the GPU's study in a few sentences; `holds` as `covered` says."""
    plain, whole = found.of("plain", "whole")
    size = BUDGETS[GPU]
    words = {"slower": [], "faster": []}  # what the others are without a trick
    for row in found.rows:
        if row.against == "whole" and row.verdict in words:
            words[row.verdict].append(row.arm.removeprefix("whole - ") + r"\*" * row.wavers)
    above = 100 * (plain.accuracy - found.target)
    high = (
        f" Plain training ended {above:.1f} points above that accuracy, which suggests that the "
        "ratio is too high."
        if above > CLOSE
        else ""
    )
    left_out = sorted({row.seeds for row in found.rows if row.against == "whole"})[0]
    return (
        f"**On a GPU**, {found.hardware} and {size.model} at {size.image_size} pixels, all seven "
        f"take {whole.train:.2f} s instead of {plain.train:.1f} s to {found.target:.0%}: "
        f"{whole.ratio.value:.1f} times as fast ({span(whole.ratio)}, {whole.seeds} seeds; "
        f"simulations say that this interval is {narrow(holds['whole'])}).{high} What pays "
        f"there, by {left_out} seeds: {listed(words['slower'])}. What costs time: "
        f"{listed(words['faster'])}."
    )


def narrow(held: float) -> str:
    """What the share of made-up studies whose 95% interval held the truth says of it."""
    word = "too narrow" if held < 0.93 else "about right"
    return f"{word}: it held the truth in {held:.0%}"


def listed(names: list[str]) -> str:
    """Names as a sentence has them."""
    *some, last = names or ["nothing that could be told"]
    return f"{', '.join(some)} and {last}" if some else last


def judged(alone: Finding, without: Finding) -> str:
    """Whether a trick pays, in a few words, from both of its intervals."""
    word = {
        ("faster", "slower"): "pays, alone and with the others",
        ("faster", "faster"): "pays alone, costs time with the others",
        ("faster", "cannot tell"): "pays alone; the others replace it",
        ("cannot tell", "slower"): "pays with the others",
        ("cannot tell", "faster"): "costs time with the others",
        ("slower", "slower"): "costs time alone, pays with the others",
        ("slower", "faster"): "costs time here",
        ("slower", "cannot tell"): "costs time alone",
    }
    return word.get((alone.verdict, without.verdict), "cannot tell here")


def tricks(results: Path = RESULTS) -> str:
    """The table of the seven: what each does, what it is worth, where to read and to run it."""
    found, rows = found_in(MAIN, results), []
    for trick in SEVEN:
        name = name_of(trick)
        alone, without = found.of(f"plain + {name}", f"whole - {name}")
        file = next((ROOT / "notebooks").glob(f"0{trick.chapter}_*.py"))
        page = f"notebooks/{file.stem}.ipynb"
        text = file.read_text(encoding="utf-8")
        title = re.search(r"^# # \d\. (.+)$", text, re.M)[1]
        colab, kaggle = re.findall(r"\((https://(?:colab|kaggle)[^)]+)\)", text)[:2]
        rows.append(
            f"| {trick.chapter} | [{title}]({page}) | `{name}`: {TRICKS[name]} | {effect(alone)} "
            f"| {effect(without, left_out=True)} | {judged(alone, without)} | [Colab]({colab}) "
            f"[Kaggle]({kaggle}) | {minutes(file)} |"
        )
    head = (
        "| | trick | what it does | alone: times as fast "
        "| with the other six: times as fast "
        "| verdict here | run | minutes |"
    )
    again = found_in(REFRESHED, results)
    told = [f"`{n}` {effect(row)}" for n in TRICKS for row in again.of(f"plain + {n}")]
    note = f"Alone, with batch norm refreshed: {', '.join(told)}."
    return "\n".join([head, "| --- " * 8 + "|", *rows, "", note])


def minutes(file: Path) -> str:
    """A chapter's reading and running time, as it says itself."""
    said = "\n".join(cell.source for cell in jupytext.read(file).cells[:3])
    read, run = re.search(r"About (\w+) minutes? to read, and (\w+) to run", said).groups()
    words = {"one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6}
    return f"{words.get(read, read)} + {words.get(run, run)}"


def capstone(notebook: nbformat.NotebookNode) -> str:
    """The table of the capstone, and what the test images said."""
    table, tested = ("".join(texts(notebook, tag)).rstrip("\n") for tag in ("result", "tested"))
    indented = "\n".join(f"    {line}".rstrip() for line in table.splitlines())
    return f"{indented}\n\n{tested}"


def study(name: str, results: Path = RESULTS) -> str:
    """A study's verdicts, figures and tables."""
    found, where = found_in(name, results), results.relative_to(ROOT).as_posix()
    parts = [
        f"On {found.hardware}, {found.runs} runs, {found.seeds} paired seeds, to validation "
        f"accuracy {found.target}. [All runs]({where}/{name}.md).",
        *filter(None, [trusted(name, results), ended(found)]),
        *found.unfinished,
        summary(found.rows),
    ]
    for kind, what in (("", "effects with intervals"), ("-steps", "from plain to the whole"),
                       ("-targets", "seconds to every target")):  # fmt: skip
        if (results / f"{name}{kind}.png").exists():
            parts += [f"![{what}]({where}/{name}{kind}.png)"]
    parts += tables(found.rows)
    if found.tested:
        scores = [f"{arm} {sum(v) / len(v):.4f}" for arm, v in found.tested.items()]
        shown = ", ".join(scores)
        parts += [f"On the test images, which chose nothing, at those lengths: {shown}."]
    return "\n\n".join(parts)


def peers(results: Path = RESULTS) -> str:
    """What each of the other libraries takes, and how many times as fast our arms are."""
    found = found_in(MAIN, results)
    return as_markdown(beside_table(found.peers, found.rows))


def figure(notebook: nbformat.NotebookNode) -> bytes:
    """The figure of the cell tagged `figure`, PNG."""
    tagged = [cell for cell in notebook.cells if "figure" in cell.metadata.get("tags", ())]
    return pictures(nbformat.v4.new_notebook(cells=tagged))[0]


def blocks(notebook: nbformat.NotebookNode, results: Path = RESULTS) -> dict[str, str]:
    """What is made, by the name of its place."""
    studies = {f"study {found.study}": study(found.study, results) for found in published(results)}
    made = {"headline": headline(results), "tricks": tricks(results), "peers": peers(results)}
    made["equal"] = as_markdown(at_equal_images(found_in(FEW, results)))
    return {"capstone": capstone(notebook), **made, **studies}


def filled(text: str, made: dict[str, str]) -> str:
    """The text with what is made between the two marks of each name."""
    for name, block in made.items():
        place = re.compile(rf"(<!-- {name}:[^>]*-->\n).*?(<!-- /{name} -->)", re.S)
        text = place.sub(lambda marks, block=block: f"{marks[1]}\n{block}\n\n{marks[2]}", text)
    return text


def main() -> None:
    """Rewrite the blocks of both files, and the figure's file."""
    notebook = nbformat.read(ROOT / "notebooks" / "08_capstone.ipynb", as_version=4)
    FIGURE.parent.mkdir(exist_ok=True)
    FIGURE.write_bytes(figure(notebook))
    made = blocks(notebook)
    for file in (ROOT / "README.md", ROOT / "RESULTS.md"):
        text = filled(file.read_text(encoding="utf-8"), made)
        file.write_text(text, encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main()
