"""A study finds the lengths that reach, goes on where it was, and refuses wrong records."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from fasttricks import BASELINE, SEVEN, train
from fasttricks.__main__ import main
from fasttricks.study import plan
from fasttricks.study import runs as runner
from fasttricks.study.plan import DECLARED, TARGET, arm_recipe, read_study, search_state, target_of
from fasttricks.study.runs import RESULTS, RUNS, bench, read_records

ROOT = Path(__file__).resolve().parents[1]

STUDY = """
budget = "smoke"
seeds = 2
ratio = 2.0
target_seeds = 3
target_images = 1280
curves = ["six"]
[tuning.plain]
optimizer = ["adamw"]
lr = { adamw = [1e-3, 2e-3] }
batch = [128]
images = 640
seeds = 1
[tuning.whole]
batch = [128]
peak = [10]
images = 640
seeds = 1
[arms]
plain = 1280
six = 1280
"no transfer" = 1280
"add mixup" = 1280
"""
NEEDS = {"six": 480, "no transfer": 2560, "add mixup": 10**9}  # images at which an arm arrives


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "tiny.toml"
    path.write_text(STUDY, encoding="utf-8")
    return path


@pytest.fixture
def made(small, monkeypatch):
    """Trains nothing: a run whose accuracy follows from arm and images; the runs, in order."""
    real, asked = train(BASELINE, small, images=128), []

    def instead(recipe, data, *, images, seed, target, label, **rest):
        arm = label.split(": ")[1]
        asked.append((arm, images, seed))
        arrived = images >= NEEDS.get(arm, 1280)
        return replace(
            real,
            recipe=recipe,
            images_seen=images,
            seed=seed,
            val_accuracy=0.9 if arrived else 0.1,
            wall_seconds=12.0,
        )

    monkeypatch.setattr(runner, "train", instead)
    return asked


def test_each_arm_gets_the_smallest_length_that_reaches(file, tmp_path, made, capsys):
    assert bench(file, tmp_path)
    study, found = read_study(file), read_records(tmp_path / "tiny")
    assert target_of(study, found) == 0.9
    states = {arm: search_state(study, arm, found, 0.9) for arm in study.arms}
    assert states == {
        "plain": (1280, True),
        "six": (480, True),
        "no transfer": (2560, True),
        "add mixup": (None, True),
    }
    assert len(made) == len(set(made)) == sum(map(len, found.values())), "no run twice"
    assert max(images for arm, images, _ in made if arm == "add mixup") == 2560, "then it gives up"
    curve = sorted({images for arm, images, _ in made if arm == "six"})
    assert curve == [320, 480, 640, 1280, 2560], "four points of a curve, and the half length"
    rounds = [arm for arm, images, _ in made if images == 1280 and arm in study.arms]
    assert rounds == [*study.arms] * 2, "the arms take turns, seed by seed"
    last = [("plain", 1280), ("six", 480), ("no transfer", 2560)]
    turns = [(f"last {arm}", images, seed) for seed in range(2) for arm, images in last]
    assert made[-6:] == turns, "the last round, without the arm that never arrives"
    assert "Complete" in capsys.readouterr().out


def test_a_stopped_study_goes_on(file, tmp_path, made, capsys):
    assert not bench(file, tmp_path, hours=0)
    assert not made
    assert "are missing" in capsys.readouterr().out
    assert bench(file, tmp_path)
    count = len(made)
    change_lines(tmp_path / "tiny", lambda lines: [x for x in lines if not last_plain(x)])
    assert bench(file, tmp_path)
    assert made[count:] == [("plain", 1280, 1)]


def last_plain(line):
    record = json.loads(line)
    return (record["arm"], record["images_seen"], record["seed"]) == ("plain", 1280, 1)


def change_lines(folder, change):
    """Rewrite the records of a study."""
    path = folder / RUNS
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    path.write_text("".join(change(lines)), encoding="utf-8")


def spoil(**changes):
    """Changes of the last line of the records."""

    def change(lines):
        return [*lines[:-1], json.dumps({**json.loads(lines[-1]), **changes}) + "\n"]

    return change


SPOILED = {
    "schema": (spoil(schema=99), "schema 99"),
    "broken": (lambda lines: [*lines[:-1], lines[-1][:100] + "\n"], "Remove it, and it"),
    "seed": (lambda lines: [*lines, lines[-1]], "a seed may be used once"),
    "machine": (
        spoil(hardware={"gpu": None, "gpu_count": 0, "cpu": "other", "cores": 9}),
        "one machine",
    ),
    "field": (spoil(mood="good"), "mood"),
    "not a record": (lambda lines: [*lines, "[]\n"], "line"),
}


@pytest.mark.parametrize("kind", SPOILED)
def test_wrong_records_are_refused(kind, file, tmp_path, made, capsys):
    bench(file, tmp_path)
    change, word = SPOILED[kind]
    change_lines(tmp_path / "tiny", change)
    assert main(["bench", str(file), "--results", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert word in said
    assert f"{tmp_path / 'tiny' / RUNS}, line" in said


def test_a_line_that_was_cut_off_is_made_again(file, tmp_path, made):
    bench(file, tmp_path)
    before = sum(map(len, read_records(tmp_path / "tiny").values()))
    count, lost = len(made), made[-1]
    change_lines(tmp_path / "tiny", lambda lines: [*lines[:-1], lines[-1][:200]])
    assert sum(map(len, read_records(tmp_path / "tiny").values())) == before - 1
    bench(file, tmp_path)
    assert made[count:] == [lost]
    assert sum(map(len, read_records(tmp_path / "tiny").values())) == before


WRONG = {
    "arm": ('"add mixup" = 1280', '"add magic" = 1280', "add magic"),
    "field": ("seeds = 2", "seed = 2", "seeds"),
    "toml": ("[arms]", "[arms", "line"),
    "budget": ('"smoke"', '"huge"', "huge"),
    "plain": ("plain = 1280\n", "", "plain"),
    "tuning": ('optimizer = ["adamw"]', 'optimizer = ["lion"]', "tuning.plain.optimizer"),
    "tuned": ("[tuning.whole]", "[tuning.half]", "tuning"),
    "tried": ("peak = [10]", "summit = [10]", "tuning.whole"),
    "curves": ('["six"]', '["seven"]', "curves"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_wrong_studies_are_refused(kind, file, tmp_path, capsys):
    old, new, word = WRONG[kind]
    file.write_text(STUDY.replace(old, new, 1), encoding="utf-8")
    assert main(["bench", str(file), "--results", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert str(file) in said
    assert word in said


def test_every_arm_is_the_sum_that_it_names():
    whole = sum(SEVEN, start=BASELINE)
    assert arm_recipe("whole") == whole
    assert arm_recipe("no mixup") == arm_recipe("last no mixup") == whole - "mixup"
    assert arm_recipe("add mixup") == BASELINE + SEVEN[3]
    assert arm_recipe("tune plain sgd 0.1 64").optimizer == "sgd"
    tried = arm_recipe("tune whole 640 7")
    assert (tried.global_batch, tried.names) == (640, whole.names)
    assert 7.0 in [getattr(trick, "peak", None) for trick in tried.tricks]


def test_the_shipped_studies_are_whole():
    for path in (ROOT / "bench").glob("*.toml"):
        study = read_study(path)
        whole = sum(SEVEN, start=BASELINE)
        named = {f"{word} {name}" for word in ("add", "no") for name in whole.names}
        assert set(study.arms) == named | {"plain", "whole", "six"}
        assert study.target_seeds >= 20
        assert study.seeds >= 5
        assert {"plain", "whole"} <= set(study.curves)
        trials = {arm: len(plan.tuning_arms(study, arm)) for arm in study.tuning}
        assert len(set(trials.values())) == 1, "as many trials for the one as for the other"


def hold_to_their_arms(folder):
    """Reading refuses a wrong schema, field, seed or machine; here each recipe is its arm's."""
    study, found = read_study(folder / DECLARED), read_records(folder)
    assert found
    for (arm, images), runs in found.items():
        assert images == plan.whole_batches(arm, images)
        assert all(run.recipe == arm_recipe(arm) for run in runs.values()), arm
        assert all(run.budget == study.budget for run in runs.values()), arm


def test_stored_records_are_held_to_their_arms(file, tmp_path, made):
    """Those of the repository, as soon as it has some; first, that a wrong one is seen."""
    bench(file, tmp_path)
    hold_to_their_arms(tmp_path / "tiny")
    change_lines(tmp_path / "tiny", spoil(recipe=arm_recipe("add cyclic").to_json()))
    with pytest.raises(AssertionError, match="no transfer"):
        hold_to_their_arms(tmp_path / "tiny")
    for declared in (RESULTS).glob(f"*/{DECLARED}"):
        shipped = ROOT / "bench" / f"{declared.parent.name}.toml"
        assert declared.read_bytes() == shipped.read_bytes()
        hold_to_their_arms(declared.parent)


def test_a_round_from_the_shell(file, tmp_path):
    """Real runs, as on a machine that is lent for minutes: check, warm up, measure, tell."""
    few = STUDY.replace("1e-3, 2e-3", "1e-3").replace("target_seeds = 3", "target_seeds = 1")
    few = few.replace("seeds = 2", "seeds = 1").replace("1280", "128").replace("640", "128")
    file.write_text(few.split('"no transfer"')[0], encoding="utf-8")
    words = ["sh", str(ROOT / "bench" / "round.sh"), str(file), "1", str(tmp_path / "out")]
    done = subprocess.run(
        words,
        env={**os.environ, "PYTHON": sys.executable, "PYTHONPATH": str(ROOT)},
        cwd=tmp_path,
        capture_output=True,
        encoding="utf-8",
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Complete" in done.stdout
    assert (tmp_path / "out" / "tiny.md").exists()
    found = read_records(tmp_path / "out" / "tiny")
    assert {arm for arm, _ in found} >= {
        "last plain",
        "tune plain adamw 0.001 128",
        "tune whole 128 10",
        TARGET,
        "plain",
        "six",
    }
