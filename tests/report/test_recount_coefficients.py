"""Fleiss, Gwet and Krippendorff reading by reading: against hand, irrCAC's answers, the library."""

import numpy as np
import pytest

from her2lib.report.recount_coefficients import recount_coefficient
from her2lib.stats import agreement

# two readings of ten patches, 1+ to 3+
TEN_PATCHES = [(1, 1)] * 3 + [(2, 2)] * 2 + [(3, 3)] * 2 + [(1, 2), (2, 3), (1, 3)]
FIRST_TIME = {
    "Fleiss kappa": agreement.fleiss,
    "Gwet AC1": agreement.gwet_ac1,
    "Gwet AC2 (quadratic)": agreement.gwet_ac2,
    "Krippendorff alpha (ordinal)": agreement.krippendorff,
}


def test_gwet_hangs_on_the_number_of_scores_and_the_others_do_not():
    ratings = np.array(TEN_PATCHES)
    answered_by_irrcac = {  # 0.4.4, over [1, 2, 3] and over [0, 1, 2, 3]
        "Gwet AC1": (0.55224, 0.61538),
        "Gwet AC2 quadratic": (0.55882, 0.81707),
    }
    for metric, (of_three, of_four) in answered_by_irrcac.items():
        for scores, expected in (((1, 2, 3), of_three), ((0, 1, 2, 3), of_four)):
            value, n = recount_coefficient(metric, ratings, scores)
            assert value == pytest.approx(expected, abs=1e-5)
            assert n == 10
    # 7 of 10 agree; by chance 0.4, 0.3, 0.3 squared
    for scores in ((1, 2, 3), (0, 1, 2, 3)):
        value, _ = recount_coefficient("Fleiss kappa", ratings, scores)
        assert value == pytest.approx((0.7 - 0.34) / (1 - 0.34))


@pytest.mark.parametrize("scores", [(0, 1, 2, 3), (1, 2, 3), (0, 2, 3), (0, 3)])
def test_with_readings_missing_they_are_those_of_the_library(scores):
    for seed in range(5):
        random = np.random.default_rng(seed)
        ratings = random.choice(scores, (30, 4))
        ratings[random.random((30, 4)) < 0.4] = -1
        n_patches = ((ratings >= 0).sum(1) > 1).sum()
        for metric, statistic in FIRST_TIME.items():
            value, n = recount_coefficient(metric, ratings, scores)
            assert value == pytest.approx(statistic(ratings, scores=scores))
            assert n == n_patches


def test_what_is_not_defined_is_no_number():
    one_score = np.full((4, 2), 2)
    read_once = np.array([[1, -1], [-1, 2]])
    for metric, statistic in FIRST_TIME.items():
        value, n = recount_coefficient(metric, read_once, range(4))
        assert np.isnan(value)
        assert n == 0
        value, n = recount_coefficient(metric, one_score, range(4))
        assert value == pytest.approx(statistic(one_score), nan_ok=True)
        assert n == 4
