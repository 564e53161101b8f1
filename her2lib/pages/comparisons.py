"""What 06 shows of networks side by side: metrics, matrices, borders, calibration, differences.

Each function takes the book in which numbers are kept; a `field` is {name: Evaluation} of one set.
"""

import math

import numpy as np
import pandas as pd

from her2lib import plots
from her2lib.report import sections
from her2lib.report.book import Book, Html, forest_table
from her2lib.scores import CUTS, SCORES
from her2lib.stats import agreement, calibration, compare
from her2lib.stats.coefficients import cuts_between
from her2lib.study.results import Evaluation, is_null

SOURCE = "runs/06_compare_models/contestants.csv"
HEADLINES = {  # metric: its name on the page
    "accuracy": "accuracy",
    "kappa quadratic": "quadratic-weighted kappa",
    "off-by-two rate": "off by two or more",
}
BORDERS = ("any staining", "in-situ hybridisation", "positive")  # what each of CUTS decides
COLUMNS = 3  # confusion matrices side by side

Field = dict[str, Evaluation]
Ids = dict[tuple[str, str], dict[str, str]]  # (set, name) -> {metric: id}


def measure(
    book: Book, evaluations: list[Evaluation], *, resamples: int
) -> tuple[Ids, dict[str, Field]]:
    """(ids of every number, {set: field}) after keeping every metric of every evaluation."""
    ids = {}
    fields: dict[str, Field] = {}
    for one in evaluations:
        table = agreement.metrics(
            one.truth,
            one.probabilities,
            groups=one.groups,
            scores=one.scores,
            resamples=resamples,
        )
        subset = one.subset
        ids[subset, one.name] = book.add(table, subset=subset, run=one.name, source=SOURCE)
        fields.setdefault(subset, {})[one.name] = one
    return ids, fields


# --- the test set -------------------------------------------------------------------------------


def headline_table(book: Book, ids: Ids, field: Field, *, note: str = "") -> Html:
    """Html table of the metrics that matter most on the test set, a row for each contestant."""
    one = _any_of(field)
    rows = {name: [ids["test", name][metric] for metric in HEADLINES] for name in field}
    caption = f"Brackets: 95 % intervals that resample {one.sample}; n = {len(one.truth)} patches."
    caption = " ".join(filter(None, [caption, one.warning, note]))
    return book.table(HEADLINES.values(), rows=rows, head="on the test set", caption=caption)


def left_out_note(predictions: pd.DataFrame, shown: pd.DataFrame) -> str:
    """str, a sentence when not every run is shown: a sweep has many, other splits other tests."""
    if set(predictions["run"]) <= set(shown["run"]):
        return ""
    return "Not here: later runs of a sweep (92) and other splits (09)."


def forest_figure(book: Book, ids: Ids, field: Field) -> Html:
    """Html figure of accuracy and kappa with intervals, nulls in grey."""
    one = _any_of(field)
    height = 1.2 + 0.45 * len(field)
    figure, axes = plots.panels(1, 2, width=6.5, height=height)
    for ax, metric in zip(axes, ("accuracy", "kappa quadratic"), strict=True):
        numbers = [ids["test", name][metric] for name in field]
        plots.forest(forest_table(book, numbers, names=field), ax)
        ax.set_xlabel(f"{metric}, test set")
    caption = (
        f"Test set, n = {len(one.truth)} patches: value and 95 % interval of each network (black) "
        f"and each null (grey), resampling {one.sample}."
    )
    return book.figure(figure, "forest", caption)


def confusion_figure(book: Book, field: Field) -> Html:
    """Html figure of a confusion matrix for each network and null; seeds are added."""
    columns = min(COLUMNS, len(field))
    rows = math.ceil(len(field) / COLUMNS)
    figure, axes = plots.panels(rows, columns, width=5, height=5)
    for ax, (name, one) in zip(axes, field.items(), strict=False):
        counts = [
            agreement.confusion_counts(one.truth, probabilities.argmax(1), one.scores)
            for probabilities in one.probabilities
        ]
        plots.confusion(sum(counts), ax, title=name, scores=one.scores)
    for ax in axes[len(field) :]:
        ax.axis("off")
    caption = (
        f"Test set, {len(_any_of(field).truth)} patches; "
        "where a network has several seeds their counts are added."
    )
    return book.figure(figure, "confusion", caption)


def recall_table(book: Book, ids: Ids, field: Field) -> Html:
    """Html table of the recall of each score, which pathologists call concordance."""
    declared = [SCORES[score] for score in _any_of(field).scores]
    rows = {name: [ids["test", name][f"recall {score}"] for score in declared] for name in field}
    return book.table(
        declared,
        rows=rows,
        head="of the patches of score …",
        caption="Recall (concordance): share of the test patches of each true score that got that "
        "score, with 95 % intervals.",
    )


def border_table(book: Book, ids: Ids, field: Field) -> Html:
    """Html table of sensitivity and specificity at the clinical cuts between the study's scores."""
    columns = []
    meanings = []
    for k in cuts_between(_any_of(field).scores):
        columns += [f"sensitivity {CUTS[k]}", f"specificity {CUTS[k]}"]
        meanings.append(f"{CUTS[k]}: {BORDERS[k]}")
    rows = {name: [ids["test", name][column] for column in columns] for name in field}
    return book.table(
        columns,
        rows=rows,
        head="border",
        caption=f"Test set, with 95 % intervals. {'; '.join(meanings)}.",
    )


# --- probabilities, and pairs -------------------------------------------------------------------


def trust_figures(book: Book, test: Field, val: Field, *, resamples: int) -> Html:
    """Html figures of each network: reliability after its temperature, and risk over coverage."""
    figures = []
    for name, one in test.items():
        if is_null(name):
            continue
        # fitted on validation patches: on those of the test it would flatter
        on_val = val[name]
        temperature = calibration.fit_temperature(on_val.truth, on_val.probabilities[0])
        tempered = calibration.apply_temperature(one.probabilities[0], temperature)
        figure = _trust_figure(one, tempered, resamples)
        caption = (
            f"{name}, test set, n = {len(one.truth)} patches; temperature {temperature:.2f}. "
            f"Bands and bars: 95 % intervals resampling {one.sample}."
        )
        figures.append(book.figure(figure, f"trust_{name}", caption))
    return Html("".join(figures))


def paired_differences(book: Book, field: Field, *, resamples: int) -> Html:
    """Html table of each contestant against the DAB rule on the same patches, p after Holm."""
    one = _any_of(field)
    table = compare.compare_all(
        one.truth,
        _predicted_by_seed(field),
        groups=one.groups,
        against="DAB rule",
        scores=one.scores,
        resamples=resamples,
    )
    return sections.comparison(book, table)


def _any_of(field):
    """Evaluation, the first of a field: patches, truth and groups are the same for all."""
    return next(iter(field.values()))


def _trust_figure(one, tempered, resamples):
    figure, (left, right) = plots.panels(1, 2, width=5, height=4.4)
    reliability = calibration.reliability_table(
        one.truth, tempered, groups=one.groups, scores=one.scores, resamples=200
    )
    plots.reliability(reliability, left)
    risk = calibration.risk_coverage_table(
        one.truth, tempered, groups=one.groups, resamples=resamples
    )
    plots.lines(
        risk,
        right,
        x="coverage",
        y="error",
        low="error_low",
        high="error_high",
        xlabel="share of patches kept",
        ylabel="share wrong",
    )
    return figure


def _predicted_by_seed(field):
    """dict name -> scores (N,) of its seed, or a list of them, one for each seed, equally long."""
    # 3 seeds against 2: each is heard equally often
    seeds = int(np.lcm.reduce([len(one.probabilities) for one in field.values()]))
    predicted = {}
    for name, one in field.items():
        scores = [probabilities.argmax(1) for probabilities in one.probabilities]
        predicted[name] = scores * (seeds // len(scores))
    if seeds == 1:
        # McNemar needs one answer per patch
        predicted = {name: scores[0] for name, scores in predicted.items()}
    return predicted
