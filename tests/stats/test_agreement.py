"""Agreement, intervals and calibration against published examples, other libraries, exact fractions and simulation."""

import math
import re
import time
import warnings
from fractions import Fraction

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binomtest, norm, t
from sklearn import metrics as sk
from statsmodels.stats.inter_rater import cohens_kappa, fleiss_kappa
from statsmodels.stats.multitest import multipletests

from her2lib.scores import CUTS, SCORES
from her2lib.stats import agreement, calibration, compare, intervals
from her2lib.stats.agreement import fleiss, gwet_ac1, gwet_ac2, kappa, krippendorff
from her2lib.stats.intervals import Estimate, bootstrap, resampling_groups

# 30 patients, 6 psychiatrists, 5 diagnoses (Fleiss 1971, table 1): how many chose each diagnosis
FLEISS_1971 = re.findall(
    r"\d+",
    """00060 03003 01401 00006 03030 20400 00402 20310 20040 00006 10050 11040 03300 10050 02031
00501 30012 51000 02040 10203 00006 01050 02013 20040 10041 05010 40002 02040 10500 00006""",
)
# 12 groups, 4 observers, 5 values, some missing (Krippendorff 2011; the same data in Gwet 2014,
# table 2.9)
KRIPPENDORFF_2011 = ["123321412...", "1233224125.3", ".3332342251.", "12332441251."]
RNG = np.random.default_rng


def fleiss_ratings():
    counts = np.array([[int(c) for c in row] for row in FLEISS_1971])
    return counts, np.array([np.repeat(np.arange(5), row) for row in counts])


def four_observers():
    return np.array([[-1 if c == "." else int(c) - 1 for c in row] for row in KRIPPENDORFF_2011]).T


def made(n=300, seed=0, right=0.6, groups=19):
    random = RNG(seed)
    truth = random.integers(0, 4, n)
    predicted = np.where(random.random(n) < right, truth, random.integers(0, 4, n))
    odds = random.dirichlet(np.ones(4), n) + 0.7 * np.eye(4)[predicted]
    odds /= odds.sum(1, keepdims=True)
    return truth, odds.argmax(1), odds, pd.Series(random.integers(0, groups, n), name="patient")


def gwet_by_hand(ratings, weights, q=5):
    """AC2 in exact fractions, written from Gwet 2014 chapter 5 with loops."""
    near = {
        "unweighted": lambda i, j: Fraction(int(i == j)),
        "linear": lambda i, j: 1 - Fraction(abs(i - j), q - 1),
        "quadratic": lambda i, j: 1 - Fraction((i - j) ** 2, (q - 1) ** 2),
    }[weights]
    groups = [[int(r) for r in row if r >= 0] for row in ratings]
    groups = [row for row in groups if row]
    several = [row for row in groups if len(row) > 1]
    both = [
        (row, sum(near(a, b) for i, a in enumerate(row) for j, b in enumerate(row) if i != j))
        for row in several
    ]
    agreed = sum(Fraction(near_pairs, len(row) * (len(row) - 1)) for row, near_pairs in both) / len(
        several
    )
    share = [
        sum(Fraction(row.count(k), len(row)) for row in groups) / len(groups) for k in range(q)
    ]
    total = sum(near(i, j) for i in range(q) for j in range(q))
    chance = total / (q * (q - 1)) * sum(p * (1 - p) for p in share)
    return float((agreed - chance) / (1 - chance))


def test_fleiss_1971():
    counts, ratings = fleiss_ratings()
    assert counts.sum(1).tolist() == [6] * 30
    assert counts.sum(0).tolist() == [26, 26, 30, 55, 43]  # the totals that Fleiss prints
    value = fleiss(ratings, scores=5)
    assert round(value, 3) == 0.430
    assert value == pytest.approx(fleiss_kappa(counts), abs=1e-9)


def test_gwet_and_krippendorff_worked_examples():
    ratings = four_observers()
    assert round(gwet_ac1(ratings, scores=5), 5) == 0.77544  # Gwet 2014
    assert round(fleiss(ratings, scores=5), 5) == 0.76117
    assert [
        round(krippendorff(ratings, scores=5, level=level), 3)
        for level in ("nominal", "ordinal", "interval")
    ] == [0.743, 0.815, 0.849]  # Krippendorff 2011
    assert krippendorff(ratings, scores=5, level="nominal") == pytest.approx(
        113 / 152, abs=1e-9
    )  # 1 - 39 * 8 / 1216


@pytest.mark.parametrize("weights", agreement.WEIGHTS)
def test_gwet_equals_exact_fractions(weights):
    ratings = four_observers()
    assert gwet_ac2(ratings, scores=5, weights=weights) == pytest.approx(
        gwet_by_hand(ratings, weights), abs=1e-9
    )
    assert gwet_ac2(ratings, scores=5) == gwet_ac2(ratings, scores=5, weights="quadratic")


@pytest.mark.parametrize("weights", agreement.WEIGHTS)
def test_kappa_equals_scikit_learn_and_statsmodels(weights):
    truth, predicted, *_ = made()
    ours = kappa(truth, predicted, weights=weights)
    kind = None if weights == "unweighted" else weights
    assert ours == pytest.approx(sk.cohen_kappa_score(truth, predicted, weights=kind), abs=1e-9)
    assert ours == pytest.approx(
        cohens_kappa(agreement.confusion_counts(truth, predicted), wt=kind, return_results=False),
        abs=1e-9,
    )


def test_every_metric_equals_its_reference():
    truth, predicted, odds, groups = made()
    table = agreement.metrics(truth, odds, groups=groups, resamples=50).set_index("metric").value
    above = odds[:, ::-1].cumsum(1)[:, ::-1]
    wanted = {
        "accuracy": sk.accuracy_score(truth, predicted),
        "balanced accuracy": sk.balanced_accuracy_score(truth, predicted),
        "majority rate": np.bincount(truth).max() / len(truth),
        "mean absolute error": sk.mean_absolute_error(truth, predicted),
        "off-by-two rate": np.mean(abs(truth - predicted) >= 2),
        "Gwet AC1": gwet_ac1(np.stack([truth, predicted], 1)),
        "Gwet AC2 quadratic": gwet_ac2(np.stack([truth, predicted], 1), weights="quadratic"),
        "Krippendorff alpha ordinal": krippendorff(np.stack([truth, predicted], 1)),
        "AUROC macro": sk.roc_auc_score(truth, odds, multi_class="ovr", average="macro"),
        "ranked probability score": np.mean((above[:, 1:] - (truth[:, None] >= [[1, 2, 3]])) ** 2),
        **{
            f"recall {s}": sk.recall_score(truth, predicted, labels=[k], average="macro")
            for k, s in enumerate(SCORES)
        },
        **{f"kappa {w}": kappa(truth, predicted, weights=w) for w in agreement.WEIGHTS},
    }
    for k, cut in enumerate(CUTS):
        high, said = truth > k, predicted > k
        wanted |= {
            f"AUROC {cut}": sk.roc_auc_score(high, above[:, k + 1]),
            f"sensitivity {cut}": sk.recall_score(high, said),
            f"specificity {cut}": sk.recall_score(~high, ~said),
        }
        tenth = np.minimum(above[:, k + 1] * 10, 9).astype(int)
        bins = [(high[tenth == j], above[tenth == j, k + 1]) for j in np.unique(tenth)]
        wanted[f"ECE {cut}"] = sum(len(h) / len(truth) * abs(h.mean() - p.mean()) for h, p in bins)
    assert set(wanted) == set(table.index)
    for metric, value in wanted.items():
        assert table[metric] == pytest.approx(value, abs=1e-9), metric


def test_auroc_shares_ties_as_scikit_learn_does_in_every_resample():
    truth, _, odds, groups = made(80)
    odds = np.round(odds, 1)
    drawn, index = (
        intervals.resample_counts(19, 20, 0)[:, : groups.nunique()],
        intervals.group_index(groups)[0],
    )
    ours = calibration.auroc_cut[1].draws(drawn, index, truth, odds)
    for row, value in zip(drawn, ours, strict=True):
        take = np.repeat(np.arange(80), row[index].astype(int))
        assert value == pytest.approx(
            sk.roc_auc_score(truth[take] > 1, calibration.at_least(odds)[take, 1]), abs=1e-9
        )


def test_the_fast_bootstrap_equals_the_plain_one():
    truth, predicted, odds, groups = made(120)
    for fast, plain in (
        (
            bootstrap(agreement.accuracy, truth, predicted, groups=groups, resamples=300),
            bootstrap(lambda t, p: np.mean(t == p), truth, predicted, groups=groups, resamples=300),
        ),
        (
            bootstrap(kappa, truth, predicted, groups=groups, resamples=300, weights="quadratic"),
            bootstrap(
                lambda t, p: kappa(t, p, weights="quadratic"),
                truth,
                predicted,
                groups=groups,
                resamples=300,
            ),
        ),
        (
            bootstrap(calibration.auroc_macro, truth, odds, groups=groups, resamples=100),
            bootstrap(
                lambda t, p: sk.roc_auc_score(t, p, multi_class="ovr"),
                truth,
                odds,
                groups=groups,
                resamples=100,
            ),
        ),
        (
            bootstrap(fleiss, np.stack([truth, predicted], 1), groups=groups, resamples=100),
            bootstrap(
                lambda r: fleiss(r), np.stack([truth, predicted], 1), groups=groups, resamples=100
            ),
        ),
    ):
        assert (fast.value, fast.low, fast.high) == pytest.approx(
            (plain.value, plain.low, plain.high), abs=1e-9
        )
        assert (fast.n, fast.groups) == (plain.n, plain.groups) == (120, "patches of 19 patients")


def test_the_interval_is_the_percentiles_of_the_draws_widened_for_few_and_uneven_patients():
    reach = norm.ppf(intervals.interval_quantiles(np.full(19, 15))[1])
    assert reach == pytest.approx(t.ppf(0.975, 18) * math.sqrt(19 / 18), abs=1e-9)
    assert intervals.interval_quantiles([4, 4, 4, 0]) == pytest.approx(
        intervals.interval_quantiles([7, 7, 7]), abs=1e-12
    )  # an empty patient is none
    assert (
        intervals.interval_quantiles([30, 1, 1, 1])[0]
        < intervals.interval_quantiles([8, 8, 8, 9])[0]
        < 0.025
    )
    truth, predicted, _, groups = made(200)
    found = bootstrap(agreement.accuracy, truth, predicted, groups=groups, resamples=500, seed=4)
    right = pd.Series(truth == predicted).groupby(groups.astype(str))
    drawn = RNG(4).multinomial(19, np.full(19, 1 / 19), size=500)
    shares = (drawn @ right.sum()) / (drawn @ right.size())
    assert (found.low, found.high) == pytest.approx(
        tuple(np.quantile(shares, intervals.interval_quantiles(right.size()))), abs=1e-12
    )


def test_text_of_shares_and_kappas():
    groups = "patches of 51 slides"
    assert (
        Estimate(0.8608, 0.8204, 0.899, 977, groups, as_percent=True).text()
        == "86.1 % (82.0 to 89.9; n = 977 patches of 51 slides)"
    )
    assert (
        Estimate(0.36, -0.004, 0.51, 281, groups).text()
        == "0.36 (0.00 to 0.51; n = 281 patches of 51 slides)"
    )
    none = Estimate(math.nan, math.nan, math.nan, 0, "patches", "no patch has score 0")
    assert none.text() == "not estimable: no patch has score 0"


def test_units_fall_back_from_patient_to_slide_to_patch_with_a_warning():
    names = ["a", "b", "c"]
    ids, word, warning = resampling_groups(["p", "p", "q"], ["s", "t", "u"], names)
    assert (list(ids), ids.name, word, warning) == (["p", "p", "q"], "patients", "patients", "")
    ids, word, warning = resampling_groups(["p", "", "q"], ["s", "s", "u"], names)
    assert (list(ids), word) == (["s", "s", "u"], "slides")
    assert "unknown for 1 of 3" in warning
    ids, word, warning = resampling_groups(None, ["s", None, "u"], names)
    assert (list(ids), word) == (names, "patches")
    assert "as if they were independent" in warning
    assert "slide for 1" in warning


def test_patches_of_their_own_get_a_wilson_interval():
    truth, predicted, *_ = made(100)
    found = bootstrap(
        agreement.accuracy,
        truth,
        predicted,
        groups=pd.Series(range(100), name="patch"),
        resamples=50,
    )
    exact = binomtest(int((truth == predicted).sum()), 100).proportion_ci(method="wilson")
    assert (found.low, found.high) == pytest.approx((exact.low, exact.high), abs=1e-9)
    assert found.sample == "patches"


def test_several_seeds_are_averaged_and_widen_the_interval():
    truth, _, _, groups = made(200)
    seeds = [
        np.where(RNG(s).random(200) < share, truth, (truth + 1) % 4)
        for s, share in enumerate((0.4, 0.6, 0.8))
    ]
    one = agreement.metrics(truth, seeds[1], groups=groups).set_index("metric").loc["accuracy"]
    many = agreement.metrics(truth, seeds, groups=groups).set_index("metric").loc["accuracy"]
    assert many.value == pytest.approx(np.mean([np.mean(truth == s) for s in seeds]))
    assert many.high - many.low > 1.5 * (one.high - one.low)


def test_degenerate_input_gives_a_sentence_and_no_warning():
    truth, predicted, odds, groups = made(60)
    one = pd.Series(["p"] * 60, name="patient")
    cases = {
        "one patient only": bootstrap(agreement.accuracy, truth, predicted, groups=one),
        "no patch has score 0": bootstrap(
            agreement.SCORED["recall 0"], truth.clip(1), predicted, groups=groups
        ),
        "one and the same score": bootstrap(
            kappa, truth * 0, truth * 0, groups=groups, weights="linear"
        ),
        "all patients alike": bootstrap(agreement.accuracy, truth, truth, groups=groups),
        "all patches lie on one side": bootstrap(
            calibration.auroc_cut[0], truth.clip(1), odds, groups=groups
        ),
        "all patches have the same score": bootstrap(
            calibration.auroc_macro, truth * 0, odds, groups=groups
        ),
        "there are no patches": bootstrap(agreement.accuracy, truth[:0], truth[:0], groups=one[:0]),
        "no patch has two ratings": bootstrap(
            fleiss, np.stack([truth, truth * 0 - 1], 1), groups=groups
        ),
        "all ratings are one score": bootstrap(krippendorff, np.zeros((60, 3), int), groups=groups),
        "one side is the same": bootstrap(
            agreement.spearman, truth * 0, truth, groups=groups, resamples=20
        ),
        "only 3 patients": bootstrap(
            agreement.accuracy,
            truth,
            predicted,
            groups=pd.Series(np.arange(60) % 3, name="patient"),
        ),
        "every resample gives this value": bootstrap(
            kappa, truth, truth, groups=groups, weights="quadratic"
        ),
    }
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for sentence, found in cases.items():
            assert sentence in found.note
            assert "nan" not in found.text()
            assert found.text().startswith("not estimable: ") == np.isnan(found.value)
    assert "no interval: there is one patient only" in cases["one patient only"].text()
    assert cases["all patients alike"].low < 0.9  # 19 patients all right say no more than 19 tosses
    with pytest.raises(ValueError, match="two raters"):
        agreement.kappa_table(truth[:, None], ["P1"], groups=groups, weights="linear")


def test_a_score_nobody_used_and_ties_leave_the_other_metrics_alone():
    truth, _, odds, groups = made(60)
    odds[:20] = 0.25  # ties between all scores: the lowest is taken
    table = agreement.metrics(truth.clip(1), odds, groups=groups, resamples=200).set_index("metric")
    assert np.isnan(table.value["recall 0"])
    assert table.note["recall 0"] == "no patch has score 0"
    assert table.value.drop(["recall 0", "specificity 0|1+", "AUROC 0|1+"]).notna().all()
    right = ((truth < 2) & (odds.argmax(1) == 1)).sum()
    assert table.note["recall 1+"].startswith(f"{right} of {(truth < 2).sum()}")


def raters(n=281, patients=19, seed=3):
    random = RNG(seed)
    truth = random.integers(0, 4, n)
    noise = [
        np.clip(truth + random.choice([-1, 0, 1], n, p=[q / 2, 1 - q, q / 2]), 0, 3)
        for q in (0.1, 0.2, 0.2, 0.3)
    ]
    return np.stack([*noise, random.permutation(truth), noise[0]], axis=1), pd.Series(
        np.arange(n) % patients, name="patient"
    )


NAMES = ["P1", "P2", "P3", "good", "shuffled", "copy"]


def test_kappa_matrix_equals_the_bootstrap_of_each_pair():
    ratings, groups = raters()
    ratings[::7, 1] = -1
    values, low, high = agreement.kappa_matrix(
        ratings, groups=groups, weights="quadratic", resamples=400, seed=0
    )
    assert np.allclose(values, values.T)
    assert np.allclose(np.diag(values), 1)
    one = bootstrap(
        kappa, ratings[:, 0], ratings[:, 1], groups=groups, resamples=400, weights="quadratic"
    )
    assert (values[0, 1], low[0, 1], high[0, 1]) == pytest.approx(
        (one.value, one.low, one.high), abs=1e-12
    )
    both = ratings[:, 1] >= 0
    assert one.n == both.sum()
    assert values[0, 1] == pytest.approx(
        sk.cohen_kappa_score(*ratings[both][:, :2].T, weights="quadratic"), abs=1e-9
    )


def test_ten_thousand_draws_of_six_by_six_kappas_take_half_a_second():
    ratings, groups = raters()
    times = []
    for seed in range(3):  # a new seed each time: no draw is remembered
        start = time.process_time()
        agreement.kappa_matrix(
            ratings, groups=groups, weights="quadratic", resamples=10_000, seed=seed
        )
        times.append(time.process_time() - start)
    assert min(times) <= 0.5


def test_human_range_says_where_a_network_stands():
    ratings, groups = raters()
    table = agreement.human_range(
        ratings, NAMES, networks=["good", "shuffled"], groups=groups
    ).set_index("network")
    pairs = (
        agreement.kappa_table(ratings, NAMES, groups=groups, weights="quadratic")
        .set_index(["a", "b"])
        .value
    )
    people = [pairs[a, b] for a, b in pairs.index if not {"good", "shuffled"} & {a, b}]
    assert (table.lowest["good"], table.highest["good"]) == (min(people), max(people))
    own = np.mean([pairs[k] for k in pairs.index if "shuffled" in k and "good" not in k])
    assert table.value["shuffled"] == pytest.approx(own)
    assert table.verdict["shuffled"] == "below"
    assert f"{own:.2f}" in table.sentence["shuffled"]
    alone = agreement.human_range(
        ratings[:, [0, 3]], ["P1", "good"], networks=["good"], groups=groups
    )
    assert "no two raters" in alone.sentence[0]


def test_mcnemar_permutation_and_holm():
    truth, _, _, groups = made(200)
    a = np.where(RNG(1).random(200) < 0.9, truth, (truth + 1) % 4)
    b = np.where(RNG(2).random(200) < 0.5, truth, (truth + 1) % 4)
    table = compare.compare_all(truth, {"a": a, "b": b, "again": a}, groups=groups, resamples=2000)
    first = table[(table.a == "a") & (table.b == "b")].set_index("metric")
    only_a, only_b = (
        int(((a == truth) & (b != truth)).sum()),
        int(((b == truth) & (a != truth)).sum()),
    )
    assert first.p["McNemar"] == pytest.approx(binomtest(only_b, only_a + only_b).pvalue, abs=1e-9)
    assert first.value["accuracy difference"] == pytest.approx(
        np.mean(a == truth) - np.mean(b == truth)
    )
    assert first.p["accuracy difference"] <= 1 / 1999
    assert first.low["kappa quadratic difference"] > 0
    same = table[(table.a == "a") & (table.b == "again")].set_index("metric")
    assert same.p.tolist() == [1, 1, 1]
    for _, group in table.groupby("metric"):
        assert group.p_holm.tolist() == pytest.approx(
            multipletests(group.p, method="holm")[1].tolist()
        )
    assert set(
        compare.compare_all(truth, {"a": a, "b": b}, groups=groups, against="b", resamples=99).b
    ) == {"b"}


def test_permutation_of_few_patients_is_exhaustive_and_worked_out_by_hand():
    truth = np.zeros(9, int)
    a, b = np.zeros(9, int), np.ones(9, int)  # a right everywhere, b nowhere, three patients
    p, done = compare.permutation_test(
        agreement.accuracy, truth, a, b, groups=pd.Series(list("xxxyyyzzz"), name="patient")
    )
    assert (p, done) == (2 / 8, "all 8 swaps of 3 patients")


def test_permutation_holds_its_level_where_patches_of_a_patient_go_together():
    random, hits = RNG(0), []
    for _ in range(200):
        group = np.repeat(np.arange(12), 10)
        truth = np.zeros(120, int)
        a, b = (
            (random.random(12)[group] > 0.5).astype(int) for _ in range(2)
        )  # whole patients right or wrong
        p, _ = compare.permutation_test(
            agreement.accuracy, truth, a, b, groups=pd.Series(group, name="patient"), resamples=400
        )
        hits.append(p <= 0.05)
    assert np.mean(hits) <= 0.09


def test_seeds_on_both_sides_are_compared_by_their_mean():
    truth, _, _, groups = made(150)
    a, b = (
        [np.where(RNG(s + k).random(150) < share, truth, 3 - truth) for s in range(3)]
        for k, share in ((0, 0.9), (9, 0.6))
    )
    table = compare.compare(truth, a, b, groups=groups, resamples=500).set_index("metric")
    means = [np.mean([np.mean(one == truth) for one in seeds]) for seeds in (a, b)]
    assert table.value["accuracy difference"] == pytest.approx(means[0] - means[1])
    assert table.p["accuracy difference"] < 0.05
    assert "McNemar" not in table.index
    with pytest.raises(ValueError, match="equally many seeds"):
        compare.compare(truth, a, b[:2], groups=groups)


def test_shift_between_sets():
    truth, predicted, _, groups = made(200)
    worse = np.where(truth == 3, 2, predicted)
    table = compare.domain_shift(
        {"val": (truth, predicted, groups), "external": (truth, worse, groups)}
    ).set_index(["set", "score"])
    assert table.value["external", "3+"] == 0
    assert table.change["external", "3+"] == -table.value["val", "3+"]
    assert table.change_high["external", "3+"] < 0
    assert table.change["external", "0"] == 0
    assert table.groupby("set").share.sum().tolist() == pytest.approx([1, 1])


def test_temperature_finds_the_one_that_was_put_in_and_keeps_the_scores():
    random = RNG(5)
    honest = random.dirichlet(np.ones(4), 6000)
    truth = np.array([random.choice(4, p=p) for p in honest])
    sure = calibration.apply_temperature(honest, 1 / 2.5)
    found = calibration.fit_temperature(truth, sure)
    assert found == pytest.approx(2.5, rel=0.06)
    assert (calibration.apply_temperature(sure, found).argmax(1) == sure.argmax(1)).all()
    error = calibration.calibration_error[1]
    assert error(truth, calibration.apply_temperature(sure, found)) < 0.3 * error(truth, sure)


def test_prior_correction_by_hand_and_by_em():
    shifted, _ = calibration.prior_corrected(
        np.array([[0.5, 0.5, 0, 0]]), trained=[1, 1, 1, 1], target=[3, 1, 0, 0]
    )
    assert shifted[0].tolist() == pytest.approx([0.75, 0.25, 0, 0])
    random = RNG(0)
    truth = random.choice(4, 8000, p=[0.1, 0.1, 0.2, 0.6])
    seen = truth + random.normal(0, 0.6, 8000)
    like = np.exp(-((seen[:, None] - np.arange(4)) ** 2) / 0.72)
    _, share = calibration.prior_corrected(like / like.sum(1, keepdims=True), trained=np.ones(4))
    assert share == pytest.approx([0.1, 0.1, 0.2, 0.6], abs=0.03)


def test_reliability_and_risk_coverage_tables():
    truth, predicted, odds, groups = made(400)
    table = calibration.reliability_table(truth, odds, groups=groups, resamples=200)
    assert table.groupby("cut").n.sum().tolist() == [400] * 3
    for cut, rows in table.groupby("cut"):
        gap = (rows.n * (rows.forecast - rows.observed).abs()).sum() / 400
        assert gap == pytest.approx(calibration.calibration_error[CUTS.index(cut)](truth, odds))
    curve = calibration.risk_coverage_table(truth, odds, groups=groups, resamples=200)
    last = curve.iloc[-1]
    assert (last.coverage, last["sent on"], last.error) == (
        1,
        0,
        pytest.approx(np.mean(truth != predicted)),
    )
    assert (curve.coverage.diff().dropna() > 0).all()
    half = curve.iloc[len(curve) // 2]
    kept = odds.max(1) >= half.threshold
    assert half.error == pytest.approx(np.mean((truth != predicted)[kept]))
    assert half.n == kept.sum()
    assert (curve.error_low <= curve.error).all()


@pytest.mark.slow
def test_intervals_of_19_patients_cover_what_they_promise():
    figures = {}
    for true in (0.6, 0.85):
        for skewed in (False, True):
            random, inside = RNG(11), {"cluster": [], "plain percentiles": [], "naive": []}
            for _ in range(2000):
                size = np.full(19, 15)
                if skewed:
                    share = np.exp(random.normal(0, 1, 19))
                    size = np.maximum(1, np.round(281 * share / share.sum())).astype(int)
                strength = (
                    1 / 0.3 - 1
                )  # beta-binomial: correlation 0.3 between two patches of a patient
                right = random.binomial(
                    size, random.beta(true * strength, (1 - true) * strength, 19)
                )
                group = pd.Series(np.repeat(np.arange(19), size), name="patient")
                wrong = np.concatenate(
                    [np.arange(s) >= k for s, k in zip(size, right, strict=True)]
                ).astype(int)
                found = bootstrap(
                    agreement.accuracy, wrong * 0, wrong, groups=group, resamples=1000
                )
                inside["cluster"].append(found.low <= true <= found.high)
                drawn = intervals.resample_counts(19, 1000, 0)
                plain = np.quantile((drawn @ right) / (drawn @ size), [0.025, 0.975])
                inside["plain percentiles"].append(plain[0] <= true <= plain[1])
                alone = binomtest(int(right.sum()), int(size.sum())).proportion_ci(method="wilson")
                inside["naive"].append(alone.low <= true <= alone.high)
            figures[true, skewed] = {name: float(np.mean(hits)) for name, hits in inside.items()}
            print(
                f"true accuracy {true:.0%}, {'skewed' if skewed else 'equal'} patients: coverage",
                ", ".join(f"{name} {share:.1%}" for name, share in figures[true, skewed].items()),
            )
    assert all(f["cluster"] >= (0.88 if skewed else 0.91) for (_, skewed), f in figures.items())
    assert all(f["naive"] < f["cluster"] - 0.2 for f in figures.values())
