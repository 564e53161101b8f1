"""A study's own report computed a second time, as a reader would: by counting and scikit-learn."""

import html
import re
import warnings
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn import metrics as sk

from her2lib.report.findings import (
    COLUMNS,
    VERDICTS,
    Finding,
    findings_table,
    in_new_words,
    rounds_to,
    sorted_by_verdict,
)
from her2lib.report.recount_coefficients import COEFFICIENTS, recount_coefficient
from her2lib.scores import ALL_SCORES, CUTS, SCORES

# Numbers of two notebooks (the first letters of their ids) that rest on no table.
NO_TABLE = {
    "91": "times, measured once on one machine",
    "08": "made from weights and pixels, and no table keeps its parts",
}
# Metrics that are no plain counts: tests/report/test_recount.py computes them by other code.
LEFT_TO_TESTS = ("AUROC", "ECE", "ranked", "spearman")
NOT_REPEATED = (
    "Not repeated: AUROC, calibration error, ranked probability score, rank correlations (the "
    "library's tests compute these by other code), the resampling behind the intervals (each must "
    "only hold its value), p-values, verdicts, figures, and what stands before the tables: the "
    "networks' answers, people's readings, what was measured on each patch."
)
_ENDING = re.compile(r" (difference|gap|as answered|corrected|before re-reading|after re-reading)$")
_PRINTED = re.compile(r'data-number="([^"]*)"[^>]*>([^<]*)<')
_FIGURE = re.compile(r"[-+−]?\d[\d,]*(?:\.\d+)?")
# Numbers.csv holds 15 digits or more; probabilities in the tables were written as float32.
_TOLERANCE = 1e-6


def audit_report(folder: Path | str, *, scores: Sequence[int] = ALL_SCORES) -> pd.DataFrame:
    """DataFrame (id, claim, recomputed, verdict, sentence) of a study's report, worst rows first.

    folder holds report.html, numbers.csv and runs/; scores are those that the study declares, as
    positions in SCORES, for some coefficients hang on their number. Each contradiction has a row,
    then each kind of number has one: how many were computed from which table and how, or why they
    were not.
    """
    folder = Path(folder)
    numbers = _read_numbers(folder / "numbers.csv")
    printed = _PRINTED.findall((folder / "report.html").read_text(encoding="utf-8"))
    repeated = _repeated_ids(numbers)
    misprinted = _misprints(printed, numbers)
    again = recount(numbers, folder, scores=scores)

    contradicted = again["verdict"] == "contradiction"
    summary = []
    for row in count_by_kind(again[~contradicted]).itertuples():
        summary.append(_summary_row(row.numbers, row.source, row.verdict, row.how))
    n_right = len(printed) - len(misprinted)
    how = "printed as they stand in numbers.csv"
    summary.append(_summary_row(n_right, "report.html", "consistent", how))
    summary.append(Finding("", "", "", "caution", _what_was_left_out(again)))

    parts = [
        findings_table([*repeated, *misprinted]),
        again.loc[contradicted, COLUMNS],
        pd.DataFrame([vars(row) for row in summary], columns=COLUMNS),
    ]
    return pd.concat(parts, ignore_index=True)


def recount(
    numbers: pd.DataFrame, folder: Path | str, *, scores: Sequence[int] = ALL_SCORES
) -> pd.DataFrame:
    """DataFrame, a row per row of numbers.csv: columns of an audit, source, how (or why not).

    scores are those that the study declares, as positions in SCORES.
    """
    folder = Path(folder).resolve()
    tables: dict[str, pd.DataFrame] = {}
    rows = []
    for row in in_new_words(numbers).to_dict("records"):
        source = row["source"] or f"{row['question']}, no table"
        finding, how = _recount_row(row, folder, tables, scores)
        rows.append({**vars(finding), "source": source, "how": how})
    return pd.DataFrame(rows, columns=[*COLUMNS, "source", "how"])


def count_by_kind(again: pd.DataFrame) -> pd.DataFrame:
    """DataFrame (verdict, source, how, numbers) of a recount(): how many came from which table."""
    runs = r"runs/[^/]+/predictions"
    source = again["source"].str.replace(runs, "runs/*/predictions", regex=True)
    kinds = again.assign(source=source).value_counts(["verdict", "source", "how"])
    return sorted_by_verdict(kinds.reset_index(name="numbers"), VERDICTS)


def _summary_row(n, source, verdict, how):
    """Finding about n numbers of one source."""
    return Finding(source, n, "", verdict, f"{n:6,} of {source}: {how}.")


def _what_was_left_out(again):
    """str, how many numbers were computed a second time, how many not, and what nobody repeats."""
    n_unchecked = int((again["verdict"] == "unchecked").sum())
    n_checked = len(again) - n_unchecked
    return (
        f"{n_checked:,} of {len(again):,} numbers were computed a second time, by other code than "
        f"made them; {n_unchecked:,} were not. {NOT_REPEATED}"
    )


def _read_numbers(file):
    """DataFrame, numbers.csv with texts as they stand and NaN for a value that is not there."""
    empty = {key: [""] for key in ("value", "low", "high")}
    return in_new_words(pd.read_csv(file, keep_default_na=False, na_values=empty))


def _repeated_ids(numbers):
    """list of Findings, one for each id that two rows share."""
    ids = numbers["id"]
    repeated = ids[ids.duplicated()].unique()
    sentence = "{} stands twice in numbers.csv."
    return [Finding(id_, "", "", "contradiction", sentence.format(id_)) for id_ in repeated]


# --- what the report prints ---------------------------------------------------------------------


def _misprints(printed, numbers):
    """list of Findings, one for each printed (id, text) that its row in numbers.csv belies."""
    rows = {row["id"]: row for row in numbers.to_dict("records")}
    findings = []
    for escaped_id, escaped_text in printed:
        id_ = html.unescape(escaped_id)
        text = html.unescape(escaped_text)
        wrong = "numbers.csv has no such row"
        if id_ in rows:
            wrong = _misprint(text, rows[id_])
        if wrong:
            sentence = f"The report prints {text!r} for {id_}, but {wrong}."
            findings.append(Finding(id_, text, "", "contradiction", sentence))
    return findings


def _misprint(text, row):
    """str, what the row holds instead of the printed text; "" where text and row agree."""
    says_none = text.startswith("not estimable")
    if says_none and np.isnan(row["value"]):
        return ""
    if says_none or np.isnan(row["value"]):
        return f"its value is {row['value']}"

    # "86.1 % (82.0 to 89.9; n = 977 patches of 51 slides)": value, interval, n; short texts lack n.
    before, _, size = text.partition("n = ")
    value, _, interval = before.partition("(")
    scale = 1
    if "%" in value:
        scale = 100
    pieces = [(value, [scale * row["value"]])]
    if " to " in interval:
        pieces.append((interval, [scale * row["low"], scale * row["high"]]))
    if size:
        pieces.append((size, [row["n"]]))
    for piece, exact in pieces:
        if not _prints(piece, exact):
            return f"its row holds {', '.join(f'{number:g}' for number in exact)}"
    return ""


def _prints(text, exact):
    """bool, whether the figures in a text begin with these numbers, rounded."""
    figures = []
    for figure in _FIGURE.findall(text):
        figures.append(Decimal(figure.replace(",", "").replace("−", "-")))
    if len(figures) < len(exact):
        return False
    return all(map(rounds_to, figures, exact))


# --- one row of numbers.csv ---------------------------------------------------------------------


def _recount_row(row, folder, tables, scores):
    """(Finding, how it was computed or why not) of a row; tables keeps those already read."""
    reason = _reason_to_leave(row, folder)
    if reason:
        return _unchecked(row), reason
    try:
        if row["source"] not in tables:
            tables[row["source"]] = _read_source(row["source"], folder)
        table = tables[row["source"]]
        how, rule = _rule_for(table)
        value, n = rule(row, table, scores)
    except (LookupError, ValueError) as error:
        return _unchecked(row), f"no rule, row or column for {error.args[0]}"
    return _compared(row, value, n), how


def _reason_to_leave(row, folder):
    """str, why a number is not computed again; "" if it can be."""
    if not row["source"]:
        return NO_TABLE.get(row["id"][:2], "rests on no table")
    for name in row["source"].split(", "):
        file = folder / name
        if folder not in file.resolve().parents or not file.is_file():
            return "no table in this report's folder"
    if row["metric"].startswith(LEFT_TO_TESTS):
        return "no plain count: left to the tests"
    return ""


def _read_source(source, folder):
    """DataFrame of the table that a number rests on; a second file is joined to it by patch."""
    first, *more = [
        pd.read_csv(folder / name, keep_default_na=False) for name in source.split(", ")
    ]
    for other in more:
        first = first.merge(other, on="patch", how="left")
    return first


def _rule_for(table):
    """(how, rule) by the column that tells the kind of table; the rule gives (value, n)."""
    for column, how, rule in RULES:
        if column in table:
            return how, rule
    raise LookupError("this kind of table")


def _unchecked(row):
    """Finding of a number that is not computed again."""
    sentence = f"{row['metric']} of {row['run']} was not recomputed."
    return Finding(row["id"], row["value"], "", "unchecked", sentence)


def _compared(row, value, n):
    """Finding: the number beside its recomputed value and n, and inside its own interval or not."""
    same_value = np.isclose(value, row["value"], rtol=0, atol=_TOLERANCE, equal_nan=True)
    same_n = n == int(row["n"])
    outside = row["value"] < row["low"] - 1e-9 or row["value"] > row["high"] + 1e-9
    sentence = (
        f"{row['metric']} of {row['run']} is {value:.6g} (n = {n}) recomputed, "
        f"{row['value']:.6g} (n = {row['n']}) in numbers.csv"
    )
    if outside:
        sentence += f", there outside its own interval, {row['low']:.6g} to {row['high']:.6g}"
    verdict = "contradiction"
    if same_value and same_n and not outside:
        verdict = "consistent"
    return Finding(row["id"], row["value"], value, verdict, f"{sentence}.")


# --- rules: one for each kind of table ----------------------------------------------------------


def _from_predictions(row, table, scores):
    """(value, n) of a metric of one network, or of the difference of two; mean over seeds."""
    table = _judged_patches(row, table, scores)
    name_column = "run"
    if "name" in table:
        name_column = "name"
    metric = _ENDING.sub("", row["metric"])
    names = re.split(" minus | less ", row["run"])
    by_name = table.groupby(name_column)
    seeds = [_values_by_seed(metric, by_name.get_group(name), scores) for name in names]
    if len(seeds) == 1:
        values, sizes = seeds[0]
        return np.mean(values), sizes[0]

    n_seeds = [len(values) for values, _ in seeds]
    if row["metric"].endswith(" gap"):
        # A gap pairs as many seeds of one network as of the other.
        n_seeds = [min(n_seeds)] * len(seeds)
    first, second = (np.mean(values[:n]) for (values, _), n in zip(seeds, n_seeds, strict=True))
    n_patches = table.loc[table[name_column].isin(names), "patch"].nunique()
    return first - second, n_patches


def _judged_patches(row, table, scores):
    """DataFrame, the predictions that a row rests on: of its set, where the true score is known."""
    truth = table["truth"]
    if " after " in row["metric"]:
        truth = pd.to_numeric(table["reread"]).fillna(truth)
    asked = (table["set"] == row["set"]) & (truth >= 0)
    if "metric" in table:
        asked &= table["metric"] == row["metric"]
    table = table.assign(truth=truth)[asked]
    return table.assign(truth=table["truth"].astype(int), predicted=_predicted(table, scores))


def _predicted(table, scores):
    """(N,) predicted scores: of those declared the likeliest by p0, p1 …, or the column of them."""
    if "p0" in table:
        probabilities = table[[f"p{score}" for score in scores]].to_numpy(float)
        return np.array(scores)[probabilities.argmax(1)]
    if "answer" in table:
        return table["answer"].to_numpy(int)
    return table["predicted"].to_numpy(int)


def _values_by_seed(metric, table, scores):
    """([values], [n]) of a metric, one for each run of a network, in the order of the table."""
    values = []
    sizes = []
    for _, seed in table.groupby("run", sort=False):
        columns = seed["truth"].to_numpy(), seed["predicted"].to_numpy()
        value, n = recount_metric(metric, *columns, scores=scores)
        values.append(value)
        sizes.append(n)
    return values, sizes


def _from_ratings(row, table, scores=ALL_SCORES):
    """(value, n) of a metric of two raters, of one with the majority of the others, or of all."""
    first_readings = table[table["reading"].astype(int) == 1]
    wide = first_readings.pivot(index="patch", columns="rater", values="score")
    wide = wide.fillna(-1).astype(int)
    people = table.loc[table["person"], "rater"].unique()
    if row["metric"].startswith(COEFFICIENTS):
        # a score that somebody gave is a category, whatever the study declares
        categories = sorted({*scores, *first_readings["score"].astype(int)})
        return recount_coefficient(row["metric"], wide[people].to_numpy(int), categories)
    rater = row["run"].removesuffix(" against the other raters")
    if " ~ " in rater:
        a, b = rater.split(" ~ ")
        # A rater without any reading has no column.
        truth, predicted = wide.reindex(columns=[a, b], fill_value=-1).to_numpy().T
    else:
        others = wide[people].drop(columns=rater, errors="ignore")
        truth = np.array([_majority(scores) for scores in others.to_numpy(int)])
        predicted = wide[rater].to_numpy()
    both = (truth >= 0) & (predicted >= 0)
    return recount_metric(row["metric"], truth[both], predicted[both], scores=scores)


def _majority(scores):
    """int, the commonest of the readings (-1: none) of a patch; -1 where the commonest are two."""
    votes = np.bincount(scores[scores >= 0], minlength=len(SCORES))
    if (votes == votes.max()).sum() > 1:
        return -1
    return votes.argmax()


def _from_patches(row, table, scores):
    """(value, n) of a mean over the values that a table keeps for each patch."""
    if "number" in table:
        chosen = table[table["number"] == row["id"]]
        column = "value"
    elif "change" in table:
        change = row["metric"].partition(", ")[2]
        chosen = table[(table["label"] == row["run"]) & (table["change"] == change)]
        column = "spearman"
    else:
        chosen = table[table["label"] == row["run"]]
        column = row["metric"]
    values = pd.to_numeric(chosen[column]).dropna()
    return values.mean(), len(values)


def _from_changed_patches(row, table, scores):
    """(value, n) of "accuracy, <network>" or "kappa, <network>" under one change of the patches."""
    metric, _, network = row["metric"].partition(", ")
    if metric == "kappa":
        metric = "kappa quadratic"
    chosen = table[table["kind"] == row["run"]]
    columns = chosen["truth"].to_numpy(int), chosen[network].to_numpy(int)
    return recount_metric(metric, *columns, scores=scores)


# --- metrics: of (N,) true and (N,) predicted scores --------------------------------------------


def recount_metric(
    metric: str,
    truth: np.ndarray,
    predicted: np.ndarray,
    *,
    scores: Sequence[int] = ALL_SCORES,
) -> tuple[float, int]:
    """(value, n) of a metric of scores (N,), none unknown; NaN where it is not defined.

    scores are those that the study declares, as positions in SCORES.
    """
    name, _, where = metric.partition(" ")
    if name in ("recall", "sensitivity", "specificity"):
        asked, answered = _one_side(name, where, truth, predicted)
        return _fraction_true(answered[asked]), int(asked.sum())
    if metric.startswith(COEFFICIENTS):
        value, _ = recount_coefficient(metric, np.stack([truth, predicted], axis=1), scores)
        return value, len(truth)
    if metric not in METRICS:
        raise LookupError(metric)
    if not len(truth):
        return np.nan, 0
    # What is not defined is NaN in numbers.csv too; scikit-learn warns of it.
    with warnings.catch_warnings(action="ignore"), np.errstate(all="ignore"):
        return float(METRICS[metric](truth, predicted)), len(truth)


def _one_side(name, where, truth, predicted):
    """((N,), (N,)) bool: truly and predicted of one score, above a cut, or not above it."""
    if name == "recall":
        score = SCORES.index(where)
        return truth == score, predicted == score
    cut = CUTS.index(where)
    if name == "sensitivity":
        return truth > cut, predicted > cut
    return truth <= cut, predicted <= cut


def _fraction_true(answered):
    """float, the fraction of (n,) bool that is true; NaN of none."""
    if not len(answered):
        return np.nan
    return float(answered.mean())


def _balanced_accuracy(truth, predicted):
    return sk.recall_score(truth, predicted, labels=np.unique(truth), average="macro")


def _majority_rate(truth, predicted):
    return np.bincount(truth).max() / len(truth)


def _off_by_two_rate(truth, predicted):
    return np.mean(np.abs(predicted - truth) > 1)


def _kappa_unweighted(truth, predicted):
    return sk.cohen_kappa_score(truth, predicted, labels=range(len(SCORES)))


def _kappa_linear(truth, predicted):
    return sk.cohen_kappa_score(truth, predicted, labels=range(len(SCORES)), weights="linear")


def _kappa_quadratic(truth, predicted):
    return sk.cohen_kappa_score(truth, predicted, labels=range(len(SCORES)), weights="quadratic")


# None of these is the code that made the number. Kappas count the steps of all four scores, also
# in a study of fewer: a score that nobody gave changes none of them.
METRICS = {
    "accuracy": sk.accuracy_score,
    "balanced accuracy": _balanced_accuracy,
    "majority rate": _majority_rate,
    "off-by-two rate": _off_by_two_rate,
    "mean absolute error": sk.mean_absolute_error,
    "kappa unweighted": _kappa_unweighted,
    "kappa linear": _kappa_linear,
    "kappa quadratic": _kappa_quadratic,
}

_BY_PATCH = "from the answer to each patch and its true score, by scikit-learn or counting"
# The column that tells the kind of table, what is done with it, and the rule that does it.
RULES = (
    ("p0", _BY_PATCH, _from_predictions),
    ("answer", _BY_PATCH, _from_predictions),
    ("rater", "from single readings, by scikit-learn or counting", _from_ratings),
    ("label", "mean of the values kept for each patch", _from_patches),
    ("number", "mean of the values kept for each patch", _from_patches),
    ("kind", "from the answer to each changed patch", _from_changed_patches),
    ("predicted", _BY_PATCH, _from_predictions),
)
