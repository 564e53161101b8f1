"""Networks that saw only phantoms, beside the DAB rule, on patches from elsewhere."""

import numpy as np
import pandas as pd
import pytest
from finished_runs import CERTAIN, answers, finished_study, patch_table, texts
from scipy.stats import spearmanr
from sklearn.metrics import accuracy_score, cohen_kappa_score

from her2lib import plots, stain
from her2lib.pages import transfer
from her2lib.report.book import Book

TRUTH = [0, 1, 2, 3] * 3
MOST = [0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 1, 0]
HALF = [0, 1, 1, 0] * 3
SEEDS = """
[axes]
network = ["resnet18"]
recipe = ["as_presented", "tuned"]
seed = [0, 1]
[[extra_axes]]
network = "vit_tiny"
[[extra_axes]]
label_shuffle = "shuffled"
[maps]
resamples = 200
"""
# what the rule measures: between its first cuts, and above its last
WEAK = sum(stain.CUTS[:2]) / 2
STRONG = 2 * stain.CUTS[2]
BY_RULE = [WEAK, WEAK, STRONG, STRONG] * 3
RULE_SCORES = [1, 1, 3, 3] * 3


@pytest.fixture
def study(tmp_path, monkeypatch):
    return finished_study(tmp_path, monkeypatch, SEEDS)


@pytest.fixture
def book(study):
    return Book(study, "93_transfer")


@pytest.fixture
def answered(tmp_path, study):
    """Transfer of twelve patches of a patient each: a network of two seeds, and one rule."""
    table = patch_table(tmp_path / "outside", TRUTH, subset="external")
    table["patient"] = [f"P{number}" for number in range(len(table))]
    networks = {"ResNet18": [CERTAIN[MOST], CERTAIN[HALF]]}
    return transfer.transfer(study, table, networks, {"DAB rule": np.array(BY_RULE)})


def value(book, run, metric):
    return book.rows[f"93/external/{run}/{metric}"]["value"]


# --- the contestants ----------------------------------------------------------------------------


def test_networks_answer_by_seed_and_the_rule_once(answered):
    predicted = answered.predicted()
    assert [scores.tolist() for scores in predicted["ResNet18"]] == [MOST, HALF]
    assert [scores.tolist() for scores in predicted["DAB rule"]] == [RULE_SCORES]


def test_networks_order_patches_by_expected_score_and_the_rule_by_its_value(answered):
    unsure = transfer.Transfer(
        **{
            **vars(answered),
            "networks": {"net": [np.array([[0.5, 0, 0, 0.5], [0, 0.25, 0.75, 0]])]},
        }
    )
    ranks = unsure.ranks()
    assert ranks["net"][0].tolist() == [1.5, 1.75]
    assert ranks["DAB rule"][0].tolist() == BY_RULE


def test_the_rule_is_measured_on_whole_files_with_and_without_white_balance(tmp_path, book):
    table = patch_table(tmp_path / "outside", [3, 0, 2, 1], subset="external")
    rules = transfer.rule_values(book, table)
    assert list(rules) == ["DAB rule", "DAB rule, white-balanced"]
    for values in rules.values():
        assert np.argsort(values).tolist() == [1, 3, 2, 0]
    stored = pd.read_csv(book.file.parent / "rules.csv")
    assert list(stored) == ["name", "slide", "score", *rules]
    assert stored["DAB rule"].to_numpy() == pytest.approx(rules["DAB rule"])
    assert stored["name"].tolist() == table["name"].tolist()


def test_seeds_are_gathered_in_the_order_of_the_patches(study):
    names = pd.Series(["external01", "external00"])
    runs = [run["run"] for run in study.runs()]
    predictions = [
        answers([0, 3], [0, 3], run=runs[0], subset="external"),
        answers([0, 3], [1, 2], run=runs[1], subset="external"),
        answers([0, 3], [2, 1], run=runs[2], subset="external"),
        answers([0], [0], run=runs[4], subset="external"),
        answers([0, 3], [0, 0], run=runs[5], subset="external"),
    ]
    networks = transfer.network_probabilities(study, pd.concat(predictions), names)
    by_name = {}
    for name, seeds in networks.items():
        by_name[name] = [probabilities.argmax(1).tolist() for probabilities in seeds]
    # of tuned seed 1 has no prediction, the vision transformer lacks a patch
    assert by_name == {
        "ResNet18, as presented": [[3, 0], [2, 1]],
        "ResNet18, tuned": [[1, 2]],
        "ViT-Tiny, as presented": [],
    }


def test_answers_are_kept_for_every_contestant_seed_and_patch(book, answered):
    transfer.keep_answers(book, answered)
    stored = pd.read_csv(book.file.parent / "answers.csv")
    assert list(stored) == ["name", "run", "patch", "set", "truth", "answer", "rank"]
    assert stored.groupby(["name", "run"], sort=False).size().to_dict() == {
        ("ResNet18", 0): 12,
        ("ResNet18", 1): 12,
        ("DAB rule", 0): 12,
    }
    second = stored[(stored["name"] == "ResNet18") & (stored["run"] == 1)]
    assert second["answer"].tolist() == HALF
    assert second["truth"].tolist() == TRUTH
    assert stored.loc[stored["name"] == "DAB rule", "rank"].to_numpy() == pytest.approx(BY_RULE)


# --- how well they do ---------------------------------------------------------------------------


def test_metrics_are_those_of_other_libraries_averaged_over_seeds(book, answered):
    ids = transfer.measure_transfer(book, answered)
    assert list(ids["ResNet18"]) == ["accuracy", "kappa quadratic", "spearman"]
    assert value(book, "ResNet18", "accuracy") == pytest.approx((10 / 12 + 6 / 12) / 2)
    kappas = [cohen_kappa_score(TRUTH, one, weights="quadratic") for one in (MOST, HALF)]
    assert value(book, "ResNet18", "kappa quadratic") == pytest.approx(np.mean(kappas))
    correlations = [spearmanr(one, TRUTH).statistic for one in (MOST, HALF)]
    assert value(book, "ResNet18", "spearman") == pytest.approx(np.mean(correlations))
    assert value(book, "DAB rule", "accuracy") == pytest.approx(accuracy_score(TRUTH, RULE_SCORES))
    expected = spearmanr(BY_RULE, TRUTH).statistic
    assert value(book, "DAB rule", "spearman") == pytest.approx(expected)

    shown = transfer.metric_table(book, answered, ids)
    for name in ("ResNet18", "DAB rule"):
        for metric in ids[name]:
            assert f'data-number="93/external/{name}/{metric}"' in shown
    assert "n = 12 patches; brackets: 95 % intervals that resample patients." in shown


def test_where_nothing_is_known_of_patients_the_table_warns(tmp_path, book, study):
    table = patch_table(tmp_path / "outside", TRUTH, subset="external", slide="")
    networks = {"ResNet18": [CERTAIN[MOST]]}
    answered = transfer.transfer(study, table, networks, {"DAB rule": np.array(BY_RULE)})
    ids = transfer.measure_transfer(book, answered)
    shown = transfer.metric_table(book, answered, ids)
    assert "resample patches. Intervals resample patches as if they were independent" in shown


def test_rules_are_grey_in_the_figure(book, answered, monkeypatch):
    drawn = []
    monkeypatch.setattr(plots, "forest", lambda table, ax: drawn.append(table))
    ids = transfer.measure_transfer(book, answered)
    transfer.metric_figure(book, answered, ids)
    kappa, spearman = drawn
    assert kappa["null"].tolist() == [False, True]
    assert kappa["value"][0] == value(book, "ResNet18", "kappa quadratic")
    assert spearman["value"][1] == value(book, "DAB rule", "spearman")


def test_differences_are_paired_and_averaged_over_seeds(book, answered):
    transfer.above_the_rule(book, answered)
    pair = "ResNet18 less DAB rule"
    kappas = [cohen_kappa_score(TRUTH, one, weights="quadratic") for one in (MOST, HALF)]
    by_rule = cohen_kappa_score(TRUTH, RULE_SCORES, weights="quadratic")
    difference = value(book, pair, "kappa quadratic difference")
    assert difference == pytest.approx(np.mean(kappas) - by_rule)
    correlations = [spearmanr(one, TRUTH).statistic for one in (MOST, HALF)]
    by_rule = spearmanr(BY_RULE, TRUTH).statistic
    assert value(book, pair, "spearman") == pytest.approx(np.mean(correlations) - by_rule)


def test_a_network_is_above_a_rule_only_if_the_whole_interval_is(book, answered):
    networks = {
        "right": [CERTAIN[TRUTH]],
        "like the rule": [CERTAIN[RULE_SCORES]],
        "reversed": [CERTAIN[TRUTH[::-1]]],
    }
    three = transfer.Transfer(**{**vars(answered), "networks": networks})
    shown = texts(transfer.above_the_rule(book, three))
    verdicts = {}
    for name in networks:
        row = shown.index(f"{name} less DAB rule")
        verdicts[name] = shown[row + 3]
    assert verdicts == {
        "right": "confirmed: the whole interval lies above the null",
        "like the rule": "undecided: the interval does not lie clear of the null; every resample "
        "gives this value: the interval measures no doubt",
        "reversed": "refuted: the whole interval lies below the null",
    }


def test_few_patients_leave_it_undecided(tmp_path, book, study):
    table = patch_table(tmp_path / "outside", TRUTH, subset="external")
    table["slide"] = [f"S{number // 4}" for number in range(12)]
    answered = transfer.transfer(
        study, table, {"right": [CERTAIN[TRUTH]]}, {"DAB rule": np.array(BY_RULE)}
    )
    shown = transfer.above_the_rule(book, answered)
    assert "undecided: only 3 independent patients or slides, 10 are needed" in shown


# --- patch by patch -----------------------------------------------------------------------------


def test_every_patch_is_drawn_by_its_mean_over_seeds(book, answered, monkeypatch):
    drawn = []

    def keep(values, truth, ax, *, ylabel, scores):
        assert scores == (0, 1, 2, 3)
        drawn.append((list(values), list(truth), ylabel))

    monkeypatch.setattr(plots, "strips", keep)
    shown = transfer.order_figure(book, answered)
    mean = (np.array(MOST) + np.array(HALF)) / 2
    assert drawn == [
        (mean.tolist(), TRUTH, "expected score"),
        (BY_RULE, TRUTH, "rule value"),
    ]
    assert "Every external patch by true score (n = 12)" in shown


def test_the_worst_patches_of_the_first_network_come_first(book, answered, monkeypatch):
    galleries = []
    gallery = plots.gallery

    def keep(images, titles, *, right):
        galleries.append((titles, right))
        return gallery(images, titles, right=right)

    monkeypatch.setattr(plots, "gallery", keep)
    transfer.worst_figure(book, answered, most=4)
    ((titles, right),) = galleries
    # both seeds call patch 11 (3+) a 0; of patches 3 and 7 one does, of patch 10 both say 1+
    names = [title.split("\n")[0] for title in titles]
    assert names == ["external11", "external03", "external07", "external10"]
    assert titles[0] == "external11\ntrue 3+, predicted 0, 100 % sure"
    assert right == [False, False, False, False]
