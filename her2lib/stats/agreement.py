"""How well scores agree: every metric of the study with its interval, kappas, the human range.

Wherever scores may be given, these are the scores that a study declares, as positions in SCORES
(coefficients says what depends on them); a value that is none of them is refused.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import spearmanr

from her2lib.scores import ALL_SCORES, CUTS, SCORES
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
    cuts_between,
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
    Groups,
    SumStatistic,
    bootstrap,
    estimate_from_draws,
    group_index,
    group_sums,
    interval_quantiles,
    resample_counts,
)

_ONE_SCORE = "both sides gave one and the same score throughout, so chance alone would agree"
_FEW = "no patch has two ratings, or all ratings are one score"


def confusion_counts(
    truth: np.ndarray, predicted: np.ndarray, scores: Sequence[int] = ALL_SCORES
) -> np.ndarray:
    """(q,q) int counts: rows the true score, columns the predicted; -1 (unknown) is left out."""
    cells = confusion_cells(truth, predicted, scores).sum(0)
    return cells.reshape(len(scores), len(scores)).astype(int)


# --- statistics: call them for the value, hand them to bootstrap for the Estimate ---------------


def _of_confusion(
    function, *, kind="proportion", why="there are no patches", rows=ALL_SCORES, **options
):
    """SumStatistic of a function of the confusion matrix; rows: the true scores that enter."""
    of = partial(_from_cells, function, **options)
    return SumStatistic(confusion_cells, of, why=why, kind=kind, size=partial(_patches_in, rows))


def _from_cells(function, sums, scores=ALL_SCORES, **options):
    """(…) function of the confusion counts (…,q,q) behind their sums (…,q*q)."""
    confusion = sums.reshape(*sums.shape[:-1], len(scores), len(scores))
    return function(confusion, scores=scores, **options)


def _patches_in(rows, cells, scores=ALL_SCORES, **_):
    """(N,) 1 for a patch whose true score is among these rows of the confusion matrix."""
    enters = np.isin(scores, rows)
    return cells.reshape(-1, len(scores), len(scores))[:, enters].sum((1, 2))


def _patches_with_both(cells, **_):
    """(N,) 1 for a patch that has both scores."""
    return cells.sum(1)


def _kappa_metric(weights):
    """SumStatistic of Cohen's kappa under the named weighting."""
    of = partial(_from_cells, cohen_kappa, weights=weights)
    return SumStatistic(confusion_cells, of, why=_ONE_SCORE)


def _recall_metric(score):
    """SumStatistic of the recall of one score."""
    why = f"no patch has score {SCORES[score]}"
    return _of_confusion(recall, score=score, rows=(score,), why=why)


def _sensitivity_metric(cut):
    """SumStatistic of the sensitivity at one clinical cut."""
    why = f"no patch lies above {CUTS[cut]}"
    return _of_confusion(sensitivity, cut=cut, rows=ALL_SCORES[cut + 1 :], why=why)


def _specificity_metric(cut):
    """SumStatistic of the specificity at one clinical cut."""
    why = f"no patch lies below {CUTS[cut]}"
    return _of_confusion(specificity, cut=cut, rows=ALL_SCORES[: cut + 1], why=why)


def _of_two_readings(rows, of, **options):
    """SumStatistic of truth and predicted as if they were two raters' readings."""
    both = partial(_stacked, rows, **options)
    return SumStatistic(both, partial(of, **options), why=_FEW)


def _stacked(rows, truth, predicted, **options):
    return rows(np.stack([truth, predicted], 1), **options)


def _has_two_readings(rows, **_):
    """(N,) 1 for a patch with two readings, of the rows of coefficients.reading_rows."""
    return rows[:, 1]


def _enters_alpha(rows, **_):
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
    scores: Sequence[int] = ALL_SCORES,
    resamples: int = 2000,
    seed: int = 0,
) -> pd.DataFrame:
    """DataFrame, a row per metric: metric and Estimate's fields, of patches whose truth is known.

    scored is (N,) predicted scores, or (N,4) probabilities, which also give AUROC and calibration;
    or a list of either, one per seed. Of scores that a study does not declare there is no recall,
    and of a cut with declared scores on one side alone there is nothing.
    Example: metrics(truth, probabilities, groups=patients, scores=(1, 2, 3)).
    """
    if not isinstance(scored, list):
        scored = [scored]
    known = np.asarray(truth) >= 0
    truth = np.asarray(truth)[known]
    if not isinstance(groups, pd.Series):
        groups = np.asarray(groups)
    groups = groups[known]
    runs = [np.asarray(run)[known] for run in scored]
    options: dict[str, Any] = {
        "groups": groups,
        "resamples": resamples,
        "seed": seed,
        "scores": scores,
    }
    rows = []
    predicted = [_as_scores(run) for run in runs]
    for name in filter(partial(_is_about, scores), SCORED):
        metric = SCORED[name]
        estimate = bootstrap(metric, truth, predicted, **options)
        if name.startswith("recall") and estimate.n and len(runs) == 1:
            right = f"{round(estimate.value * estimate.n)} of {estimate.n}"
            estimate = replace(estimate, note=_joined(right, estimate.note))
        rows.append({"metric": name, **vars(estimate)})
    if runs[0].ndim == 2:
        for name in filter(partial(_is_about, scores), GRADED):
            estimate = bootstrap(GRADED[name], truth, runs, **options)
            rows.append({"metric": name, **vars(estimate)})
    return pd.DataFrame(rows)


def _is_about(scores, metric):
    """bool, whether the score or the cut that ends the name of a metric is one of the study's."""
    where = metric.split(" ")[-1]
    if where in SCORES:
        return SCORES.index(where) in scores
    if where in CUTS:
        return CUTS.index(where) in cuts_between(scores)
    return True


def _as_scores(run):
    """(N,) the scores of a run: as they are, or the likeliest of (N,4) probabilities."""
    if run.ndim == 2:
        return run.argmax(1)
    return run


def _joined(*notes):
    return "; ".join(filter(None, notes))


# --- every two raters ---------------------------------------------------------------------------


@dataclass(frozen=True)
class _Pairs:
    """Kappas of every two of R raters: who, Estimates, draws (resamples,pairs), sizes (G,pairs)."""

    couples: list
    estimates: list
    draws: np.ndarray
    sizes: np.ndarray


def kappa_matrix(
    ratings: np.ndarray,
    *,
    groups: Groups,
    weights: str,
    scores: Sequence[int] = ALL_SCORES,
    resamples: int = 2000,
    seed: int = 0,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Three (R,R) arrays, value, low, high: kappa of every two raters of ratings (N,R; -1 missing).

    weights names the weighting: unweighted, linear or quadratic.
    """
    # A rater agrees with himself at 1, on the diagonal.
    matrices = np.tile(np.eye(np.shape(ratings)[1]), (3, 1, 1))
    pairs = _pairwise(ratings, groups, weights, scores, resamples, seed)
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
    scores: Sequence[int] = ALL_SCORES,
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
    pairs = _pairwise(ratings, groups, weights, scores, resamples, seed)
    rows = []
    for (i, j), estimate in zip(pairs.couples, pairs.estimates, strict=True):
        row = {"a": names[i], "b": names[j], "metric": f"kappa {weights}"}
        rows.append({**row, **vars(estimate)})
    return pd.DataFrame(rows)


def _pairwise(ratings, groups, weights, scores, resamples, seed):
    """_Pairs of ratings (N,R; -1 missing), all from one draw of the groups."""
    ratings = np.asarray(ratings)
    index, group_kind, n_groups = group_index(groups)
    couples = list(combinations(range(ratings.shape[1]), 2))
    n_pairs = len(couples)
    if not n_pairs:
        return _Pairs(couples, [], np.empty((resamples, 0)), np.empty((n_groups, 0)))
    by_pair = []
    for i, j in couples:
        cells = confusion_cells(ratings[:, i], ratings[:, j], scores)
        by_pair.append(group_sums(cells, index))
    sums = np.stack(by_pair, axis=1)  # (G,pairs,q*q)
    sizes = sums.sum(2)
    of_pairs = partial(_from_cells, cohen_kappa, scores=scores, weights=weights)
    with np.errstate(all="ignore"):
        # counted out, as -1 has no answer where nobody read a patch
        cells = sums.reshape(n_groups, n_pairs * len(scores) ** 2)  # (G,pairs*q*q)
        drawn = resample_counts(n_groups, resamples, seed) @ cells
        values = of_pairs(sums.sum(0))
        draws = of_pairs(drawn.reshape(resamples, n_pairs, -1))
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
    scores: Sequence[int] = ALL_SCORES,
    resamples: int = 2000,
    seed: int = 0,
) -> pd.DataFrame:
    """DataFrame, per network: mean kappa with the raters, the raters' own range, a verdict.

    ratings (N,R) holds -1 where a rater gave none; names are the raters, networks those of them
    that are networks. The verdict (above, within, below or undecided) and the sentence say where
    the network stands; distance is from the raters' lowest kappa.
    Example: human_range(ratings, ["P1", "P2", "net"], networks=["net"], groups=patients).
    """
    pairs = _pairwise(ratings, groups, weights, scores, resamples, seed)
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
