"""Which of the seven tricks pay on your data and your machine, in the minutes that you give.

Every recipe trains for equally many seconds, at a learning rate that was chosen from as many for
all. Each trick is tried on top of one-cycle, for some pay only where the rate rises and falls
(mixup does so). Those that look good are added up, judged by the validation images; where one-cycle
itself gains nothing, they are also tried without it. What is left then trains beside plain
training, with other seeds, and is judged by the test images, which no choice has read. A trick pays
where the interval of its gain, over seeds and over images, is clear of zero; the interval is
widened by the number of recipes that are judged (Bonferroni).

Every run is a line of a file, so that what was cut off goes on where it was.
"""

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import mean, median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..budget import BASELINE
from ..checks import arguments
from ..data import Data
from ..files import write_json
from ..loop import fit
from ..models import begin, letters_file
from ..recipe import Recipe, name_of
from ..sources import loadable
from ..train import train
from ..tricks import (
    Distributed,
    LabelSmoothing,
    LRScaling,
    MixedPrecision,
    Mixup,
    OneCycle,
    Transfer,
)
from .limits import resident
from .report import judge

TRIED = (  # settings for data that nothing is known of
    Distributed(),
    LRScaling(batch=256, reference=128, rule="sqrt"),
    OneCycle(peak=10.0),
    Mixup(alpha=0.4, per_sample=True),
    LabelSmoothing(eps=0.1),
    Transfer(),
    MixedPrecision(),
)
RATES = (1 / 3, 1.0, 3.0)  # times the recipe's
BASE = "cyclic"  # the trick that the others are added to
KEPT = 2  # tricks that are judged one by one, beside the sum of all that look good
SEEDS = 2  # more, of what has been screened; the second where the mean gained so far
LEVEL = 0.95
LEAST = 3  # paired seeds that a verdict needs
FIRST = 100  # seed of the judged runs
UNITS, COUNT = 80, 86  # lengths of a run that the time is divided into, and about how many runs
RUNS, SPEEDS = "advice.jsonl", "machine.json"
BATCHES = (32, 64, 128, 256, 512)  # whose speed is measured


@dataclass(frozen=True)
class Try:
    """One run: what it is for, and what was to be trained."""

    stage: str  # "pace", "screen", "again", "sum" or "judge"
    arm: str  # "plain", the name of a trick, or several with " + " between
    rate: float  # factor on the recipe's learning rate
    images: int
    seed: int


@dataclass(frozen=True)
class Seen:
    """What came of it."""

    accuracy: float  # on the validation images
    train: float  # seconds of training
    wall: float  # seconds of everything
    right: str = ""  # of a judged run: which test images, a bit each, in hexadecimal

    def bits(self, count: int) -> NDArray:
        """(count,) 1 where a test image was named rightly."""
        packed = np.frombuffer(bytes.fromhex(self.right), np.uint8)
        return np.unpackbits(packed, count=count)


Log = dict[Try, Seen]


@dataclass(frozen=True)
class Verdict:
    """An arm beside plain training, after equally many seconds, on images that chose nothing."""

    arm: str
    rate: float
    gain: float  # points of accuracy
    low: float
    high: float
    seeds: int
    missing: float  # times the minutes given that would clear the interval; infinite where no
    # number of runs can, because there are too few test images

    @property
    def pays(self) -> bool:
        """Whether the whole interval is above zero."""
        return self.low > 0


@dataclass(frozen=True)
class Plan:
    """What is to be tried, on what, and for how long."""

    data: Data
    model: str
    image_size: int
    seconds: float  # in all
    arms: Mapping[str, Recipe]  # by name; plain first
    notes: tuple[str, ...] = ()  # tricks that cannot be tried here, and why

    @property
    def question(self) -> dict[str, Any]:
        """What is asked, in plain values: runs that answer another question are of no use."""
        asked = {"data": self.data.name, "images": self.data.fingerprint, "model": self.model}
        return {**asked, "image_size": self.image_size, "seconds": self.seconds, "units": UNITS}

    def recipe(self, arm: str, rate: float = 1.0) -> Recipe:
        """The recipe of an arm, its learning rate multiplied."""
        plain = self.arms["plain"]
        parts = [] if arm == "plain" else arm.split(" + ")
        tricks = [trick for part in parts for trick in self.arms[part].tricks]
        return sum(tricks, start=replace(plain, lr=plain.lr * rate))


def make_plan(data: Data, model: str, image_size: int, minutes: float) -> Plan:
    """Everything that can be tried on these data; what cannot be is said."""
    arms, notes = {"plain": BASELINE}, []
    for trick in TRIED:
        name = name_of(trick)
        if name == "distributed" and trick.count() == 1:
            notes.append("distributed: there is one device, so nobody to share with.")
        elif name == "distributed" and not loadable(data.name):
            notes.append("distributed: new processes cannot find data that were made by hand.")
        elif name == "transfer" and not letters_file(model, image_size).exists():
            notes.append(
                f"transfer: there are no letters weights of {model} at {image_size} pixels; "
                f"`fasttricks pretrain` makes them."
            )
        elif name == "precision" and trick.choose(BASELINE.world.device()) == "fp32":
            notes.append("precision: this device has no 16-bit arithmetic of its own.")
        elif name == "scaling" and trick.batch > len(data.train):
            notes.append(f"scaling: fewer than {trick.batch} images to train on.")
        else:
            arms[name] = BASELINE + trick
    if BASELINE.batch > len(data.train):
        raise ValueError(
            f"{data.name} has {len(data.train)} images to train on; advice needs "
            f"{BASELINE.batch} or more."
        )
    return Plan(data, model, image_size, 60 * minutes, arms, tuple(notes))


@dataclass
class State:
    """What the runs so far say; all choices follow from them."""

    plan: Plan
    log: Log = field(default_factory=dict)

    def of(self, stage: str, arm: str) -> dict[Try, Seen]:
        """The runs of one stage and arm."""
        return {t: s for t, s in self.log.items() if (t.stage, t.arm) == (stage, arm)}

    @property
    def length(self) -> float:
        """Seconds of training of a run."""
        paced = [seen for tried, seen in self.log.items() if tried.stage == "pace"]
        beside = median(seen.wall - seen.train for seen in paced)
        return max(0.005 * self.plan.seconds, (self.plan.seconds - COUNT * beside) / UNITS)

    def spent(self) -> float:
        """Seconds that all runs took."""
        return sum(seen.wall for seen in self.log.values())

    def images(self, arm: str, seconds: float) -> int:
        """The images that an arm sees in so many seconds, in whole batches; two at least."""
        known = any(tried.arm == arm for tried in self.log)  # a sum is as slow as its slowest part
        pace = min(map(self.images_a_second, [arm] if known else arm.split(" + ")))
        batch = self.plan.recipe(arm).global_batch
        return max(2, round(seconds * pace / batch)) * batch

    def images_a_second(self, arm: str) -> float:
        """The median of an arm's runs."""
        return median(t.images / s.train for t, s in self.log.items() if t.arm == arm)

    def best_rate(self, arm: str) -> float:
        """The rate at which the arm was most accurate when it was screened."""
        found = self.of("screen", arm) or self.of("sum", arm)
        return max(found, key=lambda tried: found[tried].accuracy).rate

    def others(self) -> list[str]:
        """The tricks that are tried on top of one-cycle."""
        return [arm for arm in self.plan.arms if arm not in ("plain", BASE)]

    def tried(self) -> list[str]:
        """The recipes that are tried: plain, one-cycle, and the other tricks added to it."""
        return ["plain", BASE, *(self.total(BASE, other) for other in self.others())]

    def total(self, *tricks: str) -> str:
        """The name of their sum, in chapter order."""
        return " + ".join(arm for arm in self.plan.arms if arm in tricks)

    def gains(self, arm: str) -> list[float]:
        """Points of validation accuracy above what the arm is added to, one per seed; none before
        the second."""
        own, other = (self.by_seed(name) for name in (arm, "plain" if arm == BASE else BASE))
        seeds = sorted(set(own) & set(other))
        return [100 * (own[seed] - other[seed]) for seed in seeds] if len(seeds) > 1 else []

    def by_seed(self, arm: str) -> dict[int, float]:
        """Validation accuracy: the best that was screened, and what came with other seeds."""
        best = [seen.accuracy for seen in self.of("screen", arm).values()]
        more = {tried.seed: seen.accuracy for tried, seen in self.of("again", arm).items()}
        return {0: max(best), **more} if best else more

    def gained(self, arm: str) -> bool:
        """Whether the arm gained something in the mean of its seeds."""
        return mean(self.gains(arm) or [0.0]) > 0

    def left(self, arms: list[str]) -> list[str]:
        """Those of the arms that are worth another seed."""
        return [arm for arm in arms if not self.gains(arm) or self.gained(arm)]

    def candidates(self) -> list[str]:
        """What is judged beside plain training: one-cycle, the best that were added to it, and the
        sum of all that gain. If one-cycle gains nothing, the others do without it, but for the sum.
        """
        base, gain = [BASE] if self.gained(BASE) else [], {}
        for other in self.others():
            if self.gained(arm := self.total(BASE, other)):
                gain[other] = mean(self.gains(arm))
        if not gain:
            return base
        best = sorted(gain, key=gain.get, reverse=True)[:KEPT]
        sums = [self.total(*base, *gain), self.total(BASE, *gain)]
        return list(dict.fromkeys([*base, *(self.total(*base, one) for one in best), *sums]))


def tries(state: State) -> Iterator[Try]:
    """The runs that are to be made next, stage by stage; none where nothing is left to do."""
    plan = state.plan
    for arm, recipe in plan.arms.items():
        if not state.of("pace", arm):
            yield Try("pace", arm, 1.0, 20 * recipe.global_batch, 0)
    yield from tuned(state, "screen", state.tried())
    yield from again(state, "plain", [BASE])
    yield from again(state, BASE, state.tried()[2:])
    arms = state.candidates()
    yield from tuned(state, "sum", [arm for arm in arms if not state.of("screen", arm)])
    if not arms:
        return
    length = state.length
    counts = {arm: len(state.of("judge", arm)) for arm in ["plain", *arms]}
    turn = min(counts.values())
    if max(counts.values()) > turn or state.spent() + len(counts) * length < plan.seconds:
        for arm, count in counts.items():
            if count == turn:
                images = state.images(arm, length)
                yield Try("judge", arm, state.best_rate(arm), images, FIRST + turn)


def tuned(state: State, stage: str, arms: list[str]) -> Iterator[Try]:
    """Every arm at every rate."""
    for rate in RATES:
        for arm in arms:
            if not any(tried.rate == rate for tried in state.of(stage, arm)):
                yield Try(stage, arm, rate, state.images(arm, state.length), 0)


def again(state: State, beside: str, arms: list[str]) -> Iterator[Try]:
    """More seeds of the arms that still look good, and of what they are compared with."""
    for seed in range(1, 1 + SEEDS):
        for arm in [beside, *state.left(arms)]:
            if not any(tried.seed == seed for tried in state.of("again", arm)):
                images = state.images(arm, state.length)
                yield Try("again", arm, state.best_rate(arm), images, seed)


@dataclass(frozen=True)
class Speed:
    """How fast the plain loop is at one precision and batch."""

    precision: str
    batch: int
    loop: float  # images a second
    resident: float  # of forward, backward and step alone, on one batch that never changes


def speeds(plan: Plan) -> Iterator[Speed]:
    """Measure the loop from small batches to large, until one takes too much of the time."""
    device = BASELINE.world.device()
    few = replace(plan.data, val=plan.data.val[:1]).to(device, plan.image_size)
    shape = few.channels, len(few.classes), plan.image_size
    for precision in dict.fromkeys(("fp32", MixedPrecision().choose(device))):
        for batch in (n for n in BATCHES if n <= len(few.train)):
            begun = time.monotonic()
            recipe = replace(BASELINE, batch=batch) + MixedPrecision(precision)
            net = begin(recipe, plan.model, *shape).to(device)
            for _ in range(2):  # the first one warms up
                done = fit(recipe, net, few, 4 * batch, seed=0, evaluations=1)
                alone = resident(recipe, net, few, steps=4)
            yield Speed(precision, batch, done.images_seen / done.train_seconds, alone)
            if time.monotonic() - begun > 0.005 * plan.seconds:
                break


def run_try(plan: Plan, tried: Try, done: float) -> Seen:
    """Make one run; one whose numbers overflow has learned nothing."""
    begun, judged = time.monotonic(), tried.stage == "judge"
    rate = f", rate x {tried.rate:.2g}" if tried.rate != 1 else ""
    try:
        run = train(
            plan.recipe(tried.arm, tried.rate), plan.data, images=tried.images, seed=tried.seed,
            model=plan.model, image_size=plan.image_size, evaluations=1, target=1.0,
            label=f"{done:.0%} {tried.stage}: {tried.arm}{rate}",
        )  # fmt: skip
    except FloatingPointError:
        took = time.monotonic() - begun
        return Seen(0.0, took, took, "00" * math.ceil(len(plan.data.test) / 8) if judged else "")
    right = ""
    if judged:
        here = plan.data.to(next(run.net.parameters()).device, plan.image_size)
        answers = judge(run.net, here, here.test)
        right = np.packbits(answers.truth == answers.answer).tobytes().hex()
    return Seen(run.val_accuracy, run.train_seconds, time.monotonic() - begun, right)


def difference(own: NDArray, plain: NDArray, judged: int) -> tuple[float, float, float, float]:
    """Mean gain of (S, N) answers in points, its interval over seeds and over images, and how many
    times as many seeds would clear it (infinite where none can).

    Both kinds of chance add up; the level is shared by all arms that are judged.
    """
    from scipy.stats import t

    gains = 100 * (own.astype(float) - plain)
    seeds, images = gains.shape
    of_seeds, of_images = gains.mean(1).var(ddof=1) / seeds, gains.mean(0).var(ddof=1) / images
    wide = t.ppf(1 - (1 - LEVEL) / 2 / judged, seeds - 1)
    mean, half = float(gains.mean()), float(wide * math.sqrt(of_seeds + of_images))
    room = (mean / wide) ** 2 - of_images  # for the chance of seeds, beside that of images
    return mean, mean - half, mean + half, float(of_seeds / room) if room > 0 < mean else math.inf


def verdicts(state: State) -> list[Verdict]:
    """Of every arm that was judged with enough seeds, the largest gain first."""
    found, arms = [], state.candidates()
    count = len(state.plan.data.test)
    plain = {t.seed: s.bits(count) for t, s in state.of("judge", "plain").items()}
    for arm in arms:
        own = {t.seed: s.bits(count) for t, s in state.of("judge", arm).items()}
        seeds = sorted(set(own) & set(plain))
        if len(seeds) < LEAST:
            continue
        pairs = (np.stack([bits[seed] for seed in seeds]) for bits in (own, plain))
        gain, low, high, missing = difference(*pairs, len(arms))
        found.append(Verdict(arm, state.best_rate(arm), gain, low, high, len(seeds), missing))
    return sorted(found, key=lambda verdict: -verdict.gain)


def recommended(found: list[Verdict]) -> Verdict | None:
    """The arm that gains most of those that pay."""
    return next((verdict for verdict in found if verdict.pays), None)


def read_log(path: Path) -> Log:
    """The runs in a file; a last line that was cut off is none. Raises ValueError for others."""
    log: Log = {}
    for number, line in enumerate(path.read_bytes().splitlines(keepends=True), 1):
        if not line.endswith(b"\n"):
            break
        try:
            record = json.loads(line)
            tried = Try(**arguments(Try, record["try"], "try"))
            log[tried] = Seen(**arguments(Seen, record["seen"], "seen"))
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(f"{path}, line {number}: {error} Remove the file.") from None
    return log


def advise(
    plan: Plan,
    folder: Path,  # where every run is kept
    make: Callable[[Plan, Try, float], Seen] = run_try,
) -> State:
    """Make the runs for which there is time; what the folder has already is not made again.

    Raises ValueError where the folder keeps the answer to another question.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path, question = folder / RUNS, folder / SPEEDS
    if question.exists():
        before = json.loads(question.read_text(encoding="utf-8"))["question"]
        if before != plan.question:
            other = [name for name, value in plan.question.items() if before.get(name) != value]
            raise ValueError(
                f"{folder} keeps the answer to another question ({', '.join(other)} differ); name "
                f"another folder by --out, or remove it."
            )
    else:
        measured = [asdict(speed) for speed in speeds(plan)]
        write_json(question, {"question": plan.question, "speeds": measured})
    path.touch()
    state, content = State(plan, read_log(path)), path.read_bytes()
    path.write_bytes(content[: content.rfind(b"\n") + 1])
    while tried := next(tries(state), None):
        seen = make(plan, tried, min(1.0, state.spent() / plan.seconds))
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"try": asdict(tried), "seen": asdict(seen)}) + "\n")
        state.log[tried] = seen
    return state
