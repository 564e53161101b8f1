"""How well scores agree: confusion, kappas, every metric of the study with its interval, paired comparisons, the human range."""

from itertools import combinations

import numpy as np
import pandas as pd
from scipy.stats import binomtest
from statsmodels.stats.multitest import multipletests

from her2lib.calibration import auroc_cut, auroc_macro, calibration_error, ranked_probability_score
from her2lib.intervals import Counted, Estimate, _index, _runs, bootstrap, resampled, summary, tails, unit_sums, units_of
from her2lib.scores import CUTS, SCORES

WEIGHTS = ("unweighted", "linear", "quadratic")
_ONE_SCORE = "both sides gave one and the same score throughout, so agreement by chance is already complete"


def confusion(truth, predicted, *, scores=len(SCORES)):
    """(4,4) int counts, rows truth, columns predicted."""
    return _pairs(truth, predicted, scores=scores).sum(0).reshape(scores, scores).astype(int)


def distance(weights, scores=len(SCORES)):
    """(q,q) disagreement of two scores, 0 on the diagonal and 1 at the far corner, under the named weighting."""
    steps = np.abs(np.subtract.outer(np.arange(scores), np.arange(scores))) / (scores - 1)
    if weights not in WEIGHTS:
        raise ValueError(f"{weights!r} is no weighting of kappa: write {', '.join(WEIGHTS)}.")
    return {"unweighted": (steps > 0).astype(float), "linear": steps, "quadratic": steps**2}[weights]


def _pairs(truth, predicted, scores=len(SCORES), **_):
    spot = np.asarray(truth) * scores + np.asarray(predicted)
    valid = (np.asarray(truth) >= 0) & (np.asarray(predicted) >= 0)  # -1 is a missing rating
    return np.eye(scores * scores)[np.where(valid, spot, 0)] * valid[:, None]


def _cohen(sums, weights, scores=len(SCORES)):
    table = sums.reshape(*sums.shape[:-1], scores, scores)
    expected = ((table.sum(-1) @ distance(weights, scores)) * table.sum(-2)).sum(-1)
    return 1 - (sums @ distance(weights, scores).ravel()) * sums.sum(-1) / expected


def _of_table(of, why="there are no patches", kind="proportion", rows=None):
    size = None if rows is None else lambda sums: sums.reshape(-1, 4, 4)[:, rows].sum((1, 2))
    return Counted(_pairs, lambda sums: of(sums.reshape(*sums.shape[:-1], 4, 4)), why=why, kind=kind, size=size)


def _recall(score):
    return _of_table(lambda t: t[..., score, score] / t[..., score, :].sum(-1), f"no patch has score {SCORES[score]}",
                     rows=slice(score, score + 1))


def _side(cut, above):
    side = slice(cut + 1, 4) if above else slice(0, cut + 1)
    return _of_table(lambda t: t[..., side, side].sum((-1, -2)) / t[..., side, :].sum((-1, -2)),
                     f"no patch lies {'above' if above else 'below'} the cut {CUTS[cut]}", rows=side)


def _balanced(table):
    support, right = table.sum(-1), np.einsum("...ii->...i", table)
    return np.nanmean(np.where(support > 0, right / support, np.nan), axis=-1)  # over the scores that occur, as scikit-learn


def _away(power):
    steps = np.abs(np.subtract.outer(np.arange(4), np.arange(4)))
    return lambda t: (t * (steps if power else steps >= 2)).sum((-1, -2)) / t.sum((-1, -2))


kappa = Counted(_pairs, _cohen, why=_ONE_SCORE, size=lambda rows: rows.sum(1))
accuracy = _of_table(lambda t: np.einsum("...ii", t) / t.sum((-1, -2)))


def _counts(ratings, scores):
    return (np.asarray(ratings)[..., None] == np.arange(scores)).sum(1).astype(float)  # (N,q) raters who gave each score


def _chance_rows(ratings, scores=len(SCORES), weights="unweighted"):
    count = _counts(ratings, scores)
    raters = count.sum(1, keepdims=True)
    near = count @ (1 - distance(weights, scores)) - 1
    agreed = (count * near).sum(1, keepdims=True) / np.maximum(raters * (raters - 1), 1)
    return np.hstack([agreed * (raters > 1), raters > 1, count / np.maximum(raters, 1), raters > 0])


def _chance_corrected(chance):
    def of(sums, scores=len(SCORES), weights="unweighted"):
        observed, share = sums[..., 0] / sums[..., 1], sums[..., 2:-1] / sums[..., -1:]
        expected = chance(share, 1 - distance(weights, scores))
        return (observed - expected) / (1 - expected)

    return of


def _several(ratings_rows):
    return ratings_rows[:, 1]


def _fleiss_chance(share, near):
    return ((share @ near) * share).sum(-1)


def _gwet_chance(share, near):
    return near.sum() / (len(near) * (len(near) - 1)) * (share * (1 - share)).sum(-1)


def _coincidences(ratings, scores=len(SCORES), **_):
    count = _counts(ratings, scores)
    pairs = count[:, :, None] * count[:, None, :] - count[:, :, None] * np.eye(scores)
    return (pairs / np.maximum(count.sum(1) - 1, 1)[:, None, None]).reshape(len(count), -1)


def _alpha(sums, scores=len(SCORES), level="ordinal"):
    table = sums.reshape(*sums.shape[:-1], scores, scores)
    used = table.sum(-1)
    place = np.cumsum(used, -1) - used / 2 if level == "ordinal" else np.broadcast_to(np.arange(scores), used.shape)
    gap = (place[..., None] - place[..., None, :]) ** 2
    gap = gap > 0 if level == "nominal" else gap
    return 1 - (used.sum(-1) - 1) * (table * gap).sum((-1, -2)) / (used[..., None] * used[..., None, :] * gap).sum((-1, -2))


_FEW = "no patch has two ratings, or all ratings are the same score"
fleiss = Counted(_chance_rows, _chance_corrected(_fleiss_chance), why=_FEW, size=_several)
gwet_ac1 = Counted(_chance_rows, _chance_corrected(_gwet_chance), why=_FEW, size=_several)
gwet_ac2 = Counted(lambda r, weights="quadratic", **o: _chance_rows(r, weights=weights, **o),
                   lambda s, weights="quadratic", **o: gwet_ac1.of(s, weights=weights, **o), why=_FEW, size=_several)
krippendorff = Counted(_coincidences, _alpha, why=_FEW, size=lambda rows: (rows.sum(1) > 0).astype(float))


SCORED = {  # metrics of (truth, predicted)
    "accuracy": accuracy,
    "balanced accuracy": _of_table(_balanced, kind="share"),
    "majority rate": _of_table(lambda t: t.sum(-1).max(-1) / t.sum((-1, -2)), kind="share"),
    **{f"concordance {score}": _recall(k) for k, score in enumerate(SCORES)},
    **{f"kappa {w}": Counted(_pairs, lambda s, w=w: _cohen(s, w), why=_ONE_SCORE) for w in WEIGHTS},
    "Gwet AC1": Counted(lambda t, p: _chance_rows(np.stack([t, p], 1)), gwet_ac1.of, why=_FEW),
    "Gwet AC2 quadratic": Counted(lambda t, p: _chance_rows(np.stack([t, p], 1), weights="quadratic"), gwet_ac2.of, why=_FEW),
    "Krippendorff alpha ordinal": Counted(lambda t, p: _coincidences(np.stack([t, p], 1)), _alpha, why=_FEW),
    "off-by-two rate": _of_table(_away(0)),
    "mean absolute error": _of_table(_away(1), kind="number"),
    **{f"sensitivity {cut}": _side(k, True) for k, cut in enumerate(CUTS)},
    **{f"specificity {cut}": _side(k, False) for k, cut in enumerate(CUTS)},
}
GRADED = {  # metrics of (truth, probabilities)
    "AUROC macro": auroc_macro,
    **{f"AUROC {cut}": auroc_cut[k] for k, cut in enumerate(CUTS)},
    "ranked probability score": ranked_probability_score,
    **{f"ECE {cut}": calibration_error[k] for k, cut in enumerate(CUTS)},
}


def metrics(truth, given, *, units, resamples=2000, seed=0):
    """DataFrame, one row per metric (metric, value, low, high, n, units, note, share); given: (N,) scores, (N,4) probabilities, or a list, one per seed."""
    truth = np.asarray(truth)
    known, runs = truth >= 0, given if isinstance(given, list) else [given]
    runs, units = [np.asarray(g)[known] for g in runs], units[known]
    chosen = [g.argmax(1) if g.ndim == 2 else g for g in runs]
    found = {name: bootstrap(m, truth[known], chosen, units=units, resamples=resamples, seed=seed) for name, m in SCORED.items()}
    if runs[0].ndim == 2:
        found |= {name: bootstrap(m, truth[known], runs, units=units, resamples=resamples, seed=seed) for name, m in GRADED.items()}
    table = pd.DataFrame([{"metric": name} | vars(estimate) for name, estimate in found.items()])
    return table
