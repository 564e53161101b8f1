"""Networks side by side: every number on the page is the one that other libraries compute."""

import numpy as np
import pandas as pd
import pytest
from finished_runs import CERTAIN, answers, finished_study
from scipy.optimize import minimize_scalar
from scipy.stats import binomtest
from sklearn.metrics import (
    accuracy_score,
    cohen_kappa_score,
    confusion_matrix,
    log_loss,
    recall_score,
)

from her2lib import plots
from her2lib.pages import comparisons
from her2lib.report.book import Book
from her2lib.study import results

TRUTH = [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]
RIGHT_BUT_TWO = [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 2, 1]
RIGHT_BUT_FOUR = [0, 1, 0, 1, 1, 2, 2, 2, 3, 3, 3, 2]
BY_RULE = [0, 1, 1, 1, 2, 2, 2, 1, 2, 3, 3, 3]


@pytest.fixture
def book(tmp_path, monkeypatch):
    return Book(finished_study(tmp_path, monkeypatch), "06_compare_models")


def field_of(subset="test", truth=TRUTH, scores=(0, 1, 2, 3), **predicted):
    """{name: Evaluation} of one set; a list of lists holds the answers of several seeds."""
    tables = []
    for name, seeds in predicted.items():
        if np.ndim(seeds) == 1:
            seeds = [seeds]
        for seed, one in enumerate(seeds):
            table = answers(truth, one, run=f"{name}{seed}", subset=subset)
            tables.append(table.assign(name=name.replace("_", " ")))
    return {one.name: one for one in results.evaluations(pd.concat(tables), scores=scores)}


def measured(book, field):
    ids, _ = comparisons.measure(book, list(field.values()), resamples=20)
    return ids


def value(book, ids, name, metric):
    return book.rows[ids["test", name][metric]]["value"]


# --- numbers ------------------------------------------------------------------------------------


def test_every_metric_is_kept_and_is_that_of_scikit_learn(book):
    ids = measured(book, field_of(ResNet18=RIGHT_BUT_FOUR))
    accuracy = value(book, ids, "ResNet18", "accuracy")
    assert accuracy == pytest.approx(accuracy_score(TRUTH, RIGHT_BUT_FOUR)) == 8 / 12
    kappa = cohen_kappa_score(TRUTH, RIGHT_BUT_FOUR, weights="quadratic")
    assert value(book, ids, "ResNet18", "kappa quadratic") == pytest.approx(kappa)
    for score, recall in zip(
        ("0", "1+", "2+", "3+"), recall_score(TRUTH, RIGHT_BUT_FOUR, average=None), strict=True
    ):
        assert value(book, ids, "ResNet18", f"recall {score}") == pytest.approx(recall)
    stored = pd.read_csv(book.file)
    assert set(stored["source"]) == {"runs/06_compare_models/contestants.csv"}
    assert set(stored["id"]) == set(ids["test", "ResNet18"].values())


def test_contestants_are_gathered_by_set(book):
    both = [*field_of(A=TRUTH, B=BY_RULE).values(), *field_of("val", A=TRUTH).values()]
    ids, fields = comparisons.measure(book, both, resamples=20)
    assert list(ids) == [("test", "A"), ("test", "B"), ("val", "A")]
    assert {subset: list(field) for subset, field in fields.items()} == {
        "test": ["A", "B"],
        "val": ["A"],
    }
    assert ids["val", "A"]["accuracy"] == "06/val/A/accuracy"


# --- tables -------------------------------------------------------------------------------------


def test_the_headline_has_three_metrics_a_row_and_says_what_is_resampled(book):
    field = field_of(ResNet18=RIGHT_BUT_TWO, DAB_rule=BY_RULE)
    shown = comparisons.headline_table(book, measured(book, field), field, note="And more.")
    for name in ("ResNet18", "DAB rule"):
        for metric in ("accuracy", "kappa quadratic", "off-by-two rate"):
            assert f'data-number="06/test/{name}/{metric}"' in shown
    assert "83.3 %" in shown  # 10 of 12
    assert "8.3 %" in shown  # 3+ called 1+ once
    assert "95 % intervals that resample patients; n = 12 patches. And more.<" in shown


def test_a_warning_about_unknown_patients_stands_under_the_headline(book):
    table = answers(TRUTH, RIGHT_BUT_TWO, patients=[""] * 12).assign(name="ResNet18")
    field = {one.name: one for one in results.evaluations(table)}
    shown = comparisons.headline_table(book, measured(book, field), field)
    assert "as if they were independent" in shown


def test_a_note_says_when_runs_are_left_out():
    predictions = pd.DataFrame({"run": ["a", "b"]})
    everyone = pd.DataFrame({"run": ["a", "b", "DAB rule"]})
    assert comparisons.left_out_note(predictions, everyone) == ""
    note = comparisons.left_out_note(predictions, everyone[everyone["run"] != "b"])
    assert note.startswith("Not here: later runs of a sweep")


def test_recall_and_borders_are_shown_for_every_score_and_cut(book):
    field = field_of(ResNet18=RIGHT_BUT_TWO)
    ids = measured(book, field)
    recalls = comparisons.recall_table(book, ids, field)
    assert "06/test/ResNet18/recall 3+" in recalls
    assert value(book, ids, "ResNet18", "recall 3+") == pytest.approx(1 / 3)
    borders = comparisons.border_table(book, ids, field)
    # above 1+|2+ stand six patches; one 3+ was called 1+, and nothing below was called above
    assert value(book, ids, "ResNet18", "sensitivity 1+|2+") == pytest.approx(5 / 6)
    assert value(book, ids, "ResNet18", "specificity 1+|2+") == 1
    assert borders.count("data-number") == 6
    order = [borders.index(f"sensitivity {cut}") for cut in ("0|1+", "1+|2+", "2+|3+")]
    assert order == sorted(order)


# --- figures ------------------------------------------------------------------------------------


def test_the_forest_draws_nulls_apart_from_networks(book, monkeypatch):
    drawn = []
    monkeypatch.setattr(plots, "forest", lambda table, ax: drawn.append(table))
    field = field_of(ResNet18=RIGHT_BUT_TWO, DAB_rule=BY_RULE)
    shown = comparisons.forest_figure(book, measured(book, field), field)
    accuracy, kappa = drawn
    assert accuracy["name"].tolist() == ["ResNet18", "DAB rule"]
    assert accuracy["null"].tolist() == [False, True]
    assert accuracy["value"].tolist() == pytest.approx([10 / 12, 7 / 12])
    by_rule = cohen_kappa_score(TRUTH, BY_RULE, weights="quadratic")
    assert kappa["value"][1] == pytest.approx(by_rule)
    assert "n = 12 patches" in shown
    assert (book.study.figures / "06_forest.svg").is_file()


def test_confusion_matrices_add_the_seeds_and_unused_panels_are_off(book, monkeypatch):
    drawn = {}
    panels = []
    make_panels = plots.panels

    def keep_panels(*args, **options):
        figure, axes = make_panels(*args, **options)
        panels.extend(axes)
        return figure, axes

    monkeypatch.setattr(plots, "panels", keep_panels)

    def keep_confusion(counts, ax, *, title, scores):
        assert scores == (0, 1, 2, 3)
        drawn[title] = counts

    monkeypatch.setattr(plots, "confusion", keep_confusion)
    field = field_of(A=[RIGHT_BUT_TWO, RIGHT_BUT_FOUR], B=TRUTH, C=TRUTH, D=TRUTH)
    shown = comparisons.confusion_figure(book, field)
    both = confusion_matrix(TRUTH, RIGHT_BUT_TWO) + confusion_matrix(TRUTH, RIGHT_BUT_FOUR)
    assert drawn["A"].tolist() == both.tolist()
    assert drawn["D"].tolist() == (3 * np.eye(4)).tolist()
    assert [ax.axison for ax in panels] == [True] * 4 + [False] * 2
    assert "their counts are added" in shown


def test_the_temperature_is_fitted_on_validation_patches_and_nulls_have_none(book):
    # too sure by far: right on half of the patches, at 97 %
    sure = 0.96 * CERTAIN + 0.01
    on_val = sure[[0, 1, 0, 1, 2, 1, 2, 3, 3, 3, 0, 1]]
    test = field_of(ResNet18=RIGHT_BUT_TWO, DAB_rule=BY_RULE)
    val = results.evaluations(answers(TRUTH, on_val, subset="val").assign(name="ResNet18"))

    def loss(logarithm):
        logits = np.log(on_val) / np.exp(logarithm)
        tempered = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        return log_loss(TRUTH, tempered, labels=[0, 1, 2, 3])

    temperature = np.exp(minimize_scalar(loss, bounds=(-3, 3), method="bounded").x)
    shown = comparisons.trust_figures(book, test, {"ResNet18": val[0]}, resamples=20)
    assert f"ResNet18, test set, n = 12 patches; temperature {temperature:.2f}." in shown
    assert shown.count("<figure>") == 1
    assert not (book.study.figures / "06_trust_DAB_rule.png").exists()


# --- paired differences -------------------------------------------------------------------------


def test_paired_differences_are_against_the_rule_on_the_same_patches(book):
    field = field_of(A=RIGHT_BUT_TWO, B=TRUTH, DAB_rule=BY_RULE)
    shown = comparisons.paired_differences(book, field, resamples=4096)
    assert book.rows["06/test/A minus DAB rule/accuracy difference"]["value"] == pytest.approx(
        10 / 12 - 7 / 12
    )
    kappa = 1 - cohen_kappa_score(TRUTH, BY_RULE, weights="quadratic")
    assert book.rows["06/test/B minus DAB rule/kappa quadratic difference"][
        "value"
    ] == pytest.approx(kappa)
    assert "A minus B" not in shown
    # only A is right on five patches and only the rule on two; only B on five, the rule on none
    p_of_a, p_of_b = (binomtest(5, n).pvalue for n in (7, 5))
    after_holm = [max(p_of_a, 2 * p_of_b), 2 * p_of_b]
    assert f"A p = {after_holm[0]:.2g}; B p = {after_holm[1]:.2g}." in shown


def test_the_p_of_a_difference_is_that_of_all_swaps(book):
    field = field_of(B=TRUTH, DAB_rule=BY_RULE)
    shown = comparisons.paired_differences(book, field, resamples=4096)
    # swapping the five patches on which both differ: all or none of 32 ways is as far from zero
    assert f"<td>{2 / 32:.2g}</td>" in shown
    assert "all 4096 swaps of 12 patients" in shown


def test_seeds_are_heard_equally_often_and_averaged(book):
    field = field_of(A=[RIGHT_BUT_TWO, RIGHT_BUT_FOUR], B=[TRUTH, TRUTH, BY_RULE], DAB_rule=BY_RULE)
    shown = comparisons.paired_differences(book, field, resamples=20)
    difference = book.rows["06/test/A minus DAB rule/accuracy difference"]["value"]
    assert difference == pytest.approx((10 / 12 + 8 / 12) / 2 - 7 / 12)
    difference = book.rows["06/test/B minus DAB rule/accuracy difference"]["value"]
    assert difference == pytest.approx((1 + 1 + 7 / 12) / 3 - 7 / 12)
    assert "not with several seeds" in shown


# --- a study of three scores --------------------------------------------------------------------


def test_of_three_scores_all_is_shown_over_three(book, monkeypatch):
    drawn = []
    confusion = plots.confusion

    def keep(counts, ax, **options):
        drawn.append(counts)
        return confusion(counts, ax, **options)

    monkeypatch.setattr(plots, "confusion", keep)
    truth = [1, 1, 1, 2, 2, 2, 3, 3, 3]
    rule = [1, 2, 1, 2, 2, 3, 3, 3, 3]
    field = field_of(truth=truth, scores=(1, 2, 3), ResNet18=truth, DAB_rule=rule)
    ids = measured(book, field)
    metrics = {row["metric"] for row in book.rows.values()}
    assert not {metric for metric in metrics if metric.endswith((" 0", "0|1+"))}
    # the off-diagonal fractions of two raters of nine patches, two of them one step apart
    spread = 3 * (1 / 3 * 2 / 3)
    by_chance = (3 + 2 * (3 / 4 + 3 / 4)) / 6 * spread
    observed = (7 + 3 / 4 + 3 / 4) / 9
    assert value(book, ids, "DAB rule", "Gwet AC2 quadratic") == pytest.approx(
        (observed - by_chance) / (1 - by_chance), abs=0.01
    )
    comparisons.confusion_figure(book, field)
    assert drawn[1].tolist() == [[2, 1, 0], [0, 2, 1], [0, 0, 3]]
    shown = comparisons.recall_table(book, ids, field)
    assert "<th>1+</th><th>2+</th><th>3+</th>" in shown
    assert "<th>0</th>" not in shown
    borders = comparisons.border_table(book, ids, field)
    assert "1+|2+: in-situ hybridisation; 2+|3+: positive." in borders
    assert "0|1+" not in borders
    comparisons.paired_differences(book, field, resamples=20)
