"""Every coefficient against irrCAC and krippendorff, for three, four and five declared scores."""

import krippendorff as oracle
import numpy as np
import pandas as pd
import pytest
from scored_patches import RNG
from sklearn.metrics import cohen_kappa_score

from her2lib.stats import agreement, calibration, coefficients, compare
from her2lib.stats.agreement import fleiss, gwet_ac1, gwet_ac2, kappa, krippendorff

# irrCAC 0.4.4 asks for SciPy 1.12 and pandas below 3, which the library leaves behind: no lock can
# hold it, though it runs with both. Where it is not installed, what it answered stands below.
try:
    from irrCAC.raw import CAC
except ImportError:
    CAC = None

# what declared scores may look like: all, three, with a middle one left out, five of another scale
DECLARED = [(0, 1, 2, 3), (1, 2, 3), (0, 2, 3), (0, 1, 2), (0, 1, 2, 3, 4)]
SCALES = {"unweighted": "identity", "linear": "linear", "quadratic": "quadratic"}
# two readings of ten patches, 1+ to 3+
TEN_PATCHES = [(1, 1)] * 3 + [(2, 2)] * 2 + [(3, 3)] * 2 + [(1, 2), (2, 3), (1, 3)]


def readings(scores, *, seed=0, unused=None, n=60, raters=4):
    """(N,R) readings of correlated raters, a fifth missing; one declared score may be unused."""
    random = RNG(seed)
    given = [score for score in scores if score != unused]
    truth = random.integers(0, len(given), n)
    steps = random.choice([-1, 0, 1], (n, raters), p=[0.2, 0.6, 0.2])
    ratings = np.array(given)[np.clip(truth[:, None] + steps, 0, len(given) - 1)]
    ratings[random.random((n, raters)) < 0.2] = -1
    return ratings


def by_irrcac(ratings, scores, weights):
    """CAC of ratings with -1 missing, over these categories; skips where it is not installed."""
    if CAC is None:
        pytest.skip("irrCAC is not installed")
    table = pd.DataFrame(ratings).astype(float).replace(-1, np.nan)
    return CAC(table, weights=SCALES[weights], categories=[float(score) for score in scores])


def value_of(answer):
    return answer["est"]["coefficient_value"]


# --- against the oracles ------------------------------------------------------------------------


@pytest.mark.parametrize("unused", ["none", "lowest", "highest", "second"])
@pytest.mark.parametrize("scores", DECLARED)
def test_gwet_and_fleiss_equal_irrcac_with_ratings_missing(scores, unused):
    left_out = {"none": None, "lowest": scores[0], "highest": scores[-1], "second": scores[1]}
    for seed in range(3):
        ratings = readings(scores, seed=seed, unused=left_out[unused])
        for weights in ("linear", "quadratic"):
            expected = value_of(by_irrcac(ratings, scores, weights).gwet())
            value = gwet_ac2(ratings, scores=scores, weights=weights)
            assert value == pytest.approx(expected, abs=1e-5)
        plain = by_irrcac(ratings, scores, "unweighted")
        assert gwet_ac1(ratings, scores=scores) == pytest.approx(value_of(plain.gwet()), abs=1e-5)
        assert fleiss(ratings, scores=scores) == pytest.approx(value_of(plain.fleiss()), abs=1e-5)


@pytest.mark.parametrize("unused", ["none", "lowest", "highest", "second"])
@pytest.mark.parametrize("scores", DECLARED)
def test_alpha_equals_krippendorff_with_ratings_missing(scores, unused):
    left_out = {"none": None, "lowest": scores[0], "highest": scores[-1], "second": scores[1]}
    for seed in range(3):
        ratings = readings(scores, seed=seed, unused=left_out[unused])
        data = np.where(ratings < 0, np.nan, ratings).T
        for level in ("nominal", "ordinal", "interval"):
            expected = oracle.alpha(
                data, value_domain=[float(score) for score in scores], level_of_measurement=level
            )
            assert krippendorff(ratings, scores=scores, level=level) == pytest.approx(expected)


@pytest.mark.parametrize("weights", coefficients.WEIGHTS)
@pytest.mark.parametrize("scores", DECLARED)
def test_kappa_of_two_raters_equals_irrcac_and_scikit_learn(scores, weights):
    for seed in range(3):
        ratings = readings(scores, seed=seed, raters=2)
        both = ratings[(ratings >= 0).all(1)]
        value = kappa(*ratings.T, scores=scores, weights=weights)
        name = {"unweighted": None}.get(weights, weights)
        # all positions up to the highest: scikit-learn counts steps by the place of a label
        labels = range(max(scores) + 1)
        expected = cohen_kappa_score(*both.T, labels=labels, weights=name)
        assert value == pytest.approx(expected, abs=1e-9)
        of_two = by_irrcac(both, scores, weights)
        assert value == pytest.approx(value_of(of_two.conger()), abs=1e-5)


# --- what hangs on the number of scores, and what does not --------------------------------------


def test_case_42_gwet_of_three_scores_counts_three_by_hand():
    ratings = np.array(TEN_PATCHES)
    # of 10 patches 7 agree, two are one step apart, one is two steps; 0.4, 0.3, 0.3 of the readings
    spread = 0.4 * 0.6 + 0.3 * 0.7 + 0.3 * 0.7
    observed = (7 + 3 / 4 + 3 / 4 + 0) / 10
    by_chance = (3 + 2 * (3 / 4 + 3 / 4 + 0)) / (3 * 2) * spread
    by_hand = (observed - by_chance) / (1 - by_chance)
    value = gwet_ac2(ratings, scores=(1, 2, 3))
    assert value == pytest.approx(by_hand) == pytest.approx(19 / 34)
    assert value == pytest.approx(0.55882, abs=1e-5)  # by irrCAC 0.4.4
    assert gwet_ac1(ratings, scores=(1, 2, 3)) == pytest.approx(0.55224, abs=1e-5)  # by irrCAC
    # over four, as it once was: the same readings, and a quarter more agreement
    assert gwet_ac2(ratings) == pytest.approx(0.81707, abs=1e-5)  # by irrCAC, four categories
    assert gwet_ac1(ratings) == pytest.approx(0.61538, abs=1e-5)
    # a network and the truth are two readings
    two = agreement.metrics(
        ratings[:, 0], ratings[:, 1], groups=range(10), scores=(1, 2, 3), resamples=10
    ).set_index("metric")
    assert two.value["Gwet AC2 quadratic"] == pytest.approx(19 / 34)
    assert two.value["Gwet AC1"] == pytest.approx(0.55224, abs=1e-5)


@pytest.mark.parametrize("scores", [(1, 2, 3), (0, 2, 3), (1, 3)])
def test_only_gwet_hangs_on_scores_that_nobody_gave(scores):
    ratings = readings(scores)
    for statistic, options in (
        (fleiss, {}),
        (krippendorff, {"level": "ordinal"}),
        (krippendorff, {"level": "interval"}),
    ):
        value = statistic(ratings, scores=scores, **options)
        assert value == pytest.approx(statistic(ratings, **options))
    names = [name for name in agreement.SCORED if not name.startswith("Gwet")]
    truth, predicted = ratings[(ratings[:, :2] >= 0).all(1), :2].T
    for name in names:
        metric = agreement.SCORED[name]
        value = metric(truth, predicted, scores=scores)
        assert value == pytest.approx(metric(truth, predicted), nan_ok=True), name
    assert gwet_ac1(ratings, scores=scores) < gwet_ac1(ratings)


def test_a_reading_that_is_none_of_the_scores_is_refused_and_named():
    with pytest.raises(ValueError, match=r"2 values are none of the scores 1\+, 2\+, 3\+ .* is 0"):
        fleiss(np.array([[1, 0], [0, 2]]), scores=(1, 2, 3))
    with pytest.raises(ValueError, match="is 4"):
        kappa([1, 2], [4, 2], weights="linear")
    with pytest.raises(ValueError, match=r"1 values are none of the scores 0, 2\+, 3\+"):
        agreement.confusion_counts(np.array([0, 2]), np.array([1, 2]), (0, 2, 3))


def test_a_confusion_matrix_has_a_row_for_each_declared_score():
    truth = np.array([1, 1, 3, 3, -1])
    predicted = np.array([1, 3, 3, 3, 3])
    counts = agreement.confusion_counts(truth, predicted, (1, 2, 3))
    assert counts.tolist() == [[1, 0, 1], [0, 0, 0], [0, 0, 2]]


def test_metrics_speak_of_the_declared_scores_and_the_cuts_between_them():
    random = RNG(0)
    truth = random.choice([1, 2, 3], 60)
    odds = random.dirichlet(np.ones(4), 60)
    odds = calibration.among_scores(odds, (1, 2, 3))
    table = agreement.metrics(truth, odds, groups=range(60), scores=(1, 2, 3), resamples=10)
    named = " ".join(table["metric"])
    assert "recall 1+" in named
    assert "recall 0" not in named
    assert "0|1+" not in named
    assert set(table["metric"]) >= {"sensitivity 1+|2+", "AUROC 2+|3+", "ECE 1+|2+"}
    assert table["value"].notna().all()
    # two cuts, not three: the lowest can never be missed and would take a third off
    above = np.stack([odds[:, 2:].sum(1), odds[:, 3]], axis=1)
    squared = (above - (truth[:, None] > [1, 2])) ** 2
    score = table.set_index("metric")["value"]["ranked probability score"]
    assert score == pytest.approx(squared.mean())
    middle = agreement.metrics(
        np.array([0, 2, 3] * 9), np.array([0, 3, 3] * 9), groups=range(27), scores=(0, 2, 3)
    ).set_index("metric")["value"]
    # without 1+ both cuts part 0 from 2+, and 0 and 2+ stay two steps apart
    assert middle["sensitivity 0|1+"] == middle["sensitivity 1+|2+"] == 1
    assert middle["off-by-two rate"] == 0
    assert middle["mean absolute error"] == 1 / 3


def test_differences_and_shifts_are_over_the_declared_scores():
    random = RNG(1)
    truth = random.choice([1, 2, 3], 60)
    a = np.where(random.random(60) < 0.7, truth, 3)
    b = np.where(random.random(60) < 0.5, truth, 2)
    options = {"groups": np.arange(60) % 7, "resamples": 100}
    three = compare.compare(truth, a, b, scores=(1, 2, 3), **options)
    four = compare.compare(truth, a, b, **options)
    pd.testing.assert_frame_equal(three, four)
    shifts = compare.domain_shift(
        {"test": (truth, a, options["groups"])}, scores=(1, 2, 3), resamples=10
    )
    assert shifts["score"].tolist() == ["1+", "2+", "3+"]


def test_probabilities_among_the_declared_scores_sum_to_one():
    odds = np.array([[0.4, 0.3, 0.2, 0.1], [1, 0, 0, 0], [np.nan] * 4], np.float32)
    among = calibration.among_scores(odds, (1, 2, 3))
    assert among.dtype == odds.dtype
    assert among[0] == pytest.approx([0, 1 / 2, 1 / 3, 1 / 6])
    # sure of what is not asked: nothing is known of the others
    assert among[1] == pytest.approx([0, 1 / 3, 1 / 3, 1 / 3])
    assert np.isnan(among[2, 1:]).all()
    assert calibration.among_scores(odds) is odds
