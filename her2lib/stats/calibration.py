"""What a network's probabilities are worth: ranking and calibration per clinical cut, temperature, priors, what to send on."""

import numpy as np
import pandas as pd
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax

from her2lib.scores import CUTS
from her2lib.stats.intervals import SumStatistic, bootstrap

BINS = 10
_TINY = 1e-12


def at_least(probabilities):
    """(N,3) probability that the score lies above each of the three cuts."""
    return np.clip(
        np.cumsum(np.asarray(probabilities, float)[:, ::-1], axis=1)[:, ::-1][:, 1:], 0, 1
    )


class Ranked:
    """AUROC as a statistic that resamples by weights: split(truth, probabilities) gives pairs (positive, graded), averaged."""

    kind = "number"

    def __init__(self, split, why):
        self.split, self.why = split, why

    def __call__(self, truth, probabilities):
        return float(
            self.draws(np.ones((1, len(truth))), np.arange(len(truth)), truth, probabilities)[0]
        )

    def draws(self, weights, index, /, truth, probabilities):
        """(R,) AUROC under each row of unit weights (R,G)."""
        pairs = [(p, g) for p, g in self.split(truth, probabilities) if p.any() and not p.all()]
        if not pairs:
            return np.full(len(weights), np.nan)
        parts = np.array_split(
            weights, max(1, weights.shape[0] * len(index) // 2_000_000)
        )  # 16 MB at a time
        return np.concatenate(
            [np.mean([_auroc(p, g, part[:, index]) for p, g in pairs], axis=0) for part in parts]
        )


auroc_macro = Ranked(
    lambda t, p: [(t == k, p[:, k]) for k in range(p.shape[1])], "all patches have the same score"
)
auroc_cut = [
    Ranked(lambda t, p, k=k: [(t > k, at_least(p)[:, k])], f"all patches lie on one side of {cut}")
    for k, cut in enumerate(CUTS)
]


def _rps_rows(truth, probabilities):
    above = np.asarray(truth)[:, None] > np.arange(len(CUTS))
    return np.stack([((at_least(probabilities) - above) ** 2).mean(1), np.ones(len(truth))], axis=1)


def _ece_rows(truth, probabilities, cut):
    forecast, above = at_least(probabilities)[:, cut], np.asarray(truth) > cut
    spot = np.eye(BINS)[np.minimum((forecast * BINS).astype(int), BINS - 1)]  # (N,bins)
    return np.stack([spot, spot * forecast[:, None], spot * above[:, None]], axis=1).reshape(
        len(forecast), -1
    )


def _ece(sums):
    count, forecast, above = np.moveaxis(sums.reshape(*sums.shape[:-1], 3, BINS), -2, 0)
    return np.abs(forecast - above).sum(-1) / count.sum(-1)


ranked_probability_score = SumStatistic(_rps_rows, lambda sums: sums[..., 0] / sums[..., 1])
calibration_error = [
    SumStatistic(lambda t, p, k=k: _ece_rows(t, p, k), _ece) for k in range(len(CUTS))
]


def fit_temperature(truth, probabilities):
    """float, the temperature that minimises cross-entropy on validation patches (Guo 2017); above 1 = too sure."""
    logits, rows = np.log(np.clip(probabilities, _TINY, 1)), np.arange(len(truth))
    if not len(rows):
        raise ValueError("A temperature needs validation patches: there are none.")
    best = minimize_scalar(
        lambda t: -log_softmax(logits * np.exp(-t), axis=1)[rows, truth].mean(), bounds=(-3, 5)
    )
    return float(np.exp(best.x))


def apply_temperature(probabilities, temperature):
    """(N,4) probabilities at a temperature; the scores they choose stay the same."""
    return softmax(np.log(np.clip(probabilities, _TINY, 1)) / temperature, axis=1)


def prior_corrected(probabilities, *, trained, target=None, steps=500):
    """((N,4) probabilities, (4,) target shares): for score shares other than trained; by EM if not given (Saerens 2002)."""
    trained = np.asarray(trained, float) / np.sum(trained)
    share = trained if target is None else np.asarray(target, float) / np.sum(target)
    ratio = np.divide(1, trained, out=np.zeros_like(trained), where=trained > 0)
    for _ in range(steps if target is None else 1):
        shifted = probabilities * (share * ratio)
        shifted = shifted / shifted.sum(1, keepdims=True)
        share = shifted.mean(0) if target is None else share
    return shifted, share


def reliability_table(truth, probabilities, *, groups, resamples=1000, seed=0):
    """DataFrame, per cut and occupied bin: forecast, the observed share above the cut with its interval, n, groups."""
    found = []
    for k, cut in enumerate(CUTS):
        forecast, above = at_least(probabilities)[:, k], (np.asarray(truth) > k).astype(float)
        bins = np.minimum((forecast * BINS).astype(int), BINS - 1)
        for b in np.unique(bins):
            seen = bootstrap(
                _among, above, bins == b, groups=groups, resamples=resamples, seed=seed
            )
            found.append(
                {
                    "cut": cut,
                    "bin": int(b),
                    "forecast": forecast[bins == b].mean(),
                    "observed": seen.value,
                    "low": seen.low,
                    "high": seen.high,
                    "n": seen.n,
                    "sample": seen.sample,
                    "note": seen.note,
                }
            )
    return pd.DataFrame(found)


def risk_coverage_table(truth, probabilities, *, groups, steps=20, resamples=1000, seed=0):
    """DataFrame, per share of patches kept (surest first): threshold, error and off-by-two rate of the kept, intervals."""
    sure, chosen = np.max(probabilities, axis=1), np.argmax(probabilities, axis=1)
    away, found = np.abs(chosen - np.asarray(truth)), []
    for threshold in np.unique(
        np.quantile(sure, np.linspace(0, 1, steps, endpoint=False), method="lower")
    )[::-1]:
        kept = sure >= threshold
        row = {"threshold": threshold, "coverage": kept.mean(), "sent on": int((~kept).sum())}
        for name, wrong in (("error", away > 0), ("off_by_two", away > 1)):
            seen = bootstrap(
                _among, wrong.astype(float), kept, groups=groups, resamples=resamples, seed=seed
            )
            row |= {
                name: seen.value,
                f"{name}_low": seen.low,
                f"{name}_high": seen.high,
                "n": seen.n,
                "sample": seen.sample,
            }
        found.append(row)
    return pd.DataFrame(found)


_among = SumStatistic(
    lambda hit, kept: np.stack([hit * kept, kept], axis=1).astype(float),
    lambda s: s[..., 0] / s[..., 1],
    kind="proportion",
    size=lambda rows: rows[:, 1],
    why="no patch is left",
)


def _auroc(positive, graded, weights):
    order = np.argsort(graded, kind="stable")
    starts = np.flatnonzero(np.diff(graded[order], prepend=-np.inf))  # ties share one place
    up = np.add.reduceat(weights[:, order] * positive[order], starts, axis=1)
    down = np.add.reduceat(weights[:, order] * ~positive[order], starts, axis=1)
    return (up * (np.cumsum(down, axis=1) - down / 2)).sum(1) / (up.sum(1) * down.sum(1))
