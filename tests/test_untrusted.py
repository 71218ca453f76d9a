"""Whatever a file says, it is a sound recipe, job or record, or refused in one sentence."""

import json
import math
import re
import sys
from copy import deepcopy
from dataclasses import fields, replace
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fasttricks import BASELINE, SEVEN, LabelSmoothing, Recipe, Run, train
from fasttricks.__main__ import main
from fasttricks.job import Job
from fasttricks.options import read_recipe
from fasttricks.recipe import MODULES, OURS
from fasttricks.study.runs import read_run

WHOLE = sum(SEVEN, start=BASELINE)
RECIPES = [BASELINE, WHOLE, *(BASELINE + trick() for trick in OURS)]
STORED = [recipe.to_json() for recipe in RECIPES]
FLAGS = {"share_devices", "per_sample", "test", "reached"}  # the fields that are true or false
EXAMPLES = {"recipes": 5000, "jobs": 1500, "records": 1500, "bytes": 2000}


@pytest.fixture(scope="module")
def record(small):
    """A real one."""
    return train(BASELINE + LabelSmoothing(), small, images=256, budget="smoke").to_json()


@pytest.fixture(scope="module")
def job(small):
    """A real one, caught on its way to be done."""
    module = sys.modules["fasttricks.train"]  # the package's `train` is the function
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "prepare", lambda job, data: None)
        patch.setattr(module, "train_here", lambda job, data, started: job)
        return train(WHOLE - "distributed", small, images=320, budget="smoke").to_json()


# Cases: something that is right, changed in one to three places.

NUMBERS = [math.nan, math.inf, -math.inf, -0.0, 5e-324, 1e-300, 1e19, 1e38, 1e154, 1e300, 1.0, 0.5]
NUMBERS += [0, 1, -1, 2, 7, 2**31, 2**63 - 1, 2**63, -(2**63), 10**400, -(10**4000)]
TEXTS = ["", "x", "a\nb", "\0", "\ud800", "\u2028", "1", "nan", "x" * 3000, "x" * 5000, "imagenet"]
TEXTS += ["sgd", "linear", "exp_range", "triangular2", "fp16", "Scratch", "os.system", "__import__"]
DEEP = json.loads("[" * 300 + "]" * 300)
TREES = [
    [],
    {},
    [[]],
    {"a": {"b": [None]}},
    DEEP,
    {"x" * 500: 1},
    *STORED[:2],
    *WHOLE.to_json()["tricks"],
]
STRANGE = st.one_of(
    st.sampled_from(NUMBERS),
    st.sampled_from([True, False, None]),
    st.sampled_from(TEXTS),
    st.sampled_from(TREES).map(deepcopy),
    st.floats(),
    st.floats(0, 1),
    st.text(max_size=5),
)
NEAR = {
    int: st.integers(0, 4) | st.integers(1, 2**63),
    float: st.floats(0, 1) | st.floats(0.1, 1e4) | st.floats(1, 1e308),
}
KEYS = ["schema", "net", "reached", "trick", "tricks", "recipe", "x", "a\nb", "__class__", "lr"]


def places(value, path=()):
    """Every place in it: the keys that lead there."""
    yield path
    if isinstance(value, dict | list):
        for key in value if isinstance(value, dict) else range(len(value)):
            yield from places(value[key], (*path, key))


def at(value, path):
    """What is in a place."""
    for key in path:
        value = value[key]
    return value


@st.composite
def mutated(draw, right):
    """What was right, with one to three changes."""
    value = deepcopy(right)
    for _ in range(draw(st.integers(1, 3))):
        few = [path for path in places(value) if len(path) < 6]
        change = draw(st.sampled_from("nnnrrrdac"))
        if change == "n":  # another number, so that much is accepted
            few = [path for path in few if type(at(value, path)) in NEAR] or few
        path = draw(st.sampled_from(few))
        here = at(value, path)
        if change == "n" and path and type(here) in NEAR:
            at(value, path[:-1])[path[-1]] = draw(NEAR[type(here)])
        elif change == "a" and isinstance(here, dict):
            here[draw(st.sampled_from(KEYS))] = draw(STRANGE)
        elif change == "a" and isinstance(here, list):
            here.append(draw(STRANGE))
        elif not path:
            value = draw(STRANGE)
        elif change == "d":
            del at(value, path[:-1])[path[-1]]
        elif change == "c":  # somewhere else too, a trick twice in a list of them
            there, copied = at(value, path[:-1]), deepcopy(here)
            if isinstance(there, list):
                there.append(copied)
            else:
                there[draw(st.sampled_from([*there, *KEYS]))] = copied
        else:
            at(value, path[:-1])[path[-1]] = draw(STRANGE)
    return value


TOKENS = [
    b"NaN",
    b"-Infinity",
    b"1e999",
    b"true",
    b"null",
    b"0",
    b"-1",
    b"1e300",
    b"9" * 400,
    b"[]",
]
TOKENS += [
    b"{}",
    b'"x"',
    b'"\\u0000"',
    b'"\\ud800"',
    b'"',
    b",",
    b"\xff",
    b"\x00",
    b"\xef\xbb\xbf",
    b"",
]
TOKENS += [b"[" * 99_999, b"9" * 9999, b" " * 1_000_000, b'1, "lr": 1e300', b'1, "schema": 2']


@st.composite
def mutated_bytes(draw, right):
    """The JSON of what was right, with one to three spans replaced, mostly whole words."""
    text = json.dumps(right).encode()
    for _ in range(draw(st.integers(1, 3))):
        spans = [word.span() for word in re.finditer(rb"(?<=: )[^\s,]+|\w+", text[:4000])]
        spans = [span for span in spans if text[span[0] - 1 :][:1] == b" "] * 9 + spans or [(0, 0)]
        (start, end), (first, last) = draw(st.sampled_from(spans)), draw(st.sampled_from(spans))
        new = draw(st.sampled_from([*TOKENS, text[first:last], text[first : last + 40]]))
        cut = draw(st.sampled_from([end, end, end, end, start, start + 1, end + 1, len(text)]))
        text = text[:start] + new + text[cut:]
    return text


# What must hold of each.


@cache
def check_rates(recipe):
    """Every rate and momentum of short and long runs."""
    body = recipe.start.rate("conv1.weight", "fc", 1.0)
    for steps in (1, 2, 7, 100, 2000):
        rates = [recipe.lr_at(step, steps) for step in range(steps)]
        momenta = [recipe.momentum_at(step, steps) for step in range(steps)]
        assert all(map(math.isfinite, (*rates, *momenta)))
        assert max(body, 1) * max(rates) < 3.4e38, "float32 holds it"
        assert min(rates) >= 0
        assert min(momenta) >= 0
        assert max(momenta) < 1


def check_leaves(name, value):
    """Every number is finite, and true is no number."""
    if isinstance(value, dict):
        for key in value.keys() - {"hardware", "versions"}:
            check_leaves(key, value[key])
    elif isinstance(value, list):
        for item in value:
            check_leaves(name, item)
    elif isinstance(value, float):
        assert math.isfinite(value), name
    else:
        assert isinstance(value, bool) == (name in FLAGS), name


def check_sentence(error):
    """One line, not long, with a full stop."""
    said = str(error)
    assert len(said.splitlines()) == 1
    assert len(said) < 400
    assert said.endswith(".")


def refused_or_sound(parse, case):
    """One or the other; anything but a ValueError goes through, and fails the test."""
    try:
        made = parse(case)
    except ValueError as error:
        check_sentence(error)
        return
    check_rates(made if isinstance(made, Recipe) else made.recipe)
    check_leaves("", made.to_json())
    again = json.loads(json.dumps(made.to_json(), allow_nan=False))
    read = read_run if isinstance(made, Run) else type(made).from_json
    assert read(again) == made


@settings(max_examples=EXAMPLES["recipes"], derandomize=True, database=None)
@given(case=st.sampled_from(STORED).flatmap(mutated))
def test_recipes(case):
    refused_or_sound(Recipe.from_json, case)


@settings(max_examples=EXAMPLES["jobs"], derandomize=True, database=None)
@given(data=st.data())
def test_jobs(data, job):
    refused_or_sound(Job.from_json, data.draw(mutated(job)))


@settings(max_examples=EXAMPLES["records"], derandomize=True, database=None)
@given(data=st.data())
def test_records(data, record):
    refused_or_sound(read_run, data.draw(mutated(record)))


@settings(max_examples=EXAMPLES["bytes"], derandomize=True, database=None)
@given(case=st.sampled_from(STORED).flatmap(mutated_bytes))
def test_bytes(case, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / "recipe.json"
    path.write_bytes(case)
    refused_or_sound(lambda _: read_recipe(path), case)


# What is known to have gone wrong, each with its sentence.


def held(**trick):
    """A recipe with one trick."""
    return json.dumps({"tricks": [trick]})


WRONG = {
    "a list": ("[]", "recipe must be an object, not a list"),
    "a number": ("3", "recipe must be an object, not 3"),
    "nothing": ("null", "recipe must be an object, not None"),
    "no recipe in a record": ('{"recipe": 3}', "recipe must be an object, not 3"),
    "true for a number": ('{"lr": true}', "lr must be a number, 1e8 at most, not True"),
    "NaN": ('{"lr": NaN}', "recipe.lr must be a number, 1e8 at most, not nan"),
    "infinite": ('{"weight_decay": Infinity}', "must be a number, 1e8 at most, not inf"),
    "too large to be finite": ('{"clip": 1e999}', "clip must be a number, 1e8 at most, not inf"),
    "401 digits": (f'{{"lr": {10**400}}}', "lr must be a number, 1e8 at most, not 1000000"),
    "9,999 digits": (f'{{"lr": {"9" * 9999}}}', "is no JSON (Exceeds the limit"),
    "a fraction of an image": (
        '{"batch": 1.5}',
        "batch must be a whole number, 2**40 at most, not 1.5",
    ),
    "an endless text": (f'{{"optimizer": "{"x" * 9999}"}}', "text of 4,096 characters at most"),
    "tricks that are none": ('{"tricks": {"a": 1}}', "recipe.tricks must be a list, not an object"),
    "a trick that is none": ('{"tricks": [[]]}', "a trick must be an object, not a list"),
    "a trick without a name": (held(alpha=1), "Unknown trick None"),
    "a list for a name": (held(trick=[]), "Unknown trick a list"),
    "Scratch": (held(trick="Scratch"), "Unknown trick 'Scratch'"),
    "a function of Python": (held(trick="__import__"), "Unknown trick '__import__'"),
    "a function of a module": (held(trick="os.system"), "Unknown trick 'os.system'"),
    "our own module": (held(trick="cyclic"), "Unknown trick 'cyclic'"),
    "its attributes": (held(trick="Mixup", __class__="os"), "Mixup does not know '__class__'"),
    "what is no field": (held(trick="Mixup", chapter=4), "Mixup does not know 'chapter'"),
    "a source": (held(trick="Transfer", source=5), "Transfer.source must be a text"),
    "a growing bound": (held(trick="Cyclic", mode="exp_range", gamma=2), "gamma in (0, 1]"),
    "a fall without end": (held(trick="OneCycle", div=math.inf), "must be a number"),
    "a product": (
        '{"lr": 1e300, "tricks": [{"trick": "OneCycle", "peak": 1e300}]}',
        "recipe.lr must be a number, 1e8 at most",
    ),
    "a body's rate": (
        '{"lr": 1e8, "tricks": [{"trick": "Transfer", "body_lr": 1e9}]}',
        "['body_lr'] must be a number, 1e8 at most",
    ),
    "one trick twice": (
        json.dumps({"tricks": [{"trick": "Transfer", "source": "x" * 4000}] * 2}),
        "both are one trick twice; leave one of them out",
    ),
    "a later schema": ('{"schema": 3}', "recipe has schema 3; this version reads 2"),
    "the first schema had none": ('{"schema": 1}', "recipe has schema 1"),
    "no number for a schema": ('{"schema": true}', "recipe has schema True"),
    "two lines for a name": (r'{"a\nb": 1}', r"recipe does not know 'a\nb'"),
    "deep": ("[" * 99_999, "is no JSON ("),
    "deep in a trick": (held(trick="Mixup", alpha=DEEP), "is nested too deeply"),
    "half": ('{"lr": 1', "is no JSON"),
    "empty": ("", "is no JSON"),
    "UTF-16": ('{"lr": 1}'.encode("utf-16"), "is no JSON ('utf-8' codec can't decode"),
    "large": (" " * 1_000_001, "is larger than 1 MB"),
}

HEARD: list[str] | None = None  # events that Python's audit tells of, while it is a list
LOUD = {"import", "exec", "compile", "os.system", "os.exec", "subprocess.Popen", "socket.connect"}
sys.addaudithook(lambda event, _: HEARD.append(event) if HEARD is not None else None)


@pytest.mark.parametrize("name", WRONG)
def test_one_sentence_and_no_code_runs(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    content, sentence = WRONG[name]
    path = tmp_path / "recipe.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
    monkeypatch.setitem(globals(), "HEARD", [])
    with pytest.raises(ValueError, match=re.escape(sentence)) as refused:
        read_recipe(path)
    heard = set(HEARD)
    assert "open" in heard
    assert not heard & LOUD
    said = str(refused.value)
    assert len(said.splitlines()) == 1
    assert len(said.replace(str(path), "")) < 400
    assert main(["train", "--recipe", str(path), "--out", "run.json", "--save", "net.pth"]) == 2
    assert capsys.readouterr().err == f"fasttricks: {said}\n"
    assert [file.name for file in tmp_path.iterdir()] == ["recipe.json"], "nothing half-written"


def test_of_a_readers_modules_only_tricks_are_taken(monkeypatch):
    monkeypatch.setenv(MODULES, "os,fasttricks,fasttricks.tricks.distributed")
    for name in ("system", "train", "Recipe", "BASELINE", "World", "ALONE"):
        with pytest.raises(ValueError, match=f"Unknown trick '{name}'"):
            Recipe.from_json({"tricks": [{"trick": name}]})


@pytest.mark.parametrize("source", ["a\nb", "a\0b", ".", "/dev/zero", "x" * 4000])
def test_a_source_that_is_no_file(source, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipe.json").write_text(held(trick="Transfer", source=source), encoding="utf-8")
    assert main(["train", "--recipe", "recipe.json", "--budget", "smoke"]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_a_folder_is_no_recipe(tmp_path, capsys):
    assert main(["train", "--recipe", str(tmp_path)]) == 2
    assert "cannot be read (Is a directory)" in capsys.readouterr().err


def test_schemas(job):
    for recipe in RECIPES:
        stored = recipe.to_json()
        assert stored.pop("schema") == 2
        assert Recipe.from_json(stored) == recipe, "of the first version"
    assert Job.from_json(job).to_json() == job
    with pytest.raises(ValueError, match="A job has schema 1 here, not 3"):
        Job.from_json({**job, "schema": 3})
    with pytest.raises(ValueError, match="job lacks 'seed'"):
        Job.from_json({key: value for key, value in job.items() if key != "seed"})


RECORDS = {
    "hardware": ({"hardware": {}}, "hardware lacks cores, cpu, gpu"),
    "a point": ({"curve": [[1.0, 2.0]]}, "each point of the curve"),
    "a clock that stands": ({"train_seconds": 0.0}, "that no run can have"),
    "accuracy": ({"val_accuracy": 1.5, "reached": True}, "that no run can have"),
    "reached": ({"reached": True, "val_accuracy": 0.0}, "reached must be False"),
    "resumed": ({"resumed": 1}, "its clocks measure nothing"),
    "a net": ({"net": None}, "does not know 'net'"),
    "schema": ({"schema": True}, "schema"),
}


@pytest.mark.parametrize("name", RECORDS)
def test_records_that_no_run_has_left(name, record):
    change, sentence = RECORDS[name]
    with pytest.raises(ValueError, match=re.escape(sentence)):
        read_run({**record, **change})


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(
    "right", [BASELINE, *(trick() for trick in OURS)], ids=lambda r: type(r).__name__
)
def test_python_too_takes_finite_settings_only(right, number):
    for field in fields(right):
        if field.type in (float, float | None):
            with pytest.raises(ValueError, match=r"needs"):
                replace(right, **{field.name: number})
