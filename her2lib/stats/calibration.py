"""What probabilities are worth: ranking and calibration by cut, temperature, what to send on."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax

from her2lib.scores import ALL_SCORES, CUTS
from her2lib.stats.coefficients import cuts_between
from her2lib.stats.intervals import Groups, SumStatistic, bootstrap

BINS = 10
_TINY = 1e-12
# Weights of patches held at a time: 16 MB.
_WEIGHTS_AT_A_TIME = 2_000_000


def at_least(probabilities: np.ndarray) -> np.ndarray:
    """(N,3) probability that the score lies above each of the three cuts."""
    from_above = np.cumsum(np.asarray(probabilities, float)[:, ::-1], axis=1)
    return np.clip(from_above[:, ::-1][:, 1:], 0, 1)


# --- ranking ------------------------------------------------------------------------------------


class Ranked:
    """AUROC as a statistic that resamples by weights, averaged over pairs of columns.

    split(truth, probabilities) gives the pairs ((N,) bool which patches are positive, (N,) how
    high each is ranked); pairs of one class are left out. why says why there may be none.
    """

    kind = "number"

    def __init__(self, split: Callable, why: str):
        self.split = split
        self.why = why

    def __call__(self, truth, probabilities, **_) -> float:
        once = np.ones((1, len(truth)))
        return float(self.draws(once, np.arange(len(truth)), truth, probabilities)[0])

    def draws(self, drawn, index, /, truth, probabilities, **_):
        """(R,) AUROC under each row of drawn (R,G); index (N,) is the group of each patch."""
        pairs = []
        for positive, ranked in self.split(truth, probabilities):
            if positive.any() and not positive.all():
                pairs.append((positive, ranked))
        if not pairs:
            return np.full(len(drawn), np.nan)
        n_parts = max(1, len(drawn) * len(index) // _WEIGHTS_AT_A_TIME)
        values = []
        for part in np.array_split(drawn, n_parts):
            weights = part[:, index]
            aurocs = [_auroc(positive, ranked, weights) for positive, ranked in pairs]
            values.append(np.mean(aurocs, axis=0))
        return np.concatenate(values)


def _auroc(positive, ranked, weights):
    """(R,) AUROC of patches (N,) under each row of weights (R,N)."""
    order = np.argsort(ranked, kind="stable")
    # Ties share one rank.
    starts = np.flatnonzero(np.diff(ranked[order], prepend=-np.inf))
    up = np.add.reduceat(weights[:, order] * positive[order], starts, axis=1)
    down = np.add.reduceat(weights[:, order] * ~positive[order], starts, axis=1)
    below = np.cumsum(down, axis=1) - down / 2
    return (up * below).sum(1) / (up.sum(1) * down.sum(1))


def _each_score(truth, probabilities):
    """Pairs of Ranked, one per score: patches of this score against all others."""
    return [(truth == k, probabilities[:, k]) for k in range(probabilities.shape[1])]


def _above_cut(truth, probabilities, cut):
    """The pair of Ranked of one cut: patches above it against those below."""
    return [(truth > cut, at_least(probabilities)[:, cut])]


auroc_macro = Ranked(_each_score, "all patches have the same score")
auroc_cut = [
    Ranked(partial(_above_cut, cut=k), f"all patches lie on one side of {cut}")
    for k, cut in enumerate(CUTS)
]


# --- calibration --------------------------------------------------------------------------------


def _rps_rows(truth, probabilities, scores=ALL_SCORES):
    """(N,2) squared error of the probability above each cut, mean over the study's cuts; and 1."""
    # A cut below the lowest declared score is never missed and would flatter the mean.
    cuts = cuts_between(scores)
    above = np.asarray(truth)[:, None] > np.array(cuts)
    errors = ((at_least(probabilities)[:, cuts] - above) ** 2).mean(1)
    return np.stack([errors, np.ones(len(truth))], axis=1)


def _ece_rows(truth, probabilities, cut, **_):
    """(N,3*bins) for the bin of each patch: 1, its forecast, whether it lies above the cut."""
    forecast = at_least(probabilities)[:, cut]
    above = np.asarray(truth) > cut
    in_bin = np.eye(BINS)[_bin_of(forecast)]  # (N,bins)
    rows = np.stack([in_bin, in_bin * forecast[:, None], in_bin * above[:, None]], axis=1)
    return rows.reshape(len(forecast), -1)


def _ece_of_sums(sums, **_):
    """(…) mean distance of forecast and outcome over bins, weighted by patches (Guo 2017)."""
    count, forecast, above = np.moveaxis(sums.reshape(*sums.shape[:-1], 3, BINS), -2, 0)
    return np.abs(forecast - above).sum(-1) / count.sum(-1)


def _bin_of(forecast):
    """(N,) int bin of a probability; 1.0 lies in the last one."""
    return np.minimum((forecast * BINS).astype(int), BINS - 1)


def _ratio_of_sums(sums, **_):
    return sums[..., 0] / sums[..., 1]


ranked_probability_score = SumStatistic(_rps_rows, _ratio_of_sums)
calibration_error = [
    SumStatistic(partial(_ece_rows, cut=k), _ece_of_sums) for k in range(len(CUTS))
]


def fit_temperature(truth: np.ndarray, probabilities: np.ndarray) -> float:
    """float, the temperature with the least cross-entropy on validation patches (Guo 2017).

    Above 1 the probabilities (N,4) were too sure. Raises ValueError where there are no patches.
    """
    if not len(truth):
        raise ValueError("A temperature needs validation patches: there are none.")
    logits = np.log(np.clip(probabilities, _TINY, 1))
    rows = np.arange(len(truth))

    def cross_entropy(log_temperature):
        return -log_softmax(logits * np.exp(-log_temperature), axis=1)[rows, truth].mean()

    best = minimize_scalar(cross_entropy, bounds=(-3, 5))
    return float(np.exp(best.x))


def apply_temperature(probabilities: np.ndarray, temperature: float) -> np.ndarray:
    """(N,4) probabilities at a temperature; the scores they choose stay the same."""
    return softmax(np.log(np.clip(probabilities, _TINY, 1)) / temperature, axis=1)


def among_scores(probabilities: np.ndarray, scores: Sequence[int] = ALL_SCORES) -> np.ndarray:
    """(N,4) probabilities, given that the score is one of these; 0 for the others.

    scores are those that a study declares, as positions in SCORES. A network always answers four
    scores: these are its answers in a study of fewer. Probabilities that are no finite numbers
    stay so.
    """
    if len(scores) == len(CUTS) + 1:
        return probabilities
    declared = np.zeros_like(probabilities)
    declared[:, scores] = probabilities[:, scores]
    total = declared.sum(1, keepdims=True)
    # A network sure of a score outside to the last digit says nothing about those inside.
    ignorant = np.isin(np.arange(probabilities.shape[1]), scores) / len(scores)
    with np.errstate(invalid="ignore"):
        shares = declared / total
    return np.where(total == 0, ignorant, shares).astype(probabilities.dtype)


def prior_corrected(
    probabilities: np.ndarray,
    *,
    trained: np.ndarray,
    target: np.ndarray | None = None,
    steps: int = 500,
) -> tuple[np.ndarray, np.ndarray]:
    """((N,4) probabilities, (4,) fractions) for other fractions of the scores than in training.

    trained holds the counts or fractions of the scores in training, target those where the
    patches come from; without target they are estimated in EM steps (Saerens 2002).
    """
    # A score that never occurred in training stays impossible.
    trained = np.asarray(trained, float) / np.sum(trained)
    inverse = np.divide(1, trained, out=np.zeros_like(trained), where=trained > 0)
    if target is not None:
        fractions = np.asarray(target, float) / np.sum(target)
        return _reweighted(probabilities, fractions * inverse), fractions
    fractions = trained
    for _ in range(steps):
        shifted = _reweighted(probabilities, fractions * inverse)
        fractions = shifted.mean(0)
    return shifted, fractions


def _reweighted(probabilities, ratio):
    """(N,4) probabilities times a ratio (4,) for each score, summing to 1 again."""
    shifted = probabilities * ratio
    return shifted / shifted.sum(1, keepdims=True)


# --- tables with intervals ----------------------------------------------------------------------


def reliability_table(
    truth: np.ndarray,
    probabilities: np.ndarray,
    *,
    groups: Groups,
    scores: Sequence[int] = ALL_SCORES,
    resamples: int = 1000,
    seed: int = 0,
) -> pd.DataFrame:
    """DataFrame, per cut and occupied bin: mean forecast and the observed fraction above the cut.

    The cuts are those with declared scores on both sides. Columns cut, bin, forecast, observed,
    low, high, n, sample, note; probabilities are (N,4).
    Example: reliability_table(truth, probabilities, groups=patients).
    """
    options: dict[str, Any] = {"groups": groups, "resamples": resamples, "seed": seed}
    rows = []
    for k in cuts_between(scores):
        forecast = at_least(probabilities)[:, k]
        above = (np.asarray(truth) > k).astype(float)
        bins = _bin_of(forecast)
        for b in np.unique(bins):
            observed = bootstrap(_fraction_among, above, bins == b, **options)
            row = {
                "cut": CUTS[k],
                "bin": int(b),
                "forecast": forecast[bins == b].mean(),
                "observed": observed.value,
                "low": observed.low,
                "high": observed.high,
                "n": observed.n,
                "sample": observed.sample,
                "note": observed.note,
            }
            rows.append(row)
    return pd.DataFrame(rows)


def risk_coverage_table(
    truth: np.ndarray,
    probabilities: np.ndarray,
    *,
    groups: Groups,
    steps: int = 20,
    resamples: int = 1000,
    seed: int = 0,
) -> pd.DataFrame:
    """DataFrame, per fraction of patches that a network may keep, the surest first: its errors.

    Columns threshold, coverage, sent on (patches for a pathologist), error and off_by_two of the
    kept ones with intervals, n, sample.
    """
    options: dict[str, Any] = {"groups": groups, "resamples": resamples, "seed": seed}
    sureness = np.max(probabilities, axis=1)
    predicted = np.argmax(probabilities, axis=1)
    distance = np.abs(predicted - np.asarray(truth))
    errors = {"error": distance > 0, "off_by_two": distance > 1}
    fractions = np.linspace(0, 1, steps, endpoint=False)
    thresholds = np.unique(np.quantile(sureness, fractions, method="lower"))
    rows = []
    for threshold in thresholds[::-1]:
        sure = sureness >= threshold
        n_sent = int((~sure).sum())
        row = {"threshold": threshold, "coverage": sure.mean(), "sent on": n_sent}
        for name, wrong in errors.items():
            estimate = bootstrap(_fraction_among, wrong.astype(float), sure, **options)
            row[name] = estimate.value
            row[f"{name}_low"] = estimate.low
            row[f"{name}_high"] = estimate.high
            row["n"] = estimate.n
            row["sample"] = estimate.sample
        rows.append(row)
    return pd.DataFrame(rows)


def _rows_among(hit, chosen):
    """(N,2) whether a chosen patch is a hit, whether it is chosen."""
    return np.stack([hit * chosen, chosen], axis=1).astype(float)


def _chosen(rows):
    return rows[:, 1]


# The fraction of hits among chosen patches, of (N,) 0 or 1 and (N,) bool.
_fraction_among = SumStatistic(
    _rows_among, _ratio_of_sums, kind="proportion", size=_chosen, why="no patch is left"
)
