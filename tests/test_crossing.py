"""Images until a target, read off a curve: exact where the truth is known, and honest elsewhere."""

import math

import numpy as np
import pytest

from fasttricks.study.analysis import ratio
from fasttricks.study.crossing import Arm, choose_target, estimate, fit, holm, simulated

IMAGES = np.array([10_000, 12_500, 15_600, 19_500, 24_400])


def truth(images, low=0.85, first=0.06, last=0.02):
    """A parabola in log(images) that rises ever more slowly."""
    u = np.log(images / IMAGES[0]) / np.log(IMAGES[-1] / IMAGES[0])
    return low + first * u + (last - first) / 2 * u**2


def arm(images=IMAGES, seeds=10, noise=0.003, pace=1e-4, seed=0):
    random = np.random.default_rng(seed)
    accuracy = truth(images)[:, None] + noise * random.standard_normal((len(images), seeds))
    paces = pace * np.exp(0.02 * random.standard_normal(seeds))
    return Arm(images, accuracy, paces, np.full(seeds, 5.0))


@pytest.mark.parametrize("images", [10_000, 13_000, 17_000, 24_400])
def test_a_crossing_without_noise_is_exact(images):
    curve = fit(IMAGES, truth(IMAGES))
    assert curve.images(truth(np.array(images))) == pytest.approx(images, rel=1e-6)
    assert curve.at(np.array(images)) == pytest.approx(truth(np.array(images)))


def test_a_curve_never_falls():
    curve = fit(IMAGES, np.array([0.85, 0.89, 0.90, 0.89, 0.87]))
    values = curve.at(np.geomspace(*IMAGES[[0, -1]], 50))
    assert (np.diff(values) >= -1e-12).all()
    flat = fit(IMAGES, np.array([0.9, 0.89, 0.88, 0.87, 0.86]))
    assert flat.at(IMAGES) == pytest.approx([0.88] * 5)
    assert flat.images(0.881) == math.inf
    assert math.isnan(flat.images(0.879)), "at the target before the shortest: not a number"


def test_beyond_the_longest_only_a_little_is_believed():
    curve = fit(IMAGES, truth(IMAGES))
    end = float(curve.at(IMAGES[-1]))
    assert IMAGES[-1] < curve.images(end + 0.004) < 1.3 * IMAGES[-1]
    assert curve.images(end + 0.01) == math.inf


def test_seconds_are_images_times_pace():
    one = Arm(IMAGES, np.tile(truth(IMAGES)[:, None], 3), np.full(3, 2e-4), np.full(3, 5.0))
    target = float(truth(np.array(15_600)))
    images, train, wall = (np.exp(one.costs(target, c)) for c in ("images", "train", "wall"))
    assert images == pytest.approx(4 * [15_600])
    assert train == pytest.approx(4 * [3.12])
    assert wall == pytest.approx(4 * [8.12])


def test_the_interval_is_the_jackknifes():
    """Of a mean, the jackknife's error is the textbook's."""
    values = np.array([1.0, 1.2, 0.9, 1.3, 1.1])
    left = [np.delete(values, n).mean() for n in range(5)]
    found = estimate(np.array([values.mean(), *left]))
    error = values.std(ddof=1) / math.sqrt(5)
    assert math.log(found.high) - values.mean() == pytest.approx(2.7764 * error, rel=1e-4)
    assert math.log(found.value) == pytest.approx(values.mean())
    assert 0 < found.p < 0.001


def test_an_arm_beside_itself_is_one():
    one = arm()
    found = ratio(one, one, 0.88)
    assert (found.value, found.low, found.high) == (1, 1, 1)


def test_one_that_never_arrives_has_a_bound():
    never = Arm(IMAGES, np.full((5, 10), 0.7), np.full(10, 1e-4), np.full(10, 5.0))
    found = ratio(never, arm(), 0.88)
    assert found.value == found.low == 0
    assert 0 < found.high < 1, "it took more than its longest run"
    other = ratio(arm(), never, 0.88)
    assert other.value == other.high == math.inf
    assert other.low == pytest.approx(1 / found.high)
    both = ratio(never, never, 0.88)
    assert math.isnan(both.value)
    assert (both.low, both.high) == (0, math.inf)


def test_the_interval_holds_as_often_as_it_says():
    """Known truth, known noise: 300 studies of ten seeds, each from the beginning."""
    target, hits = 0.88, 0
    images = fit(IMAGES, truth(IMAGES)).images(target)
    slow = fit(IMAGES, truth(IMAGES) - 0.005).images(target)
    for seed in range(300):
        one = arm(seed=2 * seed)
        other = arm(seed=2 * seed + 1, pace=2e-4)
        other = Arm(other.images, other.accuracy - 0.005, other.pace, other.rest)
        found = ratio(one, other, target)
        hits += found.low <= 2 * slow / images <= found.high
    assert 0.92 <= hits / 300 <= 0.98


def test_made_up_arms_scatter_as_the_records_do():
    one, random = arm(noise=0.004), np.random.default_rng(1)
    made = [simulated(one, IMAGES, np.arange(10), random) for _ in range(400)]
    spread = np.std([m.accuracy for m in made], axis=0).mean()
    assert spread == pytest.approx(one.accuracy.std(1, ddof=1).mean(), rel=0.15)
    means = np.mean([m.accuracy for m in made], axis=(0, 2))
    assert means == pytest.approx(one.curve.at(IMAGES), abs=5e-4)


def test_the_target_is_the_highest_that_can_be_told():
    pilot = arm(noise=0.002)
    easy = choose_target(pilot, IMAGES, 10, 0.15, studies=50)
    strict = choose_target(pilot, IMAGES, 10, 0.03, studies=50)
    assert strict < easy <= pilot.accuracy.mean(1).max()
    with pytest.raises(ValueError, match="more seeds, or longer runs"):
        choose_target(arm(noise=0.05), IMAGES, 3, 0.01, studies=20)


def test_many_questions_raise_what_chance_explains():
    assert holm(np.array([0.01, 0.04, 0.03])) == pytest.approx([0.03, 0.06, 0.06])
    assert holm(np.array([0.9, 0.5])).max() == 1
