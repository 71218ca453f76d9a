"""The page of an advice: what paid, by how much, what cannot be told, and what to type."""

import json
import shlex
from dataclasses import dataclass
from pathlib import Path

from .. import machine
from ..files import replacing, write_json
from .advise import BASE, LEAST, RATES, SPEEDS, State, Verdict, recommended, verdicts
from .report import document, escaped, paragraph, table
from .take_home import script

RECIPE, PAGE, TEXT, SCRIPT = "recipe.json", "advice.html", "advice.md", "train.py"


@dataclass(frozen=True)
class Part:
    """A piece of the page, written as HTML and as Markdown."""

    heading: str
    sentences: tuple[str, ...]
    head: tuple[str, ...] = ()
    rows: tuple[tuple[object, ...], ...] = ()

    def as_html(self) -> str:
        """The piece for a browser."""
        parts = [f"<h2>{self.heading}</h2>"]
        for sentence in self.sentences:
            code = sentence.startswith("`")
            parts += [f"<pre>{escaped(sentence[1:-1])}</pre>" if code else paragraph(sentence)]
        return "\n".join([*parts, *([table(self.head, self.rows)] if self.rows else [])])

    def as_markdown(self) -> str:
        """The piece for a terminal or a repository."""
        lines = [[*self.head], ["---"] * len(self.head), *self.rows] if self.rows else []
        rows = [f"| {' | '.join(str(cell).replace('|', '/') for cell in row)} |" for row in lines]
        return "\n\n".join([f"## {self.heading}", *self.sentences, "\n".join(rows)]).rstrip()


def interval(verdict: Verdict) -> str:
    """The gain and its interval."""
    return (
        f"{verdict.gain:+.1f} points (95%: {verdict.low:+.1f} to {verdict.high:+.1f}, "
        f"{verdict.seeds} seeds)"
    )


def answer(state: State, found: list[Verdict]) -> str:
    """The advice, in a sentence or two."""
    best, plan = recommended(found), state.plan
    where = f"{len(plan.data.test):,} images that no choice has read"
    if best:
        return (
            f"Train with {best.arm}. After {state.length:.1f} s of training, the gain over plain "
            f"training is {interval(best)}, on {where}."
        )
    plain = [seen.accuracy for seen in state.of("again", "plain").values()]
    if plain and max(plain) < 1.5 / len(plan.data.classes):
        return (
            f"In {state.length:.1f} s the networks hardly learn anything, so nothing can be told; "
            f"give it more minutes."
        )
    if not found:
        return (
            "Nothing was found worth comparing with plain training."
            if state.log and not state.candidates()
            else f"The time was too short for {LEAST} runs of each recipe, so nothing can be told."
        )
    return (
        f"Train plainly, as far as {plan.seconds / 60:g} minutes can tell: nothing that was tried "
        f"is clearly more accurate after {state.length:.1f} s of training, on {where}."
    )


def judged(state: State, found: list[Verdict]) -> Part:
    """What was compared with plain training at the end."""
    rows = []
    for verdict in found:
        word = "pays" if verdict.pays else "costs" if verdict.high < 0 else "cannot tell"
        more = ""
        if word == "cannot tell" and verdict.missing < 100:
            more = f"about {verdict.missing * state.plan.seconds / 60:.0f} minutes would, perhaps"
        elif word == "cannot tell":
            more = "more test images, or nothing: the gain is too small"
        rows.append((verdict.arm, f"{verdict.rate:.2g}", interval(verdict), word, more))
    return Part(
        "Judged",
        ("Other seeds, equally many seconds, images that chose nothing. Intervals are over seeds "
         "and over images, and widened by the number of recipes that are judged.",),
        ("recipe", "rate, times its own", "against plain training", "verdict", "to tell it"),
        tuple(rows),
    )  # fmt: skip


def measured(folder: Path) -> Part:
    """How fast the machine is."""
    stored = json.loads((folder / SPEEDS).read_text(encoding="utf-8"))["speeds"]
    rows = [
        (s["precision"], s["batch"], f"{s['loop']:,.0f}", f"{s['resident']:,.0f}",
         f"{s['loop'] / s['resident']:.0%}")
        for s in stored
    ]  # fmt: skip
    best = max(stored, key=lambda speed: speed["loop"])
    return Part(
        "Machine",
        (f"Plain training is fastest with a batch of {best['batch']} in {best['precision']}: "
         f"{best['loop']:,.0f} images a second. A resident batch needs no loading: what the loop "
         f"lacks of it, loading costs.",),
        ("precision", "batch", "images a second", "resident batch", "share"),
        tuple(rows),
    )  # fmt: skip


def screened(state: State) -> Part:
    """What was tried first, and what was added to it."""
    own = (
        "One-cycle itself gains."
        if state.gained(BASE)
        else "One-cycle itself gains nothing, so what gains on top of it is also judged without it."
    )
    rows = []
    for arm in state.tried():
        runs, gains = state.of("screen", arm), state.gains(arm)
        best = max((seen.accuracy for seen in runs.values()), default=float("nan"))
        told = ", ".join(f"{gain:+.1f}" for gain in gains) if arm != "plain" else ""
        pace = f"{state.images_a_second(arm):,.0f}" if runs else ""
        rate = f"{state.best_rate(arm):.2g}" if runs else ""
        if runs and state.best_rate(arm) in (min(RATES), max(RATES)):
            rate += " (at the edge)"
        rows.append((arm, pace, rate, f"{best:.3f}", told))
    return Part(
        "Tried",
        ("Tricks are tried on top of one-cycle, because some pay only with a schedule. Each is "
         "tried at three rates, then with a second seed, and with a third where it gains so far.",
         f"Gains are those over one-cycle, and those of one-cycle over plain training. The "
         f"validation images chose, so these gains flatter. All that gain in the mean are added "
         f"up; the sum and the best of them are judged. {own} If the best rate is at the edge of "
         f"those tried, a better one may lie outside.",
         *(f"Not tried: {note}" for note in state.plan.notes)),
        ("recipe", "images a second", "best rate", "validation accuracy", "gains, points"),
        tuple(rows),
    )  # fmt: skip


def commands(state: State, found: list[Verdict], folder: Path, data: str) -> Part:
    """What to type."""
    best, plan = recommended(found), state.plan
    arm = best.arm if best else "plain"
    words = ["fasttricks", "train", "--data", data, "--recipe", str(folder / RECIPE)]
    words += ["--model", plan.model, "--image-size", str(plan.image_size)]
    words += ["--images", str(state.images(arm, state.length)), "--report", "report.html"]
    start = ["torchrun", "--nproc-per-node", "2"] if "distributed" in arm else ["python"]
    own = [
        "The same in ordinary PyTorch, without the course, is a script to copy from:",
        f"`{shlex.join([*start, str(folder / SCRIPT)])}`",
    ]
    return Part(
        "Type",
        (f"`{shlex.join(words)}`",
         "That is as long as the runs here; take more images for more accuracy.",
         *(own if (folder / SCRIPT).exists() else [])),
    )  # fmt: skip


def write_advice(state: State, folder: Path, data: str) -> str:
    """Write the page (HTML and Markdown), the recipe and, where it can be, the script into the
    folder; the advice itself."""
    found = verdicts(state)
    best, plan = recommended(found), state.plan
    recipe = plan.recipe(best.arm, best.rate) if best else plan.recipe("plain")
    said = answer(state, found)
    where = machine.name_of_machine(machine.hardware())
    about = (
        f"{data}: {len(plan.data.train):,} images to train on, {len(plan.data.classes)} classes, "
        f"{plan.model} at {plan.image_size} pixels, on {where}; {len(state.log)} runs in "
        f"{state.spent() / 60:.1f} minutes."
    )
    images = state.images(best.arm if best else "plain", state.length)
    text = script(recipe, images, data, plan.model, plan.image_size)
    (folder / SCRIPT).unlink(missing_ok=True)
    if text:
        with replacing(folder / SCRIPT) as file:
            file.write_text(text, encoding="utf-8")
    write_json(folder / RECIPE, json.loads(str(recipe)))
    parts = [judged(state, found), screened(state), measured(folder)]
    parts += [commands(state, found, folder, data)]
    markdown = "\n\n".join(["# Advice", f"**{said}**", about, *(p.as_markdown() for p in parts)])
    html = "\n".join(["<h1>Advice</h1>", paragraph(said), paragraph(about),
                      *(part.as_html() for part in parts)])  # fmt: skip
    for name, text in ((TEXT, markdown + "\n"), (PAGE, document("Advice", html))):
        with replacing(folder / name) as file:
            file.write_text(text, encoding="utf-8")
    return said
