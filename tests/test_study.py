"""A study runs the lengths that enclose the target, goes on where it was, and refuses faults."""

import json
import math
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest

import fasttricks.study.runs as runner
from fasttricks import BASELINE, SEVEN, load, train
from fasttricks.__main__ import main
from fasttricks.budget import BUDGETS
from fasttricks.recipe import name_of
from fasttricks.record import Run
from fasttricks.study.analysis import code, coverage, digest, findings, publish, unfinished
from fasttricks.study.findings import (
    FINDINGS,
    RESULTS,
    covered,
    ended,
    headline,
    published,
    summary,
    trusted,
)
from fasttricks.study.pages import figure, page, steps_of, target_curves, waterfall, write_report
from fasttricks.study.plan import DECLARED, Study, arm_of, read_study, trials
from fasttricks.study.runs import RUNS, bench, read_records

ROOT = Path(__file__).resolve().parents[1]

STUDY = """
budget = "smoke"
seeds = 4
ratio = 1.5
most = 20_000
target = 0.8
curves = ["plain", "whole"]
tested = ["plain"]
[tuning.plain]
optimizer = ["adamw"]
lr = { adamw = [1e-3, 2e-3] }
batch = [128]
images = 640
seeds = 1
[tuning.whole]
trials = 3
images = 640
seeds = 1
[tuning.whole.ranges]
"scaling.batch" = [128, 256]
"cyclic.peak" = [10.0, 40.0]
"transfer.freeze" = [0.0, 0.5]
[arms]
plain = [3000, 8000]
whole = [1000, 3000]
"plain + mixup" = [3000, 8000]
"whole - mixup" = [1000, 3000]
"plain + scaling" = [3000, 8000, 3]
"""
# Images at which an arm is at the target; plain with scaling is above it too soon, mixup never.
NEEDS = {"plain": 5000, "whole": 1500, "whole - mixup": 1500, "plain + scaling": 2000}


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "tiny.toml"
    path.write_text(STUDY, encoding="utf-8")
    return path


@pytest.fixture
def made(small, monkeypatch):
    """Trains nothing: a run whose accuracy follows from arm and images; the runs, in order."""
    real, asked = train(BASELINE, small, images=128), []

    def instead(recipe, data, *, images, seed, target, label, fresh, test, **rest):
        arm = label.split(": ")[1]
        asked.append((arm, images, seed, fresh, test, len(data.train)))
        need = NEEDS.get(arm.removeprefix("last ").removeprefix("test "), 1e9)
        noise = np.random.default_rng((seed, images)).standard_normal() * 0.004
        return replace(
            real,
            recipe=recipe,
            images_seen=images,
            seed=seed,
            target=target,
            val_accuracy=min(0.99, max(0.1, 0.8 + 0.05 * math.log2(images / need) + noise)),
            test_accuracy=0.79 if test else None,
            train_seconds=images * (2e-4 + 1e-6 * seed),
            wall_seconds=images * 2e-4 + 5,
        )

    monkeypatch.setattr(runner, "train", instead)
    return asked


def test_every_arm_gets_lengths_on_both_sides_of_the_target(file, tmp_path, made, capsys):
    assert bench(file, tmp_path)
    study, found = read_study(file), read_records(tmp_path / "tiny")
    lengths = {arm: sorted(images for name, images in found if name == arm) for arm in study.arms}
    assert lengths["plain"] == [study.length("plain", n) for n in range(20, 23)]
    assert min(lengths["plain + scaling"]) < 2000, "shorter runs were added"
    assert max(lengths["plain + mixup"]) <= study.most < 1.5 * max(lengths["plain + mixup"])
    assert len(made) == len(set(made)) == sum(map(len, found.values())), "no run twice"
    rows = {row.arm: row for row in findings(study, found)}
    assert rows["plain"].images.value == pytest.approx(5000, rel=0.1)
    assert rows["whole"].ratio.value == pytest.approx(5000 / 1500, rel=0.15)
    assert rows["whole"].verdict == "faster"
    assert rows["whole"].holds
    assert rows["plain + mixup"].verdict == "slower"
    assert not rows["plain + mixup"].arrives
    bound = rows["plain"].images.high / max(lengths["plain + mixup"])  # all have one pace here
    assert rows["plain + mixup"].ratio.high == pytest.approx(bound, rel=0.02)
    never = arm_of(study, found, "plain + mixup").pace.mean()
    assert never == min(arm_of(study, found, arm).pace.mean() for arm in study.arms)
    assert rows["whole - mixup"].verdict == "cannot tell"
    assert (rows["plain"].seeds, rows["plain + scaling"].seeds) == (4, 3), "as it declares"
    assert rows["plain + scaling"].verdict == "faster"
    assert "4 paired seeds (3 where" in page("tiny", study, found)
    assert rows["whole"].wall == pytest.approx(rows["whole"].images.value * 2e-4 + 5, rel=0.02)
    assert "Complete" in capsys.readouterr().out


def test_only_the_last_round_is_timed_and_only_the_test_reads_the_test(file, tmp_path, made):
    bench(file, tmp_path)
    for arm, _, seed, fresh, test, labels in made:
        kind = arm.split(" ")[0]
        assert fresh == (kind == "last")
        assert test == (kind == "test")
        assert (seed >= 1000) == (kind == "tune"), "the tuning has seeds of its own"
        assert (labels == 50_000) == (kind == "tune"), "and validates on training images"
    kinds = [arm.split(" ")[0] for arm, *_ in made]
    first = {kind: kinds.index(kind) for kind in ("tune", "plain", "last", "test")}
    assert sorted(first.values()) == list(first.values()), "in this order"
    turns = [arm for arm, *_ in made if arm.startswith("last")]
    assert len(set(turns[:4])) == 4, "the last round takes turns, without what never arrives"


def test_a_stopped_study_goes_on(file, tmp_path, made, capsys):
    assert not bench(file, tmp_path, hours=1e-9)
    assert not made
    assert "are missing" in capsys.readouterr().out
    assert bench(file, tmp_path)
    count, lost = len(made), made[-1]
    path = tmp_path / "tiny" / RUNS
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    path.write_text("".join(lines[:-1]) + lines[-1][:200], encoding="utf-8")
    assert bench(file, tmp_path)
    assert made[count:] == [lost]


def test_what_is_published_survives_its_file(file, tmp_path, made):
    bench(file, tmp_path)
    study, found = read_study(file), read_records(tmp_path / "tiny")
    assert write_report(tmp_path) == [tmp_path / "tiny.md"]
    (stored,) = published(tmp_path)
    assert repr(stored) == repr(publish("tiny", study, found)), "NaN and infinity too"
    said = headline("mixup", tmp_path)
    assert "**alone, it costs time, and added to the other six, it makes no clear differ" in said
    number = r"[\d.]+"
    whole = rf"\*\*{number}\*\* \({number} to {number}; 4\)"
    assert re.search(rf"\| 0\.8 \| not there after [\d,]+ images \| {whole} \|", said)
    assert "95% interval" in said
    assert "No study" in headline("cyclic", tmp_path)
    text = (tmp_path / "tiny.md").read_text(encoding="utf-8")
    assert text == page("tiny", study, found)
    assert "Test accuracy at those images (it chose nothing): plain 0.7900 (n = 4" in text
    assert summary(stored.rows) in text
    assert stored.unfinished == []
    (tmp_path / "tiny" / RUNS).write_text("no record", encoding="utf-8")
    assert published(tmp_path) == [stored] or repr(published(tmp_path)[0]) == repr(stored)
    for broken in ("{", "{}", '{"schema": 9}', "[]"):
        (tmp_path / "tiny" / FINDINGS).write_text(broken, encoding="utf-8")
        with pytest.raises(ValueError, match=r"findings\.json cannot be read .*fasttricks report"):
            headline("mixup", tmp_path)


def test_a_study_that_has_only_begun_says_what_it_lacks(file, tmp_path, made):
    bench(file, tmp_path)
    study, found = read_study(file), read_records(tmp_path / "tiny")
    few = {k: v for k, v in found.items() if k[0] != "whole" and not k[0].startswith("last")}
    said = " ".join(unfinished(study, few))
    assert "Not found yet: whole." in said
    assert "last round" in said
    assert {row.arm for row in findings(study, few)} == {
        "plain", "plain + mixup", "plain + scaling",
    }  # fmt: skip


def test_intervals_are_simulated_with_the_records_noise(file, tmp_path, made):
    bench(file, tmp_path)
    study, found = read_study(file), read_records(tmp_path / "tiny")
    ((bias, share),) = coverage(study, found, ["whole"], studies=60).values()
    assert abs(bias) < 0.05
    assert 0.8 < share <= 1


def test_the_simulation_is_printed_and_kept(file, tmp_path, made, capsys):
    bench(file, tmp_path)
    assert main(["report", "--results", str(tmp_path), "--simulate", "5"]) == 0
    said = capsys.readouterr().out
    assert re.search(r"tiny: whole beside plain: .* hold the truth in \d+\.0% of 5 simulated", said)
    assert trusted("tiny", tmp_path).startswith("In 5 simulated studies")
    assert trusted("tiny", tmp_path) in (tmp_path / "tiny.md").read_text(encoding="utf-8")
    assert main(["report", "--results", str(tmp_path), "--simulate", "0"]) == 2


def test_a_study_without_cold_walls_starts_no_processes_and_shows_none(file, tmp_path, made):
    file.write_text(STUDY.replace("target =", "cold = false\ntarget ="), encoding="utf-8")
    bench(file, tmp_path)
    assert write_report(tmp_path)
    text = (tmp_path / "tiny.md").read_text(encoding="utf-8")
    assert "train s" in text
    assert "cold wall" not in text
    assert all(math.isnan(row.wall) for row in published(tmp_path)[0].rows)
    assert made
    assert not any(fresh for _, _, _, fresh, _, _ in made)


def test_a_refresh_changes_the_averages_of_batch_norm_and_no_weight():
    data = load().subset(2000)
    data = replace(data, val=data.val[:1000])
    run = train(replace(BASELINE, lr=0.01), data, images=2560, seed=0, budget="smoke")
    before = {name: value.clone() for name, value in run.net.state_dict().items()}
    again = runner.refreshed(run, data)
    assert again.val_accuracy != run.val_accuracy
    assert again.curve == [*run.curve[:-1], [*run.curve[-1][:2], again.val_accuracy]]
    assert runner.refreshed(run, data).val_accuracy == again.val_accuracy
    changed = {
        name for name, value in run.net.state_dict().items() if (value != before[name]).any()
    }
    assert changed
    assert not changed & {name for name, _ in run.net.named_parameters()}


def test_fewer_turns_than_seeds_in_the_last_round(file, tmp_path, made):
    few = STUDY.replace("target =", "turns = 1\ntarget =")
    file.write_text(few, encoding="utf-8")
    bench(file, tmp_path)
    assert {seed for arm, _, seed, *_ in made if arm.startswith("last")} == {0}
    study, found = read_study(file), read_records(tmp_path / "tiny")
    assert "1 each, whose paces all seeds share" in page("tiny", study, found, tmp_path)
    for name in study.arms:
        arm = arm_of(study, found, name)
        assert len(arm.pace) == len(arm.rest) == len(study.seeds_of(name))
    assert len(set(arm_of(study, found, "whole").pace)) == 1
    like = replace(study, alike=True)
    for key, runs in found.items():  # as if an image cost twice as much
        if key[0] == "last whole":
            found[key] = {n: replace(r, train_seconds=2 * r.train_seconds) for n, r in runs.items()}
    paces = [arm_of(like, found, name).pace[0] for name in ("plain", "whole")]
    apart = [arm_of(study, found, name).pace[0] for name in ("plain", "whole")]
    assert paces[0] == paces[1] != apart[1]
    assert "they share a pace" in page("tiny", like, found, tmp_path)
    made.clear()
    file.write_text(few.replace("seeds = 4", "seeds = 6"), encoding="utf-8")
    assert bench(file, tmp_path)
    assert {seed for _, _, seed, *_ in made} >= {4, 5}
    assert not [arm for arm, *_ in made if arm.startswith("last")], "paces are known"


def test_a_study_draws_from_its_own_plain_settings(file):
    file.write_text(STUDY + "[plain]\nlr = 0.004\n", encoding="utf-8")
    study = read_study(file)
    drawn = [recipe for name, recipe in study.tuned.items() if name.startswith("whole")]
    assert {recipe.lr for recipe in drawn} == {study.recipe("plain").lr} == {0.004}


def test_the_last_round_checks_the_curve(file, tmp_path, made):
    bench(file, tmp_path)
    told = publish("tiny", read_study(file), read_records(tmp_path / "tiny"))
    for accuracy, words in (
        (0.85, "5.0 points above"),
        (0.79, "underestimated"),
        (0.801, "close to"),
    ):
        rows = [replace(row, accuracy=accuracy) for row in told.rows]
        assert words in ended(replace(told, rows=rows))
    assert ended(replace(told, rows=[])) == ""


def test_what_was_simulated_is_of_the_records_that_are_stored():
    for told in published():
        arms = {row.arm for row in told.rows if row.arrives and row.arm != row.against}
        kept = covered(told.study)
        assert kept, "run `fasttricks report --simulate 1000`"
        assert set(kept["holds"]) == set(kept["bias"]) == arms
        assert kept["records"] == told.runs


def test_a_run_that_breaks_is_recorded_and_counts(file, tmp_path, made, monkeypatch, capsys):
    real = runner.train

    def breaks(recipe, data, **asked):
        if asked["label"].endswith("tune whole 1"):
            raise FloatingPointError("The loss of step 3 is not finite.")
        return real(recipe, data, **asked)

    monkeypatch.setattr(runner, "train", breaks)
    assert bench(file, tmp_path)
    assert "The record says so" in capsys.readouterr().out
    found = read_records(tmp_path / "tiny")
    (runs,) = (r for (arm, _), r in found.items() if arm == "tune whole 1")
    assert runs[1000].broken == "The loss of step 3 is not finite."
    assert runs[1000].val_accuracy == 0
    assert "| 0.0000 | nan |" in page("tiny", read_study(file), found)


def test_a_pilot_advises_a_target(file, tmp_path, made, capsys):
    piloted = STUDY.replace("target = 0.8\n", "").replace(
        "[tuning.plain]", "[pilot]\nimages = [2000, 12_000]\nseeds = 4\n[tuning.plain]", 1
    )
    file.write_text(piloted, encoding="utf-8")
    NEEDS["pilot plain"] = 5000
    assert not bench(file, tmp_path)
    said = capsys.readouterr().out
    target = float(said.split("`target = ")[1].split("`")[0])
    assert 0.76 < target < 0.86
    assert {arm.split(" ")[0] for arm, *_ in made} == {"tune", "pilot"}


def test_peers_run_as_programs_of_their_own(file, tmp_path, made, monkeypatch):
    asked = []

    def instead(path, settings, images, seed, budget):
        asked.append((path.name, settings, images, seed))
        from fasttricks.study.peer import PeerRun

        hardware = {"gpu": None, "gpu_count": 0, "cpu": "x", "cores": 2}
        one = next(iter(read_records(tmp_path / "tiny").values()), None)
        hardware = next(iter(one.values())).hardware if one else hardware
        accuracy = 0.8 + 0.05 * math.log2(images / 4000) + 0.002 * seed
        took = 3e-4 * images
        return PeerRun("other", 0.1, 64, images, seed, took, took + 9, accuracy, hardware, {})

    monkeypatch.setattr(runner, "run_peer", instead)
    more = "other = [2000, 8000]\n[peers.other]\nlr = 0.1\nbatch = 64\nworkers = 0\n"
    file.write_text(STUDY + more, encoding="utf-8")
    assert bench(file, tmp_path)
    study, found = read_study(file), read_records(tmp_path / "tiny")
    (row,) = [row for row in findings(study, found) if row.arm == "other"]
    assert row.images.value == pytest.approx(4000, rel=0.1)
    assert row.train == pytest.approx(3e-4 * row.images.value)
    assert {name for name, *_ in asked} == {"other.py"}


def test_every_arm_is_the_sum_that_it_names(file):
    study, whole = read_study(file), sum(SEVEN, start=BASELINE)
    assert study.recipe("whole") == whole
    assert study.recipe("whole - mixup") == study.recipe("last whole - mixup") == whole - "mixup"
    assert study.recipe("plain + mixup") == BASELINE + SEVEN[3]
    both = study.recipe("plain + cyclic + transfer")
    assert {name_of(trick) for trick in both.tricks} == {"cyclic", "transfer"}
    assert study.recipe("tune plain adamw 0.002 128").lr == 0.002
    assert study.recipe("tune whole 0") == whole - "distributed"
    drawn = study.recipe("tune whole 1")
    assert 128 <= drawn.global_batch <= 256
    assert drawn.names == (whole - "distributed").names
    assert read_study(file).recipe("tune whole 1") == drawn, "the same draws each time"


@pytest.mark.parametrize(
    ("name", "arm", "against"),
    [
        ("cpu", "plain + mixup", "plain"),
        ("cpu", "whole", "plain"),
        ("cpu", "whole - mixup", "whole"),
        ("letters", "whole - distributed - transfer", "plain"),
        ("few", "plain", "plain + cyclic"),
        ("few", "plain + cyclic", "plain + cyclic"),
        ("few", "plain + cyclic + mixup", "plain + cyclic"),
        ("refreshed", "plain", "plain 0.005 at 256"),
        ("refreshed", "plain + mixup", "plain"),
        ("refreshed", "whole", "plain 0.005 at 256"),
    ],
)
def test_an_arm_is_compared_with_what_it_changes(name, arm, against):
    study = read_study(ROOT / "bench" / f"{name}.toml")
    assert arm in study.arms
    assert study.against(arm) == against


def test_recipes_may_be_named(file):
    named = (
        STUDY
        + '"fast" = [1000, 3000]\n[recipes.fast]\nlr = 3e-3\ntricks = { cyclic = {peak = 5.0} }\n'
    )
    file.write_text(named, encoding="utf-8")
    fast = read_study(file).recipe("last fast")
    assert (fast.lr, fast.names, fast.tricks[0].peak) == (3e-3, ("cyclic",), 5.0)


WRONG = {
    "arm": ('"plain + mixup"', '"plain + magic"', "plain + magic"),
    "sum": ('"plain + mixup"', '"plane + mixup"', "plane + mixup"),
    "field": ("seeds = 4", "seed = 4", "seeds"),
    "toml": ("[arms]", "[arms", "line"),
    "budget": ('"smoke"', '"huge"', "huge"),
    "reference": ("plain = [3000, 8000]\n", "", "plain"),
    "order": ("[3000, 8000]", "[8000, 3000]", "in order"),
    "most": ("[3000, 8000]", "[3000, 80000]", "in order"),
    "fewer": ("[3000, 8000, 3]", "[3000, 8000, 5]", "no more seeds"),
    "turns": ("seeds = 4", "seeds = 4\nturns = 0", "turns"),
    "alike": ("seeds = 4", "seeds = 4\nalike = true", "turns"),
    "refresh": ("seeds = 4", "seeds = 4\nrefresh = true", "cold = false"),
    "target": ("target = 0.8\n", "", "pilot"),
    "optimizer": ('["adamw"]', '["lion"]', "lion"),
    "tuned": ("[tuning.whole]", "[tuning.half]", "tuning"),
    "tried": ("trials = 3", "tries = 3", "tuning.whole"),
    "range": ('"cyclic.peak"', '"cyclic.summit"', "summit"),
    "curves": ('["plain", "whole"]', '["six"]', "six"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_wrong_studies_are_refused(kind, file, tmp_path, capsys):
    old, new, word = WRONG[kind]
    assert old in STUDY
    file.write_text(STUDY.replace(old, new, 1), encoding="utf-8")
    assert main(["bench", str(file), "--results", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert str(file) in said
    assert word in said


SPOILED = {
    "schema": ({"schema": 99}, "schema 99"),
    "field": ({"mood": "good"}, "mood"),
    "resumed": ({"resumed": 1}, "went on"),
    "range": ({"steps": 0}, "no run can have"),
    "machine": (
        {"hardware": {"gpu": None, "gpu_count": 0, "cpu": "other", "cores": 9}},
        "one machine",
    ),
    "seed": ({"seed": 0}, "twice"),
}


@pytest.mark.parametrize("kind", SPOILED)
def test_wrong_records_are_refused(kind, file, tmp_path, made, capsys):
    bench(file, tmp_path)
    change, word = SPOILED[kind]
    path = tmp_path / "tiny" / RUNS
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    last = {**json.loads(lines[-1]), **change}
    path.write_text("".join(lines[:-1]) + json.dumps(last) + "\n", "utf-8")
    assert main(["bench", str(file), "--results", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert word in said
    assert f"{path}, line {len(lines)}" in said


def test_the_report_is_the_same_for_the_same_records(file, tmp_path, made, capsys):
    assert main(["report", "--results", str(tmp_path)]) == 2
    assert "fasttricks bench" in capsys.readouterr().err
    bench(file, tmp_path)
    names = ("tiny.md", "tiny.png", "tiny-targets.png", f"tiny/{FINDINGS}")
    assert main(["report", "--results", str(tmp_path)]) == 0
    assert str(tmp_path / "tiny.md") in capsys.readouterr().out
    before = [(tmp_path / name).read_bytes() for name in names]
    assert main(["report", "--results", str(tmp_path)]) == 0
    assert [(tmp_path / name).read_bytes() for name in names] == before


def test_the_way_from_plain_to_the_whole_is_drawn(file, tmp_path, made):
    file.write_text(
        STUDY.replace("[tuning.plain]", 'steps = ["plain", "whole"]\n[tuning.plain]', 1)
    )
    bench(file, tmp_path)
    write_report(tmp_path)
    assert (tmp_path / "tiny-steps.png").exists()
    assert "tiny-steps.png" in (tmp_path / "tiny.md").read_text(encoding="utf-8")
    (told,) = published(tmp_path)
    (axes,) = waterfall(told, "test").axes
    plain, whole = told.of("plain", "whole")
    said = [text.get_text() for text in axes.texts]
    assert said[0].strip() == f"{plain.train:.1f} s"
    assert said[1].strip() == f"{whole.train:.1f} s, {plain.train / whole.train:.2f} times as fast"
    plt.close("all")


def test_each_step_is_named_by_what_it_adds():
    arms = ["plain", "plain + cyclic", "plain + cyclic + mixup", "whole - distributed", "whole"]
    assert steps_of(arms) == [
        "plain",
        "+ cyclic",
        "+ mixup",
        "+ scaling + smoothing + transfer + precision",
        "+ distributed (whole)",
    ]
    assert steps_of(["whole", "whole - mixup"]) == ["whole", "whole - mixup"]


def test_a_round_from_the_shell(file, tmp_path):
    """Real runs, as on a machine that is lent for minutes: check, warm up, measure, tell."""
    few = STUDY.replace("seeds = 4", "seeds = 1").replace("target = 0.8", "target = 0.3", 1)
    few = few[: few.index('"plain + mixup"')].replace("[3000, 8000]", "[640, 1280]")
    few = re.sub(r"\[tuning.*(?=\[arms\])", "", few, flags=re.S)
    file.write_text(few, encoding="utf-8")
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


def hold_to_their_arms(folder):
    """Reading refuses a wrong schema, field, seed or machine; here each recipe is its arm's."""
    study = read_study(folder / DECLARED)
    for (arm, images), runs in read_records(folder).items():
        for run in runs.values():
            if isinstance(run, Run):
                assert run.recipe == study.recipe(arm), arm
                assert images == study.whole_batches(arm, images), arm


def test_stored_records_are_of_their_arms(file, tmp_path, made):
    """First, that a wrong one is seen."""
    bench(file, tmp_path)
    path = tmp_path / "tiny" / RUNS
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    wrong = {**json.loads(lines[-1]), "recipe": (BASELINE + SEVEN[3]).to_json()}
    path.write_text("".join(lines[:-1]) + json.dumps(wrong) + "\n", "utf-8")
    with pytest.raises(AssertionError, match="test plain"):
        hold_to_their_arms(tmp_path / "tiny")
    folders = [path.parent for path in RESULTS.glob(f"*/{DECLARED}")]
    assert folders
    for folder in folders:
        hold_to_their_arms(folder)


def test_what_decides_a_number_has_not_moved():
    for told in published():
        assert told.digest == digest(), (
            f"Loop, tricks, data path, recipes or weights have changed since the study "
            f"{told.study!r} was measured. If that alters what is computed, remove its runs.jsonl "
            f"and run `fasttricks bench` on its file in bench/; see CONTRIBUTING.md."
        )


def test_words_decide_no_number():
    says = '"""A module."""\n\ndef f(x):\n    """Say."""\n    # why\n    return x + 1{}\n'
    told = code(says.format("  # a comment"))
    assert told == code(says.format("")) == "def f(x):\n    return x + 1"
    assert code(says.format("0")) != code(says.format(""))


def test_the_budget_is_what_its_study_found():
    own = BASELINE, sum(SEVEN, start=BASELINE)
    for told in published():
        study = read_study(RESULTS / told.study / DECLARED)
        alike = (study.recipe("plain"), study.recipe("whole")) == own
        if told.study == "cpu" or (told.study in BUDGETS and alike):
            size, rows = BUDGETS[told.study], told.of("plain", "whole")
            assert size.target == math.floor(100 * told.target) / 100, "rounded down"
            assert size.plain == pytest.approx(rows[0].images.value, rel=0.02)
            assert size.whole == pytest.approx(rows[1].images.value, rel=0.02)


def test_the_figures_show_every_arm_and_its_interval(file, tmp_path, made):
    bench(file, tmp_path)
    told = publish("tiny", read_study(file), read_records(tmp_path / "tiny"))
    left, right = figure(told.rows, "test").axes
    assert [text.get_text() for text in left.get_yticklabels()][-1] == "plain + mixup", "the least"
    assert [text.get_text() for text in right.get_yticklabels()] == ["whole - mixup"]
    seconds, ratio = target_curves(told, "test").axes
    assert [line.get_label() for line in seconds.get_lines()][:2] == ["plain", "whole"]
    assert ratio.collections, "bands"


def test_the_declared_studies_are_whole():
    for path in (ROOT / "bench").rglob("*.toml"):
        study = read_study(path)
        assert isinstance(study, Study)
        fewer = {"gpu": 3, "letters": 5, "schedules": 5, "batches": 5}
        assert study.seeds >= fewer.get(path.stem.removesuffix("-refreshed"), 10)
        counts = [len([n for n in study.tuned if n.startswith(arm)]) for arm in study.tuning]
        assert len(set(counts)) <= 1, "as many trials for the one as for the other"
        own = {seed for arm in study.arms for seed in study.seeds_of(arm)}
        for other in [f"tune {name}" for name in study.tuned] + ["pilot plain"] * bool(study.pilot):
            assert not own & set(study.seeds_of(other)), other
        assert next(trials(study, {}))
        assert DECLARED not in path.name
