"""Intervals: the fast bootstrap against the plain one, Wilson, seeds, sentences, coverage."""

import math
import warnings

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binomtest, norm, t
from scored_patches import RNG, scored_patches
from sklearn import metrics as sk

from her2lib.stats import agreement, calibration, intervals
from her2lib.stats.agreement import fleiss, kappa, krippendorff
from her2lib.stats.intervals import Estimate, bootstrap, resampling_groups


def test_the_fast_bootstrap_equals_the_plain_one():
    truth, predicted, probabilities, groups = scored_patches(120)
    both = np.stack([truth, predicted], 1)

    def same_fraction(a, b):
        return np.mean(a == b)

    def quadratic(a, b):
        return kappa(a, b, weights="quadratic")

    def auroc(a, b):
        return sk.roc_auc_score(a, b, multi_class="ovr")

    def plain_fleiss(ratings):
        return fleiss(ratings)

    cases = (
        (300, agreement.accuracy, same_fraction, (truth, predicted), {}),
        (300, kappa, quadratic, (truth, predicted), {"weights": "quadratic"}),
        (100, calibration.auroc_macro, auroc, (truth, probabilities), {}),
        (100, fleiss, plain_fleiss, (both,), {}),
    )
    for resamples, fast_statistic, plain_statistic, columns, options in cases:
        draws = {"groups": groups, "resamples": resamples}
        fast = bootstrap(fast_statistic, *columns, **draws, **options)
        plain = bootstrap(plain_statistic, *columns, **draws)
        numbers = plain.value, plain.low, plain.high
        assert (fast.value, fast.low, fast.high) == pytest.approx(numbers, abs=1e-9)
        sample = "patches of 19 patients"
        assert (fast.n, fast.sample) == (plain.n, plain.sample) == (120, sample)


def test_the_interval_is_the_percentiles_of_the_draws_widened_for_few_and_uneven_patients():
    quantiles = intervals.interval_quantiles
    reach = norm.ppf(quantiles(np.full(19, 15))[1])
    assert reach == pytest.approx(t.ppf(0.975, 18) * math.sqrt(19 / 18), abs=1e-9)
    # an empty patient is none
    assert quantiles([4, 4, 4, 0]) == pytest.approx(quantiles([7, 7, 7]), abs=1e-12)
    assert quantiles([30, 1, 1, 1])[0] < quantiles([8, 8, 8, 9])[0] < 0.025
    truth, predicted, _, groups = scored_patches(200)
    estimate = bootstrap(agreement.accuracy, truth, predicted, groups=groups, resamples=500, seed=4)
    right = pd.Series(truth == predicted).groupby(groups.astype(str))
    drawn = RNG(4).multinomial(19, np.full(19, 1 / 19), size=500)
    fractions = (drawn @ right.sum()) / (drawn @ right.size())
    expected = tuple(np.quantile(fractions, quantiles(right.size())))
    assert (estimate.low, estimate.high) == pytest.approx(expected, abs=1e-12)


def test_an_estimate_prints_its_sentence():
    sample = "patches of 51 slides"
    accuracy = Estimate(0.8608, 0.8204, 0.899, 977, sample, as_percent=True)
    assert str(accuracy) == "86.1 % (82.0 to 89.9; n = 977 patches of 51 slides)"
    assert accuracy.text() == f"{accuracy}" == str(accuracy)
    close_to_zero = Estimate(0.36, -0.004, 0.51, 281, sample)
    assert str(close_to_zero) == "0.36 (0.00 to 0.51; n = 281 patches of 51 slides)"
    none = Estimate(math.nan, math.nan, math.nan, 0, "patches", "no patch has score 0")
    assert str(none) == "not estimable: no patch has score 0"


def test_groups_fall_back_from_patient_to_slide_to_patch_with_a_warning():
    names = ["a", "b", "c"]
    ids, kind, warning = resampling_groups(["p", "p", "q"], ["s", "t", "u"], names)
    assert (list(ids), ids.name, kind, warning) == (["p", "p", "q"], "patients", "patients", "")
    ids, kind, warning = resampling_groups(["p", "", "q"], ["s", "s", "u"], names)
    assert (list(ids), kind) == (["s", "s", "u"], "slides")
    assert "unknown for 1 of 3" in warning
    ids, kind, warning = resampling_groups(None, ["s", None, "u"], names)
    assert (list(ids), kind) == (names, "patches")
    assert "as if they were independent" in warning
    assert "slide for 1" in warning


def test_what_groups_are_is_their_name_in_the_plural():
    ids = ["b", "a", "b"]
    names = {"patient": "patients", "slides": "slides", "name": "patches", None: "groups"}
    for name, plural in names.items():
        index, kind, n_groups = intervals.group_index(pd.Series(ids, name=name))
        assert (index.tolist(), kind, n_groups) == ([1, 0, 1], plural, 2)
    assert intervals.group_index(ids)[1] == "groups"


def test_patches_of_their_own_get_a_wilson_interval():
    truth, predicted, *_ = scored_patches(100)
    alone = pd.Series(range(100), name="patch")
    estimate = bootstrap(agreement.accuracy, truth, predicted, groups=alone, resamples=50)
    exact = binomtest(int((truth == predicted).sum()), 100).proportion_ci(method="wilson")
    assert (estimate.low, estimate.high) == pytest.approx((exact.low, exact.high), abs=1e-9)
    assert estimate.sample == "patches"


def test_several_seeds_are_averaged_and_widen_the_interval():
    truth, _, _, groups = scored_patches(200)
    seeds = []
    for seed, right in enumerate((0.4, 0.6, 0.8)):
        seeds.append(np.where(RNG(seed).random(200) < right, truth, (truth + 1) % 4))
    one = agreement.metrics(truth, seeds[1], groups=groups).set_index("metric").loc["accuracy"]
    many = agreement.metrics(truth, seeds, groups=groups).set_index("metric").loc["accuracy"]
    assert many.value == pytest.approx(np.mean([np.mean(truth == run) for run in seeds]))
    assert many.high - many.low > 1.5 * (one.high - one.low)


def test_columns_of_unequally_many_seeds_are_refused():
    truth, predicted, _, groups = scored_patches(50)
    with pytest.raises(ValueError, match=r"equally many seeds, not \[2, 3\]"):
        bootstrap(agreement.accuracy, [truth] * 2, [predicted] * 3, groups=groups)
    one = bootstrap(agreement.accuracy, [truth], [predicted, truth], groups=groups, resamples=50)
    assert one.value == pytest.approx((np.mean(truth == predicted) + 1) / 2)


def test_degenerate_input_gives_a_sentence_and_no_warning():
    truth, predicted, probabilities, groups = scored_patches(60)
    one = pd.Series(["p"] * 60, name="patient")
    three = pd.Series(np.arange(60) % 3, name="patient")
    zeros = np.zeros(60, int)
    alone = np.stack([truth, zeros - 1], 1)
    quadratic = {"weights": "quadratic"}
    accuracy = agreement.accuracy
    auroc = calibration.auroc_cut[0]
    cases = {
        "one patient only": (accuracy, (truth, predicted), one, {}),
        "no patch has score 0": (
            agreement.SCORED["recall 0"],
            (truth.clip(1), predicted),
            groups,
            {},
        ),
        "one and the same score": (kappa, (zeros, zeros), groups, quadratic),
        "all patients alike": (accuracy, (truth, truth), groups, {}),
        "all patches lie on one side": (auroc, (truth.clip(1), probabilities), groups, {}),
        "all patches have the same score": (
            calibration.auroc_macro,
            (zeros, probabilities),
            groups,
            {},
        ),
        "there are no patches": (accuracy, (truth[:0], truth[:0]), one[:0], {}),
        "no patch has two ratings": (fleiss, (alone,), groups, {}),
        "all ratings are one score": (krippendorff, (np.zeros((60, 3), int),), groups, {}),
        "one side is the same": (agreement.spearman, (zeros, truth), groups, {}),
        "only 3 patients": (accuracy, (truth, predicted), three, {}),
        "every resample gives this value": (kappa, (truth, truth), groups, quadratic),
    }
    estimates = {}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for sentence, (statistic, columns, ids, options) in cases.items():
            estimate = bootstrap(statistic, *columns, groups=ids, resamples=200, **options)
            assert sentence in estimate.note
            assert "nan" not in estimate.text()
            assert estimate.text().startswith("not estimable: ") == np.isnan(estimate.value)
            estimates[sentence] = estimate
    single = estimates["one patient only"].text()
    assert "no interval: there is one patient only" in single
    # 19 patients all right say no more than 19 tosses
    assert estimates["all patients alike"].low < 0.9


@pytest.mark.slow
@pytest.mark.parametrize("true", [0.6, 0.85])
@pytest.mark.parametrize(("skewed", "least"), [(False, 0.91), (True, 0.88)])
def test_intervals_of_19_patients_cover_what_they_promise(true, skewed, least):
    random = RNG(11)
    covered = {"cluster": [], "plain percentiles": [], "naive": []}
    for _ in range(2000):
        size, right = patients_that_go_together(random, true, skewed)
        group = pd.Series(np.repeat(np.arange(19), size), name="patient")
        wrong = [np.arange(s) >= k for s, k in zip(size, right, strict=True)]
        wrong = np.concatenate(wrong).astype(int)
        ours = bootstrap(agreement.accuracy, wrong * 0, wrong, groups=group, resamples=1000)
        covered["cluster"].append(ours.low <= true <= ours.high)
        drawn = intervals.resample_counts(19, 1000, 0)
        plain = np.quantile((drawn @ right) / (drawn @ size), [0.025, 0.975])
        covered["plain percentiles"].append(plain[0] <= true <= plain[1])
        alone = binomtest(int(right.sum()), int(size.sum())).proportion_ci(method="wilson")
        covered["naive"].append(alone.low <= true <= alone.high)
    coverage = {name: float(np.mean(hits)) for name, hits in covered.items()}
    print(f"true accuracy {true:.0%}, skewed patients {skewed}: coverage {coverage}")
    assert coverage["cluster"] >= least
    assert coverage["naive"] < coverage["cluster"] - 0.2


def patients_that_go_together(random, true, skewed):
    """((19,) patches, (19,) right ones) with a correlation of 0.3 within a patient."""
    size = np.full(19, 15)
    if skewed:
        weight = np.exp(random.normal(0, 1, 19))
        size = np.maximum(1, np.round(281 * weight / weight.sum())).astype(int)
    strength = 1 / 0.3 - 1  # beta-binomial
    return size, random.binomial(size, random.beta(true * strength, (1 - true) * strength, 19))
