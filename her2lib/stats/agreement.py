"""How well scores agree: every metric of the study with its interval, kappas, the human range."""

from functools import partial
from itertools import combinations

import numpy as np
import pandas as pd
from scipy.stats import spearmanr

from her2lib.scores import CUTS, SCORES
from her2lib.stats.calibration import (
    auroc_cut,
    auroc_macro,
    calibration_error,
    ranked_probability_score,
)
from her2lib.stats.intervals import (
    SumStatistic,
    bootstrap,
    estimate_from_draws,
    group_index,
    group_sums,
    interval_quantiles,
    resample_counts,
)

Q = len(SCORES)
WEIGHTS = ("unweighted", "linear", "quadratic")  # a kappa is never without one of these words
_ONE_SCORE = "both sides gave one and the same score throughout, so chance alone would agree"
_FEW = "no patch has two ratings, or all ratings are one score"


def confusion_counts(truth, predicted):
    """(4,4) int counts: rows the true score, columns the predicted; patches with a score missing (-1) are left out."""
    return pairs(truth, predicted).sum(0).reshape(Q, Q).astype(int)


def pairs(truth, predicted, scores=Q, **_):
    """(N,16) the cell of the confusion matrix that each patch falls into, as a row of zeros and a one."""
    truth, predicted = np.asarray(truth), np.asarray(predicted)
    valid = (truth >= 0) & (predicted >= 0)
    return np.eye(scores * scores)[np.where(valid, truth * scores + predicted, 0)] * valid[:, None]


def disagreement_weights(weights, scores=Q):
    """(q,q) disagreement of two scores under the named weighting, 0 on the diagonal and 1 at the far corner."""
    steps = np.abs(np.subtract.outer(np.arange(scores), np.arange(scores))) / (scores - 1)
    if weights not in WEIGHTS:
        raise ValueError(f"{weights!r} is no weighting of kappa: write {', '.join(WEIGHTS)}.")
    return {"unweighted": (steps > 0).astype(float), "linear": steps, "quadratic": steps**2}[
        weights
    ]


def cohen(sums, weights, scores=Q):
    """(...) Cohen's kappa of (...,q*q) confusion counts."""
    table = sums.reshape(*sums.shape[:-1], scores, scores)
    expected = ((table.sum(-1) @ disagreement_weights(weights, scores)) * table.sum(-2)).sum(-1)
    return 1 - (sums @ disagreement_weights(weights, scores).ravel()) * sums.sum(-1) / expected


def rating_counts(ratings, scores=Q):
    """(N,q) how many raters gave each score to each patch, of ratings (N,R; -1 missing)."""
    return (np.asarray(ratings)[..., None] == np.arange(scores)).sum(1).astype(float)


def _chance_rows(ratings, scores=Q, weights="unweighted"):
    count = rating_counts(ratings, scores)
    raters = count.sum(1, keepdims=True)
    near = count @ (1 - disagreement_weights(weights, scores)) - 1
    agreed = (count * near).sum(1, keepdims=True) / np.maximum(raters * (raters - 1), 1)
    return np.hstack([agreed * (raters > 1), raters > 1, count / np.maximum(raters, 1), raters > 0])


def _chance_corrected(sums, chance, scores, weights):
    observed, share = sums[..., 0] / sums[..., 1], sums[..., 2:-1] / sums[..., -1:]
    expected = chance(share, 1 - disagreement_weights(weights, scores))
    return (observed - expected) / (1 - expected)


def _fleiss(sums, scores=Q):
    return _chance_corrected(sums, lambda share, _: (share**2).sum(-1), scores, "unweighted")


def _gwet(sums, scores=Q, weights="unweighted"):
    return _chance_corrected(
        sums,
        lambda share, near: near.sum() / (scores * (scores - 1)) * (share * (1 - share)).sum(-1),
        scores,
        weights,
    )


def _coincidences(ratings, scores=Q, **_):
    count = rating_counts(ratings, scores)
    both = count[:, :, None] * count[:, None, :] - count[:, :, None] * np.eye(scores)
    return (both / np.maximum(count.sum(1) - 1, 1)[:, None, None]).reshape(len(count), -1)


def _alpha(sums, scores=Q, level="ordinal"):
    table = sums.reshape(*sums.shape[:-1], scores, scores)
    used = table.sum(-1)
    place = (
        np.cumsum(used, -1) - used / 2
        if level == "ordinal"
        else np.broadcast_to(np.arange(scores), used.shape)
    )
    gap = (place[..., None] - place[..., None, :]) ** 2
    gap = gap > 0 if level == "nominal" else gap
    return 1 - (used.sum(-1) - 1) * (table * gap).sum((-1, -2)) / (
        used[..., None] * used[..., None, :] * gap
    ).sum((-1, -2))


def _of_table(of, why="there are no patches", kind="proportion", rows=slice(None)):
    return SumStatistic(
        pairs,
        lambda sums: of(sums.reshape(*sums.shape[:-1], Q, Q)),
        why=why,
        kind=kind,
        size=lambda cells: cells.reshape(-1, Q, Q)[:, rows].sum((1, 2)),
    )


def _among(rows, columns, why):
    return _of_table(
        lambda t: t[..., rows, columns].sum((-1, -2)) / t[..., rows, :].sum((-1, -2)),
        why,
        rows=rows,
    )


def _balanced(table):
    support, right = table.sum(-1), np.einsum("...ii->...i", table)
    return np.nanmean(
        np.where(support > 0, right / support, np.nan), axis=-1
    )  # over the scores that occur, as scikit-learn


def _two(rows, of, **options):
    return SumStatistic(
        lambda t, p: rows(np.stack([t, p], 1), **options), lambda s: of(s, **options), why=_FEW
    )


# Statistics: call them for the value, hand them to bootstrap for the Estimate. The last four take
# ratings (N,R; -1 missing).
kappa = SumStatistic(
    pairs, cohen, why=_ONE_SCORE, size=lambda cells: cells.sum(1)
)  # kappa(a, b, weights="quadratic")
accuracy = _of_table(lambda t: np.einsum("...ii", t) / t.sum((-1, -2)))
fleiss = SumStatistic(_chance_rows, _fleiss, why=_FEW, size=lambda rows: rows[:, 1])
gwet_ac1 = SumStatistic(_chance_rows, _gwet, why=_FEW, size=lambda rows: rows[:, 1])
gwet_ac2 = SumStatistic(
    partial(_chance_rows, weights="quadratic"),
    partial(_gwet, weights="quadratic"),
    why=_FEW,
    size=lambda rows: rows[:, 1],
)
krippendorff = SumStatistic(_coincidences, _alpha, why=_FEW, size=lambda rows: rows.any(1))

_STEPS = np.abs(np.subtract.outer(np.arange(Q), np.arange(Q)))
SCORED = {  # metrics of (truth, predicted)
    "accuracy": accuracy,
    "balanced accuracy": _of_table(_balanced, kind="share"),
    "majority rate": _of_table(lambda t: t.sum(-1).max(-1) / t.sum((-1, -2)), kind="share"),
    **{
        f"recall {s}": _among(slice(k, k + 1), slice(k, k + 1), f"no patch has score {s}")
        for k, s in enumerate(SCORES)
    },
    **{
        f"kappa {w}": SumStatistic(pairs, lambda s, w=w: cohen(s, w), why=_ONE_SCORE)
        for w in WEIGHTS
    },
    "Gwet AC1": _two(_chance_rows, _gwet, weights="unweighted"),
    "Gwet AC2 quadratic": _two(_chance_rows, _gwet, weights="quadratic"),
    "Krippendorff alpha ordinal": _two(_coincidences, _alpha, level="ordinal"),
    "off-by-two rate": _of_table(lambda t: (t * (_STEPS > 1)).sum((-1, -2)) / t.sum((-1, -2))),
    "mean absolute error": _of_table(
        lambda t: (t * _STEPS).sum((-1, -2)) / t.sum((-1, -2)), kind="number"
    ),
    **{
        f"sensitivity {c}": _among(slice(k + 1, Q), slice(k + 1, Q), f"no patch lies above {c}")
        for k, c in enumerate(CUTS)
    },
    **{
        f"specificity {c}": _among(slice(k + 1), slice(k + 1), f"no patch lies below {c}")
        for k, c in enumerate(CUTS)
    },
}
GRADED = {  # metrics of (truth, probabilities)
    "AUROC macro": auroc_macro,
    **{f"AUROC {cut}": auroc_cut[k] for k, cut in enumerate(CUTS)},
    "ranked probability score": ranked_probability_score,
    **{f"ECE {cut}": calibration_error[k] for k, cut in enumerate(CUTS)},
}


def metrics(truth, scored, *, groups, resamples=2000, seed=0):
    """DataFrame, a row per metric: metric + Estimate's fields; scored: (N,) scores, (N,4) probabilities, a list by seed."""
    runs = [np.asarray(one) for one in (scored if isinstance(scored, list) else [scored])]
    known = np.asarray(truth) >= 0
    runs, truth, groups = [one[known] for one in runs], np.asarray(truth)[known], groups[known]
    wanted = {
        name: (metric, [one.argmax(1) if one.ndim == 2 else one for one in runs])
        for name, metric in SCORED.items()
    }
    wanted |= {name: (metric, runs) for name, metric in GRADED.items() if runs[0].ndim == 2}
    rows = [
        {"metric": name}
        | vars(bootstrap(metric, truth, columns, groups=groups, resamples=resamples, seed=seed))
        for name, (metric, columns) in wanted.items()
    ]
    for row in rows:
        if row["metric"].startswith("recall") and row["n"] and len(runs) == 1:
            row["note"] = "; ".join(
                filter(None, [f"{round(row['value'] * row['n'])} of {row['n']}", row["note"]])
            )
    return pd.DataFrame(rows)


def spearman(a, b):
    """float, Spearman's rank correlation of two columns; NaN when one of them is constant."""
    return float(spearmanr(a, b).statistic) if np.ptp(a) and np.ptp(b) else np.nan


spearman.why = "one side is the same for every patch"


def kappa_matrix(ratings, *, groups, weights, resamples=2000, seed=0):
    """Three (R,R) arrays: Cohen's kappa of every two raters of ratings (N,R; -1 missing) under the named weighting, low, high."""
    matrices = np.tile(np.eye(np.shape(ratings)[1]), (3, 1, 1))
    for (i, j), found in zip(
        *_pairwise(ratings, groups, weights, resamples, seed)[:2], strict=True
    ):
        matrices[:, i, j] = matrices[:, j, i] = found.value, found.low, found.high
    return tuple(matrices)


def kappa_table(ratings, names, *, groups, weights, resamples=2000, seed=0):
    """DataFrame, a row per two raters: a, b, metric + Estimate's fields; the note says why where a kappa is not estimable."""
    if len(names) < 2:
        raise ValueError(
            f"Agreement needs two raters: {', '.join(names) or 'none'} is all there is."
        )
    couples, found, *_ = _pairwise(ratings, groups, weights, resamples, seed)
    return pd.DataFrame(
        [
            {"a": names[i], "b": names[j], "metric": f"kappa {weights}"} | vars(estimate)
            for (i, j), estimate in zip(couples, found, strict=True)
        ]
    )


def human_range(ratings, names, *, networks, groups, weights="quadratic", resamples=2000, seed=0):
    """DataFrame, per network: mean kappa with the raters, the raters' own range, distance from it, verdict and a sentence."""
    couples, found, draws, sizes = _pairwise(ratings, groups, weights, resamples, seed)
    among = [
        {names[i], names[j]} & set(networks) for i, j in couples
    ]  # the networks in every couple
    usable = [p for p, estimate in enumerate(found) if not np.isnan(estimate.value)]
    human, rows = [p for p in usable if not among[p]], []
    for network in networks:
        own = [p for p in usable if among[p] == {network}]
        if not own or not human:
            lack = (
                f"{network} has no kappa with any rater"
                if not own
                else "no two raters have a kappa with each other"
            )
            rows.append(
                {
                    "network": network,
                    "verdict": "undecided",
                    "sentence": f"No human range for {network}: {lack}.",
                }
            )
            continue
        values = np.array([found[p].value for p in human])
        mean, worst, best = np.mean([found[p].value for p in own]), values.min(), values.max()
        cuts, drawn = interval_quantiles(sizes[:, own].sum(1)), draws[:, own].mean(1)
        low, high = np.nanquantile(drawn, cuts)
        near, far = np.nanquantile(drawn - draws[:, human[values.argmin()]], cuts)
        verdict = (
            "above"
            if mean > best
            else "within"
            if mean >= worst
            else "below"
            if far < 0
            else "undecided"
        )
        spoken = {"undecided": "not clearly below the human range"}.get(
            verdict, f"{verdict} the human range"
        )
        estimate = found[own[0]]
        rows.append(
            {
                "network": network,
                "value": mean,
                "low": low,
                "high": high,
                "n": estimate.n,
                "sample": estimate.sample,
                "lowest": worst,
                "highest": best,
                "distance": mean - worst,
                "distance_low": near,
                "distance_high": far,
                "verdict": verdict,
                "sentence": f"{network} agrees with the {len(own)} raters at a mean {weights} kappa of {mean:.2f} "
                f"({low:.2f} to {high:.2f}; n = {estimate.n} {estimate.sample}), "
                f"the raters with each other at {worst:.2f} to {best:.2f}: {spoken}, "
                f"{mean - worst:+.2f} ({near:+.2f} to {far:+.2f}) from its lower end.",
            }
        )
    return pd.DataFrame(rows)


def _pairwise(ratings, groups, weights, resamples, seed):
    ratings, (index, word, groups) = np.asarray(ratings), group_index(groups)
    couples = list(combinations(range(ratings.shape[1]), 2))
    if not couples:
        return couples, [], np.empty((resamples, 0)), np.empty((groups, 0))
    sums = np.stack(
        [group_sums(pairs(ratings[:, i], ratings[:, j]), index) for i, j in couples], axis=1
    )  # (G,couples,16)
    sizes = sums.sum(2)
    with np.errstate(all="ignore"):
        drawn = resample_counts(groups, resamples, seed) @ sums.reshape(
            groups, len(couples) * Q * Q
        )
        values, draws = (
            cohen(sums.sum(0), weights),
            cohen(drawn.reshape(resamples, len(couples), -1), weights),
        )
    why = [_ONE_SCORE if rated.any() else "no patch has both ratings" for rated in sizes.T]
    found = [
        estimate_from_draws(values[p], draws[:, p], sizes[:, p], word, why=why[p])
        for p in range(len(couples))
    ]
    return couples, found, draws, sizes
