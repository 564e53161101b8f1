"""Paired differences: McNemar, permutation by patients, Holm, seeds, change between sets."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binomtest
from scored_patches import RNG, scored_patches
from statsmodels.stats.multitest import multipletests

from her2lib.stats import agreement, compare


def test_mcnemar_permutation_and_holm():
    truth, _, _, groups = scored_patches(200)
    a = np.where(RNG(1).random(200) < 0.9, truth, (truth + 1) % 4)
    b = np.where(RNG(2).random(200) < 0.5, truth, (truth + 1) % 4)
    scored = {"a": a, "b": b, "again": a}
    table = compare.compare_all(truth, scored, groups=groups, resamples=2000)
    first = table[(table.a == "a") & (table.b == "b")].set_index("metric")
    only_a = int(((a == truth) & (b != truth)).sum())
    only_b = int(((b == truth) & (a != truth)).sum())
    exact = binomtest(only_b, only_a + only_b).pvalue
    assert first.p["McNemar"] == pytest.approx(exact, abs=1e-9)
    difference = np.mean(a == truth) - np.mean(b == truth)
    assert first.value["accuracy difference"] == pytest.approx(difference)
    assert first.p["accuracy difference"] <= 1 / 1999
    assert first.low["kappa quadratic difference"] > 0
    same = table[(table.a == "a") & (table.b == "again")].set_index("metric")
    assert same.p.tolist() == [1, 1, 1]
    for _, group in table.groupby("metric"):
        holm = multipletests(group.p, method="holm")[1].tolist()
        assert group.p_holm.tolist() == pytest.approx(holm)
    scored = {"a": a, "b": b}
    against = compare.compare_all(truth, scored, groups=groups, against="b", resamples=99)
    assert set(against.b) == {"b"}


def test_permutation_of_few_patients_is_exhaustive_and_worked_out_by_hand():
    truth = np.zeros(9, int)
    a = np.zeros(9, int)
    b = np.ones(9, int)  # a right everywhere, b nowhere, three patients
    groups = pd.Series(list("xxxyyyzzz"), name="patient")
    p, how = compare.permutation_test(agreement.accuracy, truth, a, b, groups=groups)
    assert (p, how) == (2 / 8, "all 8 swaps of 3 patients")


def test_permutation_holds_its_level_where_patches_of_a_patient_go_together():
    random = RNG(0)
    hits = []
    patient = np.repeat(np.arange(12), 10)
    truth = np.zeros(120, int)
    groups = pd.Series(patient, name="patient")
    for _ in range(200):
        # whole patients right or wrong
        a, b = ((random.random(12)[patient] > 0.5).astype(int) for _ in range(2))
        p, _ = compare.permutation_test(
            agreement.accuracy, truth, a, b, groups=groups, resamples=400
        )
        hits.append(p <= 0.05)
    assert np.mean(hits) <= 0.09


def test_seeds_on_both_sides_are_compared_by_their_mean():
    truth, _, _, groups = scored_patches(150)
    a = [np.where(RNG(s).random(150) < 0.9, truth, 3 - truth) for s in range(3)]
    b = [np.where(RNG(s + 9).random(150) < 0.6, truth, 3 - truth) for s in range(3)]
    table = compare.compare(truth, a, b, groups=groups, resamples=500).set_index("metric")
    means = [np.mean([np.mean(run == truth) for run in seeds]) for seeds in (a, b)]
    assert table.value["accuracy difference"] == pytest.approx(means[0] - means[1])
    assert table.p["accuracy difference"] < 0.05
    assert "McNemar" not in table.index
    with pytest.raises(ValueError, match="equally many seeds"):
        compare.compare(truth, a, b[:2], groups=groups)


def test_shift_between_sets():
    truth, predicted, _, groups = scored_patches(200)
    worse = np.where(truth == 3, 2, predicted)
    sets = {"val": (truth, predicted, groups), "external": (truth, worse, groups)}
    table = compare.domain_shift(sets).set_index(["set", "score"])
    assert table.value["external", "3+"] == 0
    assert table.change["external", "3+"] == -table.value["val", "3+"]
    assert table.change_high["external", "3+"] < 0
    assert table.change["external", "0"] == 0
    assert table.groupby("set").share.sum().tolist() == pytest.approx([1, 1])
