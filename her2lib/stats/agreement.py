"""How well scores agree: every metric of the study with its interval, kappas, the human range."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import spearmanr

from her2lib.scores import CUTS, SCORES
from her2lib.stats.calibration import (
    Ranked,
    auroc_cut,
    auroc_macro,
    calibration_error,
    ranked_probability_score,
)
from her2lib.stats.coefficients import (
    alpha_of_sums,
    cohen_kappa,
    coincidence_rows,
    confusion_cells,
    fleiss_of_sums,
    fraction_right,
    gwet_of_sums,
    majority_rate,
    mean_absolute_error,
    mean_recall,
    off_by_two_rate,
    reading_rows,
    recall,
    sensitivity,
    specificity,
)
from her2lib.stats.intervals import (
    Estimate,
    Groups,
    SumStatistic,
    bootstrap,
    estimate_from_draws,
    group_index,
    group_sums,
    interval_quantiles,
    resample_counts,
)

Q = len(SCORES)
_ONE_SCORE = "both sides gave one and the same score throughout, so chance alone would agree"
_FEW = "no patch has two ratings, or all ratings are one score"


def confusion_counts(truth: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """(4,4) int counts: rows the true score, columns the predicted; -1 (unknown) is left out."""
    return confusion_cells(truth, predicted).sum(0).reshape(Q, Q).astype(int)


# --- statistics: call them for the value, hand them to bootstrap for the Estimate ---------------


def _of_confusion(
    function, *, kind="proportion", why="there are no patches", rows=slice(None), **options
):
    """SumStatistic of a function of the confusion matrix; rows: the true scores that enter."""
    of = partial(_from_cells, function, **options)
    return SumStatistic(confusion_cells, of, why=why, kind=kind, size=partial(_patches_in, rows))


def _from_cells(function, sums, scores=Q, **options):
    """(…) function of the confusion counts (…,q,q) behind their sums (…,q*q)."""
    return function(sums.reshape(*sums.shape[:-1], scores, scores), **options)


def _patches_in(rows, cells):
    """(N,) 1 for a patch whose true score is among these rows of the confusion matrix."""
    return cells.reshape(-1, Q, Q)[:, rows].sum((1, 2))


def _patches_with_both(cells):
    """(N,) 1 for a patch that has both scores."""
    return cells.sum(1)


def _kappa_metric(weights):
    """SumStatistic of Cohen's kappa under the named weighting."""
    of = partial(_from_cells, cohen_kappa, weights=weights)
    return SumStatistic(confusion_cells, of, why=_ONE_SCORE)


def _recall_metric(score):
    """SumStatistic of the recall of one score."""
    why = f"no patch has score {SCORES[score]}"
    return _of_confusion(recall, score=score, rows=slice(score, score + 1), why=why)


def _sensitivity_metric(cut):
    """SumStatistic of the sensitivity at one clinical cut."""
    why = f"no patch lies above {CUTS[cut]}"
    return _of_confusion(sensitivity, cut=cut, rows=slice(cut + 1, None), why=why)


def _specificity_metric(cut):
    """SumStatistic of the specificity at one clinical cut."""
    why = f"no patch lies below {CUTS[cut]}"
    return _of_confusion(specificity, cut=cut, rows=slice(cut + 1), why=why)


def _of_two_readings(rows, of, **options):
    """SumStatistic of truth and predicted as if they were two raters' readings."""
    both = partial(_stacked, rows, **options)
    return SumStatistic(both, partial(of, **options), why=_FEW)


def _stacked(rows, truth, predicted, **options):
    return rows(np.stack([truth, predicted], 1), **options)


def _has_two_readings(rows):
    """(N,) 1 for a patch with two readings, of the rows of coefficients.reading_rows."""
    return rows[:, 1]


def _enters_alpha(rows):
    """(N,) whether a patch has two readings, of the rows of coefficients.coincidence_rows."""
    return rows.any(1)


accuracy = _of_confusion(fraction_right)
# kappa(a, b, weights="quadratic")
kappa = SumStatistic(
    confusion_cells, partial(_from_cells, cohen_kappa), why=_ONE_SCORE, size=_patches_with_both
)
# These four take ratings (N,R; -1 missing).
fleiss = SumStatistic(reading_rows, fleiss_of_sums, why=_FEW, size=_has_two_readings)
gwet_ac1 = SumStatistic(reading_rows, gwet_of_sums, why=_FEW, size=_has_two_readings)
gwet_ac2 = SumStatistic(
    partial(reading_rows, weights="quadratic"),
    partial(gwet_of_sums, weights="quadratic"),
    why=_FEW,
    size=_has_two_readings,
)
krippendorff = SumStatistic(coincidence_rows, alpha_of_sums, why=_FEW, size=_enters_alpha)

# Metrics of (truth, predicted), in the order of all tables.
SCORED: dict[str, SumStatistic] = {
    "accuracy": accuracy,
    "balanced accuracy": _of_confusion(mean_recall, kind="fraction"),
    "majority rate": _of_confusion(majority_rate, kind="fraction"),
    "recall 0": _recall_metric(0),
    "recall 1+": _recall_metric(1),
    "recall 2+": _recall_metric(2),
    "recall 3+": _recall_metric(3),
    "kappa unweighted": _kappa_metric("unweighted"),
    "kappa linear": _kappa_metric("linear"),
    "kappa quadratic": _kappa_metric("quadratic"),
    "Gwet AC1": _of_two_readings(reading_rows, gwet_of_sums, weights="unweighted"),
    "Gwet AC2 quadratic": _of_two_readings(reading_rows, gwet_of_sums, weights="quadratic"),
    "Krippendorff alpha ordinal": _of_two_readings(
        coincidence_rows, alpha_of_sums, level="ordinal"
    ),
    "off-by-two rate": _of_confusion(off_by_two_rate),
    "mean absolute error": _of_confusion(mean_absolute_error, kind="number"),
    "sensitivity 0|1+": _sensitivity_metric(0),
    "sensitivity 1+|2+": _sensitivity_metric(1),
    "sensitivity 2+|3+": _sensitivity_metric(2),
    "specificity 0|1+": _specificity_metric(0),
    "specificity 1+|2+": _specificity_metric(1),
    "specificity 2+|3+": _specificity_metric(2),
}
# Metrics of (truth, probabilities).
GRADED: dict[str, SumStatistic | Ranked] = {
    "AUROC macro": auroc_macro,
    "AUROC 0|1+": auroc_cut[0],
    "AUROC 1+|2+": auroc_cut[1],
    "AUROC 2+|3+": auroc_cut[2],
    "ranked probability score": ranked_probability_score,
    "ECE 0|1+": calibration_error[0],
    "ECE 1+|2+": calibration_error[1],
    "ECE 2+|3+": calibration_error[2],
}


def spearman(a: np.ndarray, b: np.ndarray) -> float:
    """float, Spearman's rank correlation of two columns; NaN when one of them is constant."""
    if not np.ptp(a) or not np.ptp(b):
        return np.nan
    return float(spearmanr(a, b).statistic)


spearman.why = "one side is the same for every patch"  # type: ignore[attr-defined]


# --- one side against the truth -----------------------------------------------------------------


def metrics(
    truth: np.ndarray,
    scored: np.ndarray | list[np.ndarray],
    *,
    groups: Groups,
    resamples: int = 2000,
    seed: int = 0,
) -> pd.DataFrame:
    """DataFrame, a row per metric: metric and Estimate's fields, of patches whose truth is known.

    scored is (N,) predicted scores, or (N,4) probabilities, which also give AUROC and calibration;
    or a list of either, one per seed. Example: metrics(truth, probabilities, groups=patients).
    """
    if not isinstance(scored, list):
        scored = [scored]
    known = np.asarray(truth) >= 0
    truth = np.asarray(truth)[known]
    if not isinstance(groups, pd.Series):
        groups = np.asarray(groups)
    groups = groups[known]
    runs = [np.asarray(run)[known] for run in scored]
    options: dict[str, Any] = {"groups": groups, "resamples": resamples, "seed": seed}
    rows = []
    predicted = [_as_scores(run) for run in runs]
    for name, metric in SCORED.items():
        estimate = bootstrap(metric, truth, predicted, **options)
        if name.startswith("recall") and estimate.n and len(runs) == 1:
            right = f"{round(estimate.value * estimate.n)} of {estimate.n}"
            estimate = replace(estimate, note=_joined(right, estimate.note))
        rows.append({"metric": name, **vars(estimate)})
    if runs[0].ndim == 2:
        for name, graded in GRADED.items():
            rows.append({"metric": name, **vars(bootstrap(graded, truth, runs, **options))})
    return pd.DataFrame(rows)


def quadratic_kappa(
    truth: Sequence | np.ndarray,
    predicted: Sequence | np.ndarray,
    *,
    groups: Groups | None = None,
    resamples: int = 2000,
    seed: int = 0,
) -> Estimate:
    """Estimate of Cohen's kappa with quadratic weights, its interval by patients or slides.

    truth and predicted are scores 0..3, -1 where unknown: such patches are left out. groups holds
    the patient or slide of each patch, known for all: some empty ids are refused, for they would
    count as one patient. Without groups, or with empty ids alone (a warning), patches are
    resampled one by one, and the note says so. Raises
    ValueError for columns of unequal length and for what is no score.
    Example: print(quadratic_kappa(test.score, probabilities.argmax(1), groups=test.patient)).
    """
    a = _checked_scores(truth, "truth")
    b = _checked_scores(predicted, "predicted")
    if len(a) != len(b):
        raise ValueError(f"quadratic_kappa: unequal lengths, truth {len(a)}, predicted {len(b)}.")
    known = (a >= 0) & (b >= 0)  # patients without a patch that enters are not resampled
    alone = groups is None
    if groups is not None and not any(map(str, groups)):
        warnings.warn("No patient or slide is known: patches are resampled alone.", stacklevel=2)
        alone = True
    if alone:
        groups = pd.Series(range(len(a)), name="patches")
    groups = _checked_groups(groups, known)
    estimate = bootstrap(
        SCORED["kappa quadratic"],
        a[known],
        b[known],
        groups=groups,
        resamples=resamples,
        seed=seed,
    )
    if not alone or np.isnan(estimate.value):
        return estimate
    note = "no groups given: patches are resampled as if independent, too narrow if they are not"
    # No interval may be read without knowing that it is too narrow.
    return replace(estimate, note=_joined(estimate.note, note))


def _as_scores(run):
    """(N,) the scores of a run: as they are, or the likeliest of (N,4) probabilities."""
    if run.ndim == 2:
        return run.argmax(1)
    return run


def _joined(*notes):
    return "; ".join(filter(None, notes))


def _checked_scores(column, name):
    """(N,) int scores -1..3 of a column; raises ValueError for anything else."""
    scores = np.asarray(column)
    if scores.ndim != 1:
        raise ValueError(
            f"quadratic_kappa needs one score a patch in {name}, shape (N,), not {scores.shape}: "
            "probabilities (N,4) become scores by .argmax(1)."
        )
    if not len(scores):
        return scores.astype(int)
    numeric = scores.dtype.kind in "iuf"
    if not numeric or not np.isin(scores, [-1, *range(Q)]).all():
        raise ValueError(
            f"quadratic_kappa needs whole scores 0 to {Q - 1}, or -1 for unknown, in {name}."
        )
    return scores.astype(int)


def _checked_groups(groups, known):
    """(n,) Series of the ids of the patches that enter; ValueError where one has none."""
    groups = pd.Series(list(groups), dtype=object, name=getattr(groups, "name", None))
    if len(groups) != len(known):
        raise ValueError(
            f"quadratic_kappa needs a group for each patch: {len(groups)} for {len(known)}."
        )
    groups = groups[known]
    empty = groups.isna() | (groups.astype(str).str.strip() == "")
    if empty.any():
        raise ValueError(
            f"quadratic_kappa needs a group for each patch, but {empty.sum()} of {len(groups)} "
            "have an empty one: leave these patches out, or leave groups out to resample patches."
        )
    return groups


# --- every two raters ---------------------------------------------------------------------------


@dataclass(frozen=True)
class _Pairs:
    """Kappas of every two of R raters: who, Estimates, draws (resamples,pairs), sizes (G,pairs)."""

    couples: list
    estimates: list
    draws: np.ndarray
    sizes: np.ndarray


def kappa_matrix(
    ratings: np.ndarray, *, groups: Groups, weights: str, resamples: int = 2000, seed: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Three (R,R) arrays, value, low, high: kappa of every two raters of ratings (N,R; -1 missing).

    weights names the weighting: unweighted, linear or quadratic.
    """
    # A rater agrees with himself at 1, on the diagonal.
    matrices = np.tile(np.eye(np.shape(ratings)[1]), (3, 1, 1))
    pairs = _pairwise(ratings, groups, weights, resamples, seed)
    for (i, j), estimate in zip(pairs.couples, pairs.estimates, strict=True):
        numbers = estimate.value, estimate.low, estimate.high
        matrices[:, i, j] = numbers
        matrices[:, j, i] = numbers
    return tuple(matrices)


def kappa_table(
    ratings: np.ndarray,
    names: list[str],
    *,
    groups: Groups,
    weights: str,
    resamples: int = 2000,
    seed: int = 0,
) -> pd.DataFrame:
    """DataFrame, a row per two raters: a, b, metric and Estimate's fields.

    ratings (N,R) holds -1 where a rater gave none; names are the raters. Raises ValueError for
    fewer than two raters. Example: kappa_table(ratings, names, groups=slides, weights="linear").
    """
    if len(names) < 2:
        raise ValueError(
            f"Agreement needs two raters: {', '.join(names) or 'none'} is all there is."
        )
    pairs = _pairwise(ratings, groups, weights, resamples, seed)
    rows = []
    for (i, j), estimate in zip(pairs.couples, pairs.estimates, strict=True):
        row = {"a": names[i], "b": names[j], "metric": f"kappa {weights}"}
        rows.append({**row, **vars(estimate)})
    return pd.DataFrame(rows)


def _pairwise(ratings, groups, weights, resamples, seed):
    """_Pairs of ratings (N,R; -1 missing), all from one draw of the groups."""
    ratings = np.asarray(ratings)
    index, group_kind, n_groups = group_index(groups)
    couples = list(combinations(range(ratings.shape[1]), 2))
    n_pairs = len(couples)
    if not n_pairs:
        return _Pairs(couples, [], np.empty((resamples, 0)), np.empty((n_groups, 0)))
    by_pair = [group_sums(confusion_cells(ratings[:, i], ratings[:, j]), index) for i, j in couples]
    sums = np.stack(by_pair, axis=1)  # (G,pairs,16)
    sizes = sums.sum(2)
    with np.errstate(all="ignore"):
        # counted out, as -1 has no answer where nobody read a patch
        cells = sums.reshape(n_groups, n_pairs * Q * Q)  # (G,pairs*16)
        drawn = resample_counts(n_groups, resamples, seed) @ cells
        values = cohen_kappa(sums.sum(0).reshape(n_pairs, Q, Q), weights)
        draws = cohen_kappa(drawn.reshape(resamples, n_pairs, Q, Q), weights)
    estimates = []
    for p in range(n_pairs):
        why = "no patch has both ratings"
        if sizes[:, p].any():
            why = _ONE_SCORE
        estimate = estimate_from_draws(values[p], draws[:, p], sizes[:, p], group_kind, why=why)
        estimates.append(estimate)
    return _Pairs(couples, estimates, draws, sizes)


# --- networks beside people ---------------------------------------------------------------------


def human_range(
    ratings: np.ndarray,
    names: list[str],
    *,
    networks: list[str],
    groups: Groups,
    weights: str = "quadratic",
    resamples: int = 2000,
    seed: int = 0,
) -> pd.DataFrame:
    """DataFrame, per network: mean kappa with the raters, the raters' own range, a verdict.

    ratings (N,R) holds -1 where a rater gave none; names are the raters, networks those of them
    that are networks. The verdict (above, within, below or undecided) and the sentence say where
    the network stands; distance is from the raters' lowest kappa.
    Example: human_range(ratings, ["P1", "P2", "net"], networks=["net"], groups=patients).
    """
    pairs = _pairwise(ratings, groups, weights, resamples, seed)
    # The networks in every couple; none for two people.
    among = [{names[i], names[j]} & set(networks) for i, j in pairs.couples]
    usable = [p for p, estimate in enumerate(pairs.estimates) if not np.isnan(estimate.value)]
    human = [p for p in usable if not among[p]]
    rows = []
    for network in networks:
        with_people = [p for p in usable if among[p] == {network}]
        if with_people and human:
            rows.append(_range_row(network, weights, pairs, with_people, human))
        else:
            rows.append(_no_range_row(network, with_people))
    return pd.DataFrame(rows)


def _no_range_row(network, with_people):
    lack = "no two raters have a kappa with each other"
    if not with_people:
        lack = f"{network} has no kappa with any rater"
    sentence = f"No human range for {network}: {lack}."
    return {"network": network, "verdict": "undecided", "sentence": sentence}


def _range_row(network, weights, pairs, with_people, human):
    """dict, a row of human_range(): the pairs of a network with people beside those of people."""
    values = np.array([pairs.estimates[p].value for p in human])
    lowest = values.min()
    highest = values.max()
    mean = np.mean([pairs.estimates[p].value for p in with_people])
    quantiles = interval_quantiles(pairs.sizes[:, with_people].sum(1))
    drawn = pairs.draws[:, with_people].mean(1)
    low, high = np.nanquantile(drawn, quantiles)
    # The distance is paired: both sides come from the same draw of the groups.
    drawn_distance = drawn - pairs.draws[:, human[values.argmin()]]
    distance_low, distance_high = np.nanquantile(drawn_distance, quantiles)
    verdict = _range_verdict(mean, lowest, highest, distance_high)
    where = f"{verdict} the human range"
    if verdict == "undecided":
        where = "not clearly below the human range"
    first = pairs.estimates[with_people[0]]
    distance = mean - lowest
    sentence = (
        f"{network} agrees with the {len(with_people)} raters at a mean {weights} kappa of "
        f"{mean:.2f} ({low:.2f} to {high:.2f}; n = {first.n} {first.sample}), the raters with "
        f"each other at {lowest:.2f} to {highest:.2f}: {where}, {distance:+.2f} "
        f"({distance_low:+.2f} to {distance_high:+.2f}) from its lower end."
    )
    return {
        "network": network,
        "value": mean,
        "low": low,
        "high": high,
        "n": first.n,
        "sample": first.sample,
        "lowest": lowest,
        "highest": highest,
        "distance": distance,
        "distance_low": distance_low,
        "distance_high": distance_high,
        "verdict": verdict,
        "sentence": sentence,
    }


def _range_verdict(mean, lowest, highest, distance_high):
    """str: where a mean kappa lies; below only if the interval of its distance lies below zero."""
    if mean > highest:
        return "above"
    if mean >= lowest:
        return "within"
    if distance_high < 0:
        return "below"
    return "undecided"
