"""The report's own numbers computed again: plain counts by recount, all other metrics here."""

import shutil
import warnings
from itertools import combinations, permutations
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from made_report import PROBABILITIES, TOGETHER, MadeReport, printed
from sklearn import metrics as sk

from her2lib.report import recount, recount_coefficients
from her2lib.report.findings import exit_code
from her2lib.scores import CUTS, SCORES
from her2lib.stats import agreement
from her2lib.stats.intervals import Estimate, bootstrap
from her2lib.study import fingerprints


def sentences(findings, verdict="contradiction"):
    return " ".join(findings.sentence[findings.verdict == verdict])


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made")
    return folder, MadeReport().write(folder)


@pytest.fixture
def reported(finished, tmp_path):
    """(folder, numbers) of a copy that a test may spoil."""
    return Path(shutil.copytree(finished[0], tmp_path / "report")), finished[1]


def plain(numbers):
    """The numbers that recount() computes again."""
    return numbers[~numbers["metric"].str.startswith(recount.LEFT_TO_TESTS)]


# --- what recount computes ----------------------------------------------------------------------


def test_a_right_report_is_recomputed_but_for_what_is_left_to_the_tests(reported):
    folder, numbers = reported
    again = recount.recount(numbers, folder)
    checked = again["verdict"] == "consistent"
    assert set(again.id[checked]) == set(plain(numbers).id), sentences(again)
    assert set(again.verdict) == {"consistent", "unchecked"}
    assert again.id.is_unique
    assert len(set(numbers.source)) == 11
    kinds = recount.count_by_kind(again)
    assert kinds.numbers.sum() == len(numbers)
    findings = recount.audit_report(folder)
    assert exit_code(findings) == 0
    assert len(findings) == len(kinds) + 2  # what is printed, and what nobody repeats
    consistent = sentences(findings, "consistent")
    assert f"{len(numbers):6,} of report.html: printed as they stand" in consistent
    rest = sentences(findings, "caution")
    assert f"{checked.sum()} of {len(numbers)} numbers were computed a second time" in rest
    assert f"{(~checked).sum()} were not. Not repeated: AUROC, calibration error" in rest
    assert "the resampling behind the intervals" in rest


def test_an_older_report_is_audited_too(reported):
    folder, numbers = reported
    old = numbers.rename(columns={"sample": "units", "as_percent": "share"})
    old["metric"] = old["metric"].str.replace("recall", "concordance")
    old.to_csv(folder / "numbers.csv", index=False)
    before = recount.audit_report(folder)
    numbers.to_csv(folder / "numbers.csv", index=False)
    assert before.equals(recount.audit_report(folder))


@pytest.mark.parametrize(
    ("column", "wrong"),
    [("value", 0.002), ("value", -0.002), ("value", np.nan), ("n", 1), ("n", -1)],
)
def test_every_kind_of_number_is_contradicted_when_it_is_wrong(reported, column, wrong):
    folder, numbers = reported
    numbers = plain(numbers)
    again = recount.recount(numbers.assign(**{column: numbers[column] + wrong}), folder)
    assert (again.verdict == "contradiction").all(), again.id[again.verdict != "contradiction"]


def test_a_changed_table_is_seen_in_the_numbers_that_rest_on_it(reported):
    folder, numbers = reported
    kinds = (("08/focus", "share"), ("08/likeness", "spearman"), ("08/claims", "value"))
    kinds += (("93/answers", "answer"), ("08/ablations", "net, tuned"))
    numbers = numbers[numbers.source.isin([f"runs/{source}.csv" for source, _ in kinds])]
    for source, column in kinds:
        file = folder / "runs" / f"{source}.csv"
        table = pd.read_csv(file)
        changed = (table[column] + 1) % 4
        table.assign(**{column: changed}).to_csv(file, index=False)
        again = recount.recount(numbers, folder)
        assert set(again.source[again.verdict == "contradiction"]) == {f"runs/{source}.csv"}
        table.to_csv(file, index=False)


def test_a_value_outside_its_own_interval_is_a_contradiction(reported):
    folder, numbers = reported
    row = numbers.index[numbers.metric == "kappa linear"][0]
    low = np.where(numbers.index == row, numbers.value + 0.01, numbers.low)
    again = recount.recount(numbers.assign(low=low), folder)
    assert list(again.index[again.verdict == "contradiction"]) == [row]
    assert "outside its own interval" in again.sentence[row]


def test_what_cannot_be_recomputed_says_why(reported):
    folder, numbers = reported
    row = numbers[numbers.metric == "accuracy"].iloc[[0]]
    no_table = {"source": ""}
    reasons = {
        "no table in this report's folder": row.assign(source="../elsewhere.csv"),
        "times, measured once on one machine": row.assign(id="91/a", **no_table),
        "made from weights and pixels, and no table keeps its parts": row.assign(
            id="08/a", **no_table
        ),
        "rests on no table": row.assign(**no_table),
        "no plain count: left to the tests": row.assign(metric="AUROC macro"),
        "no rule, row or column for nonsense": row.assign(metric="nonsense"),
        "no rule, row or column for nobody": row.assign(run="nobody"),
    }
    for why, changed in reasons.items():
        again = recount.recount(changed, folder)
        assert again[["verdict", "how"]].to_numpy().tolist() == [["unchecked", why]]
    ratings = folder / "runs/07/ratings.csv"
    pd.read_csv(ratings).drop(columns="person").to_csv(ratings, index=False)
    again = recount.recount(numbers[numbers.run == "P1 against the other raters"], folder)
    assert set(again.how) == {"no rule, row or column for person"}
    timed = row.assign(id="91/a", **no_table)
    pd.concat([timed, numbers[numbers.run == "net"]]).to_csv(folder / "numbers.csv", index=False)
    (folder / "report.html").write_text("", encoding="utf-8")
    unchecked = sentences(recount.audit_report(folder), "unchecked")
    assert "     1 of 06_compare, no table: times, measured once on one machine." in unchecked


def test_runs_of_one_kind_share_a_line(tmp_path):
    report = MadeReport()
    for run in ("a-s0", "a-s1", "b-s0"):
        table = report.answers("a", run).drop(columns="name")
        (tmp_path / "runs" / run).mkdir(parents=True)
        table.to_csv(tmp_path / "runs" / run / "predictions.csv", index=False)
        predicted = table[PROBABILITIES].to_numpy().argmax(1)
        table = agreement.metrics(
            report.truth, predicted, groups=report.groups, resamples=20
        ).query("metric == 'kappa quadratic'")
        source = f"runs/{run}/predictions.csv"
        report.add(table, run=run, id=run, question="92", set="test", source=source)
    kinds = recount.count_by_kind(recount.recount(pd.concat(report.numbers[-3:]), tmp_path))
    expected = [["consistent", "runs/*/predictions.csv", 3]]
    assert kinds[["verdict", "source", "numbers"]].to_numpy().tolist() == expected


def test_each_wrong_number_of_a_report_is_named(reported):
    folder, numbers = reported
    page = (folder / "report.html").read_text(encoding="utf-8")
    row = numbers.loc[numbers.metric == "accuracy"].iloc[0]
    text = Estimate(row.value, row.low, row.high, row.n, row["sample"], "", True).text()
    wrong = (
        text.replace(f"{100 * row.value:.1f}", "99.9"),
        text.replace(f"to {100 * row.high:.1f}", "to 100.0"),
        text.replace("n = 90", "n = 91"),
        "some",
        "not estimable: no",
    )
    assert text not in wrong
    planted = "".join(printed(row, each) for each in wrong)
    planted += printed({"id": "typed by hand"}, "12.0 %")
    (folder / "report.html").write_text(page + planted, encoding="utf-8")
    findings = recount.audit_report(folder)
    for each in wrong:
        assert f"The report prints {each!r} for {row.id}" in sentences(findings)
    assert "numbers.csv has no such row" in sentences(findings)
    assert (findings.verdict == "contradiction").sum() == len(wrong) + 1

    (folder / "report.html").write_text(page, encoding="utf-8")
    numbers.assign(n=numbers.n + (numbers.id == row.id)).to_csv(folder / "numbers.csv", index=False)
    findings = recount.audit_report(folder).query("verdict == 'contradiction'")
    assert set(findings.id) == {row.id}
    assert "recomputed" in sentences(findings)
    pd.concat([numbers, numbers.iloc[[0]]]).to_csv(folder / "numbers.csv", index=False)
    assert "stands twice" in sentences(recount.audit_report(folder))


def test_one_rater_alone_has_no_others_to_agree_with():
    table = pd.DataFrame({"patch": ["a", "b"], "score": [0, 1]})
    table = table.assign(rater="P", reading=1, person=True)
    row = {"run": "P against the other raters", "metric": "kappa quadratic"}
    value, n = recount._from_ratings(row, table)
    assert np.isnan(value)
    assert n == 0


def test_none_of_it_is_the_code_that_made_the_number():
    rooms = set()
    for module in (recount, recount_coefficients):
        source = Path(module.__file__).read_text(encoding="utf-8")
        rooms |= {name.split(".")[0] for name in fingerprints.imported_modules(source)}
    assert rooms == {"report", "scores"}


# --- the other metrics, a second time -----------------------------------------------------------


def above_each_cut(probabilities):
    """(N,3) probability of a score above each cut, summed from the highest score down."""
    # another order of the sums rounds otherwise, and AUROC sees it where patches tie
    from_above = np.cumsum(probabilities[:, :0:-1], axis=1)
    return from_above[:, ::-1].clip(0, 1)


def auroc_macro(truth, probabilities):
    scores = np.unique(truth)
    return np.mean([sk.roc_auc_score(truth == k, probabilities[:, k]) for k in scores])


def auroc_of_cut(truth, probabilities, cut):
    return sk.roc_auc_score(truth > cut, above_each_cut(probabilities)[:, cut])


def calibration_error(truth, probabilities, cut):
    """Mean distance of forecast and outcome in ten bins of equal width, weighted by patches."""
    forecast = above_each_cut(probabilities)[:, cut]
    bins = np.arange(11) / 10
    excess = np.histogram(forecast, bins, weights=forecast - (truth > cut))[0]
    return np.abs(excess).sum() / len(truth)


def ranked_probability_score(truth, probabilities):
    happened = np.stack([truth > cut for cut in range(len(CUTS))], axis=1)
    return np.mean((above_each_cut(probabilities) - happened) ** 2)


def readings(ratings):
    """list of (r,) scores of each patch that anybody read; -1 in ratings (N,R) is no reading."""
    return [row[row >= 0] for row in ratings if (row >= 0).any()]


def mean_agreement(ratings, weights):
    """float, mean over patches with two readings of the weight of two of its readings."""
    several = [row for row in readings(ratings) if len(row) > 1]
    return np.mean([np.mean([weights[a, b] for a, b in permutations(row, 2)]) for row in several])


def mean_fractions(ratings):
    """(4,) fraction of each score, every patch counting as one."""
    fractions = [np.bincount(row, minlength=len(SCORES)) / len(row) for row in readings(ratings)]
    return np.mean(fractions, axis=0)


def fleiss(ratings):
    """Fleiss 1971, for unequal numbers of readings."""
    chance = (mean_fractions(ratings) ** 2).sum()
    return (mean_agreement(ratings, np.eye(4)) - chance) / (1 - chance)


def gwet(ratings, weights):
    """Gwet 2014, chapter 5: AC1 with weights of 0 and 1, else AC2."""
    fractions = mean_fractions(ratings)
    q = len(SCORES)
    chance = weights.sum() / (q * (q - 1)) * (fractions * (1 - fractions)).sum()
    return (mean_agreement(ratings, weights) - chance) / (1 - chance)


def krippendorff(ratings):
    """Ordinal alpha (Krippendorff 2011), over pairs of readings."""
    several = [row for row in readings(ratings) if len(row) > 1]
    if not several:
        return np.nan
    n = np.bincount(np.concatenate(several), minlength=len(SCORES))
    distance = np.zeros((len(SCORES), len(SCORES)))
    for low, high in combinations(range(len(SCORES)), 2):
        steps = n[low : high + 1].sum() - (n[low] + n[high]) / 2
        distance[low, high] = distance[high, low] = steps**2
    observed = 0.0
    for row in several:
        total = sum(distance[a, b] for a, b in permutations(row, 2))
        observed += total / (len(row) - 1)
    expected = n @ distance @ n / (n.sum() - 1)
    return 1 - observed / expected


QUADRATIC = 1 - np.subtract.outer(np.arange(4), np.arange(4)) ** 2 / 9


def second_time(metric, truth, probabilities):
    """float, a metric that recount() leaves out, by other code than made it."""
    name, _, where = metric.partition(" ")
    if metric == "AUROC macro":
        return auroc_macro(truth, probabilities)
    if name == "AUROC":
        return auroc_of_cut(truth, probabilities, CUTS.index(where))
    if name == "ECE":
        return calibration_error(truth, probabilities, CUTS.index(where))
    assert name == "ranked"
    return ranked_probability_score(truth, probabilities)


def random_answers(seed):
    """(truth, probabilities) of 30 patches; often a score is missing, or the answer is a rule's."""
    random = np.random.default_rng(seed)
    scores = random.choice(4, random.integers(1, 5), replace=False)
    truth = random.choice(scores, 30)
    odds = random.dirichlet(np.ones(4) * random.choice([0.05, 1, 5]), 30)
    odds = odds.astype(np.float32).astype(float)
    rule = np.eye(4)[odds.argmax(1)]
    one_answer = np.eye(4)[np.full(30, scores[0])]
    return truth, [odds, rule, one_answer][seed % 3]


class TestTheSecondTime:
    """Every metric by other code agrees with the first, also where it is not defined."""

    def test_every_metric_agrees(self):
        patches = pd.Series(range(30), name="patch")
        for seed in range(40):
            truth, odds = random_answers(seed)
            for name, metric in {**agreement.SCORED, **agreement.GRADED}.items():
                columns = truth, odds.argmax(1)
                if name in agreement.GRADED:
                    columns = truth, odds
                with warnings.catch_warnings(action="ignore"), np.errstate(all="ignore"):
                    if name.startswith(recount.LEFT_TO_TESTS):
                        value, n = second_time(name, truth, odds), 30
                    else:
                        value, n = recount.recount_metric(name, truth, odds.argmax(1))
                first = metric(*columns)
                assert value == pytest.approx(first, abs=1e-9, nan_ok=True), (seed, name)
                estimate = bootstrap(metric, *columns, groups=patches, resamples=2)
                assert n == estimate.n, (seed, name)

    def test_all_that_is_left_out_of_a_report_agrees(self, finished):
        folder, numbers = finished
        left_out = numbers[numbers["metric"].str.startswith(recount.LEFT_TO_TESTS)]
        table = pd.read_csv(folder / "runs/06/contestants.csv")
        of_networks = left_out[left_out["source"] == "runs/06/contestants.csv"]
        for row in of_networks.itertuples():
            seeds = table[table["name"] == row.run].groupby("run")
            values = [
                second_time(row.metric, seed["truth"].to_numpy(), seed[PROBABILITIES].to_numpy())
                for _, seed in seeds
            ]
            assert np.mean(values) == pytest.approx(row.value, abs=1e-9), row.id
        rule = pd.read_csv(folder / "runs/01/rule.csv")
        spearman = left_out[left_out["source"] == "runs/01/rule.csv"].value.item()
        assert rule["score"].rank().corr(rule["value"].rank()) == pytest.approx(spearman)
        ratings = pd.read_csv(folder / "runs/07/ratings.csv").query("person")
        read = ratings.pivot(index="patch", columns="rater", values="score")
        values = self.together(read.fillna(-1).to_numpy(int))
        of_raters = numbers[numbers["run"] == "all raters"].set_index("metric")["value"]
        assert values == pytest.approx(of_raters.to_dict())
        assert len(left_out) == len(of_networks) + 1

    def together(self, read):
        return {
            "Fleiss kappa": fleiss(read),
            "Gwet AC1": gwet(read, np.eye(4)),
            "Gwet AC2 (quadratic)": gwet(read, QUADRATIC),
            "Krippendorff alpha (ordinal)": krippendorff(read),
        }

    def test_all_raters_together_with_ratings_missing(self):
        for seed in range(20):
            random = np.random.default_rng(seed)
            read = np.where(random.random((40, 4)) < 0.3, -1, random.integers(0, 4, (40, 4)))
            first = {name: metric(read) for name, metric in TOGETHER.items()}
            assert self.together(read) == pytest.approx(first)
            for name, value in first.items():
                again, n = recount_coefficients.recount_coefficient(name, read, range(4))
                assert again == pytest.approx(value)
                assert n == ((read >= 0).sum(1) > 1).sum()

    def test_all_raters_together_by_hand(self):
        read = np.array([[0, 0], [1, 1], [0, 1]])  # agree in 2 of 3; half of the ratings are 0
        assert fleiss(read) == pytest.approx((2 / 3 - 1 / 2) / (1 - 1 / 2))
        # chance: 2 x 0.25 / 3
        assert gwet(read, np.eye(4)) == pytest.approx((2 / 3 - 1 / 6) / (1 - 1 / 6))
        assert krippendorff(read) == pytest.approx(1 - (2 / 6) / (2 * 9 / 30))
