"""Every metric against other libraries, the human range."""

import time

import numpy as np
import pandas as pd
import pytest
from scored_patches import RNG, scored_patches
from sklearn import metrics as sk
from statsmodels.stats.inter_rater import cohens_kappa

from her2lib.scores import CUTS, SCORES
from her2lib.stats import agreement
from her2lib.stats.agreement import gwet_ac1, gwet_ac2, kappa, krippendorff
from her2lib.stats.coefficients import WEIGHTS
from her2lib.stats.intervals import bootstrap

NAMES = ["P1", "P2", "P3", "good", "shuffled", "copy"]


def raters(n=281, patients=19, seed=3):
    """(ratings (N,6), groups): four who differ by one score at times, one shuffled, one copy."""
    random = RNG(seed)
    truth = random.integers(0, 4, n)
    noisy = []
    for q in (0.1, 0.2, 0.2, 0.3):
        steps = random.choice([-1, 0, 1], n, p=[q / 2, 1 - q, q / 2])
        noisy.append(np.clip(truth + steps, 0, 3))
    ratings = np.stack([*noisy, random.permutation(truth), noisy[0]], axis=1)
    return ratings, pd.Series(np.arange(n) % patients, name="patient")


# --- metrics ------------------------------------------------------------------------------------


@pytest.mark.parametrize("weights", WEIGHTS)
def test_kappa_equals_scikit_learn_and_statsmodels(weights):
    truth, predicted, *_ = scored_patches()
    ours = kappa(truth, predicted, weights=weights)
    kind = {"unweighted": None}.get(weights, weights)
    assert ours == pytest.approx(sk.cohen_kappa_score(truth, predicted, weights=kind), abs=1e-9)
    table = agreement.confusion_counts(truth, predicted)
    assert ours == pytest.approx(cohens_kappa(table, wt=kind, return_results=False), abs=1e-9)


def test_kappa_without_weights_is_refused_by_its_own_name():
    truth, predicted, _, groups = scored_patches()
    sentence = "^kappa needs weights=…: unweighted, linear or quadratic.$"
    with pytest.raises(TypeError, match=sentence):
        kappa(truth, predicted)
    with pytest.raises(TypeError, match=sentence):
        bootstrap(kappa, truth, predicted, groups=groups)
    with pytest.raises(ValueError, match="'square' is no weighting of kappa"):
        kappa(truth, predicted, weights="square")


def test_every_metric_equals_its_reference():
    truth, predicted, probabilities, groups = scored_patches()
    table = agreement.metrics(truth, probabilities, groups=groups, resamples=50)
    table = table.set_index("metric").value
    above = probabilities[:, ::-1].cumsum(1)[:, ::-1]
    both = np.stack([truth, predicted], 1)
    expected = {
        "accuracy": sk.accuracy_score(truth, predicted),
        "balanced accuracy": sk.balanced_accuracy_score(truth, predicted),
        "majority rate": np.bincount(truth).max() / len(truth),
        "mean absolute error": sk.mean_absolute_error(truth, predicted),
        "off-by-two rate": np.mean(abs(truth - predicted) >= 2),
        "Gwet AC1": gwet_ac1(both),
        "Gwet AC2 quadratic": gwet_ac2(both, weights="quadratic"),
        "Krippendorff alpha ordinal": krippendorff(both),
        "AUROC macro": sk.roc_auc_score(truth, probabilities, multi_class="ovr", average="macro"),
        "ranked probability score": np.mean((above[:, 1:] - (truth[:, None] >= [[1, 2, 3]])) ** 2),
    }
    for k, score in enumerate(SCORES):
        recall = sk.recall_score(truth, predicted, labels=[k], average="macro")
        expected[f"recall {score}"] = recall
    for weights in WEIGHTS:
        expected[f"kappa {weights}"] = kappa(truth, predicted, weights=weights)
    for k, cut in enumerate(CUTS):
        high = truth > k
        called_high = predicted > k
        expected[f"AUROC {cut}"] = sk.roc_auc_score(high, above[:, k + 1])
        expected[f"sensitivity {cut}"] = sk.recall_score(high, called_high)
        expected[f"specificity {cut}"] = sk.recall_score(~high, ~called_high)
        tenth = np.minimum(above[:, k + 1] * 10, 9).astype(int)
        bins = [(high[tenth == j], above[tenth == j, k + 1]) for j in np.unique(tenth)]
        error = sum(len(h) / len(truth) * abs(h.mean() - p.mean()) for h, p in bins)
        expected[f"ECE {cut}"] = error
    assert set(expected) == set(table.index)
    for metric, value in expected.items():
        assert table[metric] == pytest.approx(value, abs=1e-9), metric


def test_the_registries_name_every_score_and_cut_in_their_order():
    names = [*agreement.SCORED, *agreement.GRADED]
    assert [name for name in names if name.startswith("recall")] == [f"recall {s}" for s in SCORES]
    for metric in ("sensitivity", "specificity", "AUROC", "ECE"):
        cuts = [name for name in names if name.startswith(metric) and name != "AUROC macro"]
        assert cuts == [f"{metric} {cut}" for cut in CUTS]
    kappas = [name for name in names if name.startswith("kappa")]
    assert kappas == [f"kappa {weights}" for weights in WEIGHTS]


def test_a_score_nobody_used_and_ties_leave_the_other_metrics_alone():
    truth, _, probabilities, groups = scored_patches(60)
    probabilities[:20] = 0.25  # ties between all scores: the lowest is taken
    table = agreement.metrics(truth.clip(1), probabilities, groups=groups, resamples=200)
    table = table.set_index("metric")
    assert np.isnan(table.value["recall 0"])
    assert table.note["recall 0"] == "no patch has score 0"
    assert table.value.drop(["recall 0", "specificity 0|1+", "AUROC 0|1+"]).notna().all()
    right = ((truth < 2) & (probabilities.argmax(1) == 1)).sum()
    assert table.note["recall 1+"].startswith(f"{right} of {(truth < 2).sum()}")


def test_metrics_take_groups_of_any_sequence():
    truth, predicted, _, groups = scored_patches(60)
    truth[:5] = -1
    table = agreement.metrics(truth, predicted, groups=list(groups), resamples=20)
    named = agreement.metrics(truth, predicted, groups=groups, resamples=20)
    assert table[["value", "low", "high"]].equals(named[["value", "low", "high"]])
    assert set(table["sample"].str.split().str[-1]) == {"groups"}


# --- raters -------------------------------------------------------------------------------------


def test_kappa_matrix_equals_the_bootstrap_of_each_pair():
    ratings, groups = raters()
    ratings[::7, 1] = -1
    options = {"groups": groups, "resamples": 400, "weights": "quadratic"}
    values, low, high = agreement.kappa_matrix(ratings, **options)
    assert np.allclose(values, values.T)
    assert np.allclose(np.diag(values), 1)
    one = bootstrap(kappa, ratings[:, 0], ratings[:, 1], **options)
    numbers = values[0, 1], low[0, 1], high[0, 1]
    assert numbers == pytest.approx((one.value, one.low, one.high), abs=1e-12)
    both = ratings[:, 1] >= 0
    assert one.n == both.sum()
    reference = sk.cohen_kappa_score(*ratings[both][:, :2].T, weights="quadratic")
    assert values[0, 1] == pytest.approx(reference, abs=1e-9)


def test_ten_thousand_draws_of_six_by_six_kappas_take_half_a_second():
    ratings, groups = raters()
    options = {"groups": groups, "weights": "quadratic", "resamples": 10_000}
    times = []
    for seed in range(3):  # a new seed each time: no draw is remembered
        start = time.process_time()
        agreement.kappa_matrix(ratings, seed=seed, **options)
        times.append(time.process_time() - start)
    assert min(times) <= 0.5


def test_agreement_of_one_rater_is_refused():
    ratings, groups = raters()
    with pytest.raises(ValueError, match="two raters"):
        agreement.kappa_table(ratings[:, :1], ["P1"], groups=groups, weights="linear")


def test_a_table_of_no_patches_says_that_there_are_none():
    ratings = np.zeros((0, 2), int)
    table = agreement.kappa_table(ratings, ["P1", "P2"], groups=np.zeros(0), weights="quadratic")
    assert table.value.isna().all()
    assert table.note.tolist() == ["no patch has both ratings"]


def test_human_range_says_where_a_network_stands():
    ratings, groups = raters()
    networks = ["good", "shuffled"]
    table = agreement.human_range(ratings, NAMES, networks=networks, groups=groups)
    table = table.set_index("network")
    pairs = agreement.kappa_table(ratings, NAMES, groups=groups, weights="quadratic")
    pairs = pairs.set_index(["a", "b"]).value
    people = [pairs[a, b] for a, b in pairs.index if not {*networks} & {a, b}]
    assert (table.lowest["good"], table.highest["good"]) == (min(people), max(people))
    with_people = [pairs[k] for k in pairs.index if "shuffled" in k and "good" not in k]
    assert table.value["shuffled"] == pytest.approx(np.mean(with_people))
    assert table.verdict["shuffled"] == "below"
    assert f"{np.mean(with_people):.2f}" in table.sentence["shuffled"]
    alone = agreement.human_range(
        ratings[:, [0, 3]], ["P1", "good"], networks=["good"], groups=groups
    )
    assert "no two raters" in alone.sentence[0]
