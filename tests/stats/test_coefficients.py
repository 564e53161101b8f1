"""Fleiss, Gwet and Krippendorff against published worked examples and exact fractions."""

import re
from fractions import Fraction
from itertools import permutations

import numpy as np
import pytest
from statsmodels.stats.inter_rater import fleiss_kappa

from her2lib.stats import coefficients
from her2lib.stats.agreement import fleiss, gwet_ac1, gwet_ac2, krippendorff

# 30 patients, 6 psychiatrists, 5 diagnoses (Fleiss 1971, table 1): how many chose each diagnosis
FLEISS_1971 = re.findall(
    r"\d+",
    """00060 03003 01401 00006 03030 20400 00402 20310 20040 00006 10050 11040 03300 10050 02031
00501 30012 51000 02040 10203 00006 01050 02013 20040 10041 05010 40002 02040 10500 00006""",
)
# 12 units, 4 observers, 5 values, some missing (Krippendorff 2011; the same data in Gwet 2014,
# table 2.9)
KRIPPENDORFF_2011 = ["123321412...", "1233224125.3", ".3332342251.", "12332441251."]


def fleiss_ratings():
    counts = np.array([[int(c) for c in row] for row in FLEISS_1971])
    return counts, np.array([np.repeat(np.arange(5), row) for row in counts])


def four_observers():
    lines = [line.replace(".", "0") for line in KRIPPENDORFF_2011]
    return np.array([[int(c) - 1 for c in line] for line in lines]).T


def agreement_of_two(i, j, weights, q):
    """Fraction, how much two scores agree under the named weighting."""
    if weights == "unweighted":
        return Fraction(int(i == j))
    if weights == "linear":
        return 1 - Fraction(abs(i - j), q - 1)
    return 1 - Fraction((i - j) ** 2, (q - 1) ** 2)


def gwet_by_hand(ratings, weights, q=5):
    """AC2 in exact fractions, written from Gwet 2014 chapter 5 with loops."""
    rows = [[int(r) for r in row if r >= 0] for row in ratings]
    rows = [row for row in rows if row]
    several = [row for row in rows if len(row) > 1]
    observed = Fraction(0)
    for row in several:
        total = sum(agreement_of_two(a, b, weights, q) for a, b in permutations(row, 2))
        observed += total / (len(row) * (len(row) - 1) * len(several))
    fractions = [
        sum(Fraction(row.count(k), len(row)) for row in rows) / len(rows) for k in range(q)
    ]
    total = sum(agreement_of_two(i, i, weights, q) for i in range(q))
    total += sum(agreement_of_two(i, j, weights, q) for i, j in permutations(range(q), 2))
    chance = total / (q * (q - 1)) * sum(p * (1 - p) for p in fractions)
    return float((observed - chance) / (1 - chance))


def test_fleiss_1971():
    counts, ratings = fleiss_ratings()
    assert counts.sum(1).tolist() == [6] * 30
    assert counts.sum(0).tolist() == [26, 26, 30, 55, 43]  # the totals that Fleiss prints
    value = fleiss(ratings, scores=range(5))
    assert round(value, 3) == 0.430
    assert value == pytest.approx(fleiss_kappa(counts), abs=1e-9)


def test_gwet_and_krippendorff_worked_examples():
    ratings = four_observers()
    assert round(gwet_ac1(ratings, scores=range(5)), 5) == 0.77544  # Gwet 2014
    assert round(fleiss(ratings, scores=range(5)), 5) == 0.76117
    levels = ("nominal", "ordinal", "interval")
    alphas = [round(krippendorff(ratings, scores=range(5), level=level), 3) for level in levels]
    assert alphas == [0.743, 0.815, 0.849]  # Krippendorff 2011
    nominal = krippendorff(ratings, scores=range(5), level="nominal")
    assert nominal == pytest.approx(113 / 152, abs=1e-9)  # 1 - 39 * 8 / 1216


@pytest.mark.parametrize("weights", coefficients.WEIGHTS)
def test_gwet_equals_exact_fractions(weights):
    ratings = four_observers()
    value = gwet_ac2(ratings, scores=range(5), weights=weights)
    assert value == pytest.approx(gwet_by_hand(ratings, weights), abs=1e-9)
    assert gwet_ac2(ratings, scores=range(5)) == gwet_ac2(
        ratings, scores=range(5), weights="quadratic"
    )


def test_the_fractions_of_a_confusion_matrix_by_hand():
    confusion = np.array([[4, 1, 0, 0], [0, 3, 1, 0], [0, 2, 6, 0], [0, 0, 1, 2]])
    assert coefficients.fraction_right(confusion) == 15 / 20
    assert coefficients.majority_rate(confusion) == 8 / 20
    assert coefficients.recall(confusion, 2) == 6 / 8
    assert coefficients.mean_recall(confusion) == pytest.approx((4 / 5 + 3 / 4 + 6 / 8 + 2 / 3) / 4)
    assert coefficients.sensitivity(confusion, 1) == 9 / 11  # 2+ or 3+ called 2+ or 3+
    assert coefficients.specificity(confusion, 1) == 8 / 9
    assert coefficients.off_by_two_rate(confusion) == 0
    assert coefficients.mean_absolute_error(confusion) == 5 / 20
    many = np.stack([confusion, 2 * confusion])
    assert coefficients.recall(many, 2).tolist() == [6 / 8, 6 / 8]
